"""What routing did, counted: tokens per layer, modality and expert."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..modality import Modality


def count_routing(expert_mask: Sequence[Tensor], modality_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Count how many real tokens of each modality chose each expert in each layer.

    Args:
        expert_mask: For each sparse layer, which targets each token chose, (T, E); null experts are the last columns.
        modality_ids: `Modality` of each token, (B, S) with B*S = T.
        attention_mask: 1 for real tokens, (B, S). None: all tokens count.

    Returns:
        Assignments (layers, modalities, E), int64. A row sums to K times the tokens of that modality.
    """
    groups = F.one_hot(modality_ids.reshape(-1), len(Modality))  # (T, M)
    if attention_mask is not None:
        groups = groups * attention_mask.reshape(-1, 1)
    # float64: exact up to 2**53 tokens, and matrix products of integers do not run on GPUs.
    counts = [groups.T.double() @ mask.double() for mask in expert_mask]
    return torch.stack(counts).round().long()
