"""Tiny mixtures of this package and of transformers, with random weights, computed by `eager`."""

from typing import Any

import torch
from tiny import TEXT
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from unimoe import UniMoETextConfig

OURS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "lora": {"expert_type": "lora", "expert_rank": 4},
    "latent": {"expert_type": "latent", "expert_latent_size": 16, "expert_latent_groups": 2},
    "two widths": {
        "modality_routing": "isolated",
        "expert_groups": {"text": [0, 2], "image": [1, 3]},
        "expert_group_intermediate_sizes": {"image": 16},
    },
}
STOCK: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "qwen3_vl_moe": {"num_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2, "head_dim": 8},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
}
VISION = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32}
KINDS = (*OURS, *STOCK)


def make(kind: str) -> PreTrainedModel:
    if kind in OURS:
        config: Any = UniMoETextConfig(**TEXT, num_experts=4, moe_intermediate_size=24, **OURS[kind])
    elif kind == "qwen3_vl_moe":
        config = AutoConfig.for_model(kind, text_config={**TEXT, **STOCK[kind]}, vision_config=VISION)
    else:
        config = AutoConfig.for_model(kind, **TEXT, **STOCK[kind])
    torch.manual_seed(0)
    auto_class = AutoModelForImageTextToText if kind == "qwen3_vl_moe" else AutoModelForCausalLM
    model = auto_class.from_config(config, experts_implementation="eager").eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model
