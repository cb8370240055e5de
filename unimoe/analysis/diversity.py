"""How different the experts of a layer are: similarity of outputs or of other features, evenness of use.

Outputs are those of every expert on the same probe tokens, unweighted, as `experts.expert_output` gives them.
E experts, T probe tokens, D hidden size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def pairwise_cosine(expert_outputs: Tensor) -> Tensor:
    """Compare the directions of experts' answers: mean over tokens of the cosine of each two experts' outputs.

    Args:
        expert_outputs: (E, T, D).

    Returns:
        (E, E), from -1 to 1; 1 for copies. An expert whose outputs are all 0 has 0, with itself too.
    """
    directions = F.normalize(expert_outputs.float(), dim=-1)
    return torch.einsum("itd,jtd->ij", directions, directions) / expert_outputs.shape[1]


def linear_cka(expert_outputs: Tensor) -> Tensor:
    """Compare experts up to rotation and scale: linear centred kernel alignment of each two experts' outputs.

    Kornblith et al. 2019, section 3 (https://arxiv.org/abs/1905.00414). Through the T x T kernels of the tokens, so
    that memory grows as E * T^2: some hundred probe tokens are enough. With fewer tokens than D even unrelated outputs
    score high.

    Args:
        expert_outputs: (E, T, D).

    Returns:
        (E, E), from 0 to 1; 1 for copies. An expert whose outputs are constant has 0, with itself too.
    """
    outputs = expert_outputs.float()
    centred = outputs - outputs.mean(dim=1, keepdim=True)
    kernels = (centred @ centred.transpose(-2, -1)).flatten(1)  # (E, T*T)
    directions = F.normalize(kernels, dim=-1)
    return directions @ directions.T


def cosine_similarity(features: Tensor) -> Tensor:
    """Compare experts by one row of features each.

    Args:
        features: (..., E, F): the rows of a router say what experts are chosen for, their router logits on some tokens
            too; their mean outputs (HC-SMoE, arXiv 2410.08589) or flattened weights say what they compute.

    Returns:
        (..., E, E), from -1 to 1; 1 for equal directions. An expert whose features are all 0 has 0, with itself too.
    """
    directions = F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
    return directions @ directions.transpose(-2, -1)


def effective_experts(load: Tensor) -> Tensor:
    """Count the experts in use: exponential of the entropy of the load fractions.

    Args:
        load: Counts or fractions, as `count_routing` gives them, (..., E).

    Returns:
        (...), from 1 (all on one expert) to E (all used evenly); 0 where nothing was counted.
    """
    load = load.double()
    total = load.sum(dim=-1, keepdim=True)
    entropy = torch.special.entr(load / total.clamp(min=torch.finfo(load.dtype).tiny)).sum(dim=-1)
    return torch.where(total.squeeze(-1) > 0, entropy.exp(), 0.0)


__all__ = ["cosine_similarity", "effective_experts", "linear_cka", "pairwise_cosine"]
