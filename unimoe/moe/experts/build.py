"""The families of experts by name, and their weights before training."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ...configuration_unimoe import UniMoETextConfig
from .groups import GroupedExperts
from .latent import LatentExperts
from .lora import LoRAExperts
from .mlp import Experts, stacked_experts

AnyExperts = Experts | GroupedExperts | LoRAExperts | LatentExperts

EXPERTS: dict[str, Callable[[UniMoETextConfig], AnyExperts]] = {"lora": LoRAExperts, "latent": LatentExperts}


def build_experts(config: UniMoETextConfig, num_experts: int | None = None, *, may_skip: bool = True) -> AnyExperts:
    """Make the experts of a layer as `config` describes; see `stacked_experts` for `num_experts` and `may_skip`."""
    if len(set(config.expert_widths())) > 1:
        return GroupedExperts(config)
    if config.expert_type == "mlp":
        return stacked_experts(config, num_experts, may_skip=may_skip)
    return EXPERTS[config.expert_type](config)


def outputs_of_choices(experts: AnyExperts, hidden_states: Tensor, top_k_index: Tensor) -> Tensor:
    """Ask each chosen one of `experts`, unweighed, (T, K, D): for `hidden_states` (T, D) and `top_k_index` (T, K).

    An answer is 0 where the index is E.
    """
    one = hidden_states.new_ones(len(hidden_states), 1)
    return torch.stack([experts(hidden_states, index[:, None], one) for index in top_k_index.T], dim=1)


def init_experts(experts: nn.Module, std: float) -> None:
    """Draw the weights of experts from N(0, std); those of LoRA experts as peft does, to change nothing at first."""
    for name, parameter in experts.named_parameters(recurse=False):
        if not isinstance(experts, LoRAExperts):
            init.normal_(parameter, mean=0.0, std=std)
        elif name.endswith("_b"):
            init.zeros_(parameter)
        else:  # `init.kaiming_uniform_(a=sqrt(5))` of each matrix; a slice would not tell `init` that it was loaded
            bound = 1 / math.sqrt(parameter.shape[-1])
            init.uniform_(parameter, -bound, bound)
    if isinstance(experts, GroupedExperts):
        init.copy_(experts.local_index, experts.find_local_index())


__all__ = ["AnyExperts", "build_experts", "init_experts", "outputs_of_choices"]
