"""Our sparse layer against those of transformers, with the same weights."""

from typing import Any

import pytest
import torch
from moe.router_checks import D, E, make_config, randomise
from torch import Tensor, nn
from transformers import DeepseekV3Config, MixtralConfig, Qwen2MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.ernie4_5_vl_moe.configuration_ernie4_5_vl_moe import Ernie4_5_VLMoeTextConfig
from transformers.models.ernie4_5_vl_moe.modeling_ernie4_5_vl_moe import Ernie4_5_VLMoeMoeBlock
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

from unimoe.moe import RoutingContext, SparseMoeBlock

WIDTH, SHARED = 12, 20

OURS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_experts_per_tok": 3},
    "qwen2": {
        "num_experts_per_tok": 3,
        "norm_topk_prob": False,
        "shared_expert_intermediate_size": SHARED,
        "shared_expert_weighting": "sigmoid",
    },
    "deepseek": {
        "num_experts_per_tok": 3,
        "scoring_func": "sigmoid",
        "balance_bias": True,
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 2.5,
        "num_shared_experts": 2,
        "shared_expert_intermediate_size": WIDTH,
    },
    "ernie": {
        "num_experts_per_tok": 2,
        "balance_bias": True,
        "mode": "isolated",
        "expert_groups": {"text": [0, 1, 2, 3], "image": [4, 5, 6, 7]},
        "expert_group_intermediate_sizes": {"image": 8},
        "num_shared_experts": 2,
        "shared_expert_intermediate_size": WIDTH,
    },
}


def theirs(name: str) -> nn.Module:
    """transformers' layer."""
    common: dict[str, Any] = {"hidden_size": D, "moe_intermediate_size": WIDTH}
    if name == "mixtral":
        mixtral = MixtralConfig(hidden_size=D, intermediate_size=WIDTH, num_local_experts=E, num_experts_per_tok=3)
        return MixtralSparseMoeBlock(mixtral)
    if name == "qwen2":
        qwen = {"num_experts": E, "num_experts_per_tok": 3, "shared_expert_intermediate_size": SHARED}
        return Qwen2MoeSparseMoeBlock(Qwen2MoeConfig(**common, **qwen, norm_topk_prob=False))
    if name == "deepseek":
        groups = {"n_routed_experts": E, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2}
        return DeepseekV3MoE(DeepseekV3Config(**common, **groups, n_shared_experts=2, routed_scaling_factor=2.5))
    return Ernie4_5_VLMoeMoeBlock(
        Ernie4_5_VLMoeTextConfig(
            hidden_size=D,
            moe_intermediate_size=[WIDTH, 8],
            moe_num_experts=E // 2,
            moe_k=2,
            moe_num_shared_experts=2,
        )
    )


@torch.no_grad()
def copy_of_ours(name: str, ours: SparseMoeBlock) -> nn.Module:
    """transformers' layer with our weights."""
    block = theirs(name).eval()
    router, experts = ours.router, ours.experts
    state: dict[str, Tensor] = {}
    if name == "ernie":
        small, large = experts.banks  # by width
        for half, (part, bank) in enumerate((("text_moe", large), ("vision_moe", small))):
            rows = slice(half * E // 2, (half + 1) * E // 2)
            state[f"{part}.gate.weight"] = router.weight[rows]
            state[f"{part}.gate.moe_statics.e_score_correction_bias"] = router.balance_bias[half, rows][None]
            state.update({f"{part}.experts.{key}": value for key, value in bank.state_dict().items()})
    else:
        state["gate.weight"] = router.weight
        state.update({f"experts.{key}": value for key, value in experts.state_dict().items()})
    if name == "deepseek":
        state["gate.e_score_correction_bias"] = router.balance_bias[0]
    if ours.shared_expert is not None:
        shared = "shared_expert" if name == "qwen2" else "shared_experts"
        state.update({f"{shared}.{key}": value for key, value in ours.shared_expert.state_dict().items()})
    if ours.shared_expert_gate is not None:
        state["shared_expert_gate.weight"] = ours.shared_expert_gate.weight
    block.load_state_dict(state)
    return block


@pytest.mark.parametrize("name", OURS)
def test_layer_equals_that_of_transformers(name: str) -> None:
    ours = randomise(SparseMoeBlock(make_config(**OURS[name])))
    block = copy_of_ours(name, ours)
    hidden = torch.randn(2, 20, D)
    modality_ids = torch.arange(20).expand(2, -1) % 2 if name == "ernie" else torch.zeros(2, 20, dtype=torch.long)
    with torch.no_grad():
        expected = block(hidden, modality_ids) if name == "ernie" else block(hidden)
        expected = expected[0] if isinstance(expected, tuple) else expected
        actual = ours(hidden, RoutingContext(modality_ids.flatten()))
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)
