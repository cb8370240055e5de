"""Checkpoints of transformers' mixture-of-experts families load with equal logits; routers and blocks agree."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TEXT, randomise
from tiny_processor import byte_tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DeepseekV3Config, Ernie4_5_VLMoeConfig, PreTrainedModel
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.ernie4_5_vl_moe.modeling_ernie4_5_vl_moe import Ernie4_5_VLMoeMoeBlock
from typer.testing import CliRunner

from unimoe import UniMoEForCausalLM, UniMoETextConfig
from unimoe.build import build_language_model, build_model
from unimoe.build.language_models import convert_language_model
from unimoe.checkpoint.loading import load_model
from unimoe.cli import app
from unimoe.moe import GatedMLP, RoutingContext, SparseMoeBlock
from unimoe.moe.experts import GroupedExperts

TOKENS = len(byte_tokenizer(placeholders=False))
QWEN2_MOE = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
}
QWEN3_MOE = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "head_dim": 16}
OLMOE = {"num_experts": 8, "num_experts_per_tok": 3}
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4},
    "qwen2_moe": {"model_type": "qwen2_moe", **QWEN2_MOE},
    "qwen2_moe-renormalised": {"model_type": "qwen2_moe", **QWEN2_MOE, "norm_topk_prob": True},
    "qwen2_moe-every-second-layer": {"model_type": "qwen2_moe", **QWEN2_MOE, "decoder_sparse_step": 2},
    "qwen2_moe-first-layer-dense": {"model_type": "qwen2_moe", **QWEN2_MOE, "mlp_only_layers": [0]},
    "qwen3_moe": {"model_type": "qwen3_moe", **QWEN3_MOE},
    "qwen3_moe-renormalised": {"model_type": "qwen3_moe", **QWEN3_MOE, "norm_topk_prob": True},
    "olmoe": {"model_type": "olmoe", **OLMOE},
    "olmoe-clipped": {"model_type": "olmoe", **OLMOE, "clip_qkv": 0.3},
    "qwen2-dense": {"model_type": "qwen2"},
}


def reference(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**TEXT, "vocab_size": TOKENS, "num_hidden_layers": 3, **FAMILIES[family]})
    model = AutoModelForCausalLM.from_config(config).eval()
    randomise(model)
    return model


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one family, with a tokenizer."""
    path = tmp_path_factory.mktemp("checkpoint") / request.param
    reference(request.param).save_pretrained(path)
    byte_tokenizer(placeholders=False).save_pretrained(path)
    return path


def padded_batch() -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, TOKENS, (3, 24), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    return ids, mask


@torch.no_grad()
def difference(theirs: PreTrainedModel, ours: PreTrainedModel) -> float:
    """Largest difference of logits, relative to the largest logit."""
    ids, mask = padded_batch()
    expected = theirs(ids, attention_mask=mask).logits[mask.bool()]
    actual = ours(ids, attention_mask=mask).logits[mask.bool()]
    return float((actual - expected).abs().max() / expected.abs().max())


def pair(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, UniMoEForCausalLM]:
    models = (AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval(), build_language_model(folder, dtype))
    if dtype == torch.float64 and models[1].config.num_experts:  # grouped_mm knows no float64
        for model in models:
            model.set_experts_implementation("eager")
    return models


def test_logits_equal_those_of_transformers(folder: Path) -> None:
    theirs, ours = pair(folder, torch.float32)
    assert difference(theirs, ours) <= 1e-5
    sparse = [hasattr(layer.mlp, "experts") for layer in theirs.model.layers]
    assert [layer.is_sparse for layer in ours.model.layers] == sparse


def test_in_float64_only_the_float32_softmax_of_transformers_routers_differs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = pair(folder, torch.float64)
    assert difference(theirs, ours) <= 5e-7
    softmax, to_float = torch.nn.functional.softmax, torch.Tensor.float

    def precise_softmax(scores: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        return softmax(scores, dim=dim, dtype=None if scores.dtype == torch.float64 else dtype)

    monkeypatch.setattr(torch.nn.functional, "softmax", precise_softmax)
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self if self.dtype == torch.float64 else to_float(self))
    assert difference(theirs, ours) <= 1e-7


def test_greedy_generation_with_padding_is_that_of_transformers(folder: Path) -> None:
    theirs, ours = pair(folder, torch.float32)
    ids, mask = padded_batch()
    expected, actual = (
        model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False) for model in (theirs, ours)
    )
    assert torch.equal(actual, expected)


def test_a_multimodal_model_built_on_it_answers_text_as_it_did(folder: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    ours, _ = build_model(folder)
    ids, mask = padded_batch()
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask).logits[mask.bool()]
        actual = ours(ids, attention_mask=mask).logits[mask.bool()][..., :TOKENS]
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_command_builds_a_sparse_model_that_loads(tmp_path: Path) -> None:
    theirs = reference("qwen2_moe")
    theirs.save_pretrained(tmp_path / "language")
    byte_tokenizer(placeholders=False).save_pretrained(tmp_path / "language")
    arguments = ["build", "--language", str(tmp_path / "language"), "--out", str(tmp_path / "model")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    model = load_model(tmp_path / "model")
    router = theirs.model.layers[0].mlp.gate.weight
    assert torch.equal(model.model.language_model.layers[0].mlp.router.weight, router)


def test_it_is_saved_and_loaded_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    ours = build_language_model(folder)
    ours.save_pretrained(tmp_path)
    loaded = UniMoEForCausalLM.from_pretrained(tmp_path).eval()
    assert difference(ours, loaded) == 0


def test_weights_are_shared_but_for_routers_which_become_float32() -> None:
    theirs = reference("qwen3_moe").to(torch.bfloat16)
    ours = convert_language_model(theirs).model.layers[0].mlp
    gate = theirs.model.layers[0].mlp
    assert ours.experts.gate_up_proj.data_ptr() == gate.experts.gate_up_proj.data_ptr()
    assert ours.router.weight.dtype == torch.float32 and torch.equal(ours.router.weight, gate.gate.weight.float())


def test_a_weight_without_a_place_is_refused() -> None:
    theirs = reference("mixtral")
    theirs.model.layers[1].mlp.register_parameter("offset", torch.nn.Parameter(torch.zeros(3)))
    with pytest.raises(ValueError, match=r"not those of a 'mixtral' model: model\.layers\.1\.mlp\.offset"):
        convert_language_model(theirs)


@pytest.mark.parametrize(
    "window",
    [
        {"model_type": "mistral", "sliding_window": 8},
        {"model_type": "mixtral", "num_local_experts": 4, "sliding_window": 8},
        {"model_type": "qwen2_moe", **QWEN2_MOE, "use_sliding_window": True, "sliding_window": 8},
        {"model_type": "qwen3_moe", **QWEN3_MOE, "use_sliding_window": True, "sliding_window": 8},
    ],
    ids=lambda fields: fields["model_type"],
)
def test_sliding_window_attention_is_refused_by_name(window: dict[str, Any]) -> None:
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**TEXT, **window))
    with pytest.raises(ValueError, match="sliding-window attention cannot be used"):
        convert_language_model(theirs)


def moe_config(**fields: Any) -> UniMoETextConfig:
    return UniMoETextConfig(**{**TEXT, "num_attention_heads": 4, **fields})


def copy_experts(source: Any, target: Any) -> None:
    target.gate_up_proj.copy_(source.gate_up_proj)
    target.down_proj.copy_(source.down_proj)


def copy_mlp(source: Any, target: GatedMLP | None) -> None:
    assert target is not None
    target.load_state_dict(source.state_dict())


def draw(module: torch.nn.Module, generator: torch.Generator) -> None:
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def by_expert(index: Tensor, weights: Tensor, num_experts: int) -> Tensor:
    """Weight of every expert, (T, E), for weights (T, K) of experts (T, K)."""
    return torch.zeros(len(index), num_experts).scatter_(1, index, weights)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("norm_topk_prob", [True, False])
@torch.no_grad()
def test_deepseek_v3_router_and_block_are_ours(seed: int, norm_topk_prob: bool) -> None:
    config = DeepseekV3Config(
        hidden_size=32,
        moe_intermediate_size=16,
        n_routed_experts=32,
        num_experts_per_tok=6,
        n_group=8,
        topk_group=4,
        routed_scaling_factor=2.5,
        norm_topk_prob=norm_topk_prob,
        n_shared_experts=2,
    )
    theirs = DeepseekV3MoE(config)
    ours = SparseMoeBlock(
        moe_config(
            num_experts=32,
            num_experts_per_tok=6,
            moe_intermediate_size=16,
            num_shared_experts=2,
            shared_expert_intermediate_size=16,
            scoring_func="sigmoid",
            balance_bias=True,
            n_group=8,
            topk_group=4,
            routed_scaling_factor=2.5,
            norm_topk_prob=norm_topk_prob,
        )
    )
    generator = torch.Generator().manual_seed(seed)
    draw(theirs, generator)
    bias = theirs.gate.e_score_correction_bias.copy_(torch.randn(32, generator=generator) * 0.1)
    ours.router.weight.copy_(theirs.gate.weight)
    ours.router.balance_bias.copy_(bias[None])
    copy_experts(theirs.experts, ours.experts)
    copy_mlp(theirs.shared_experts, ours.shared_expert)
    hidden = torch.randn(4, 50, 32, generator=generator)
    context = RoutingContext(torch.zeros(200, dtype=torch.long))
    logits, weights, index = theirs.gate(hidden)
    routing = ours.router(hidden.view(200, 32), context)
    assert torch.equal(routing.top_k_index.sort(dim=-1).values, index.sort(dim=-1).values)
    assert not torch.equal(index.sort(dim=-1).values, logits.topk(6).indices.sort(dim=-1).values), "no group, no bias"
    actual = by_expert(routing.top_k_index, routing.top_k_weights, 32)
    assert (actual - by_expert(index, weights, 32)).abs().max() <= 1e-6
    expected = theirs(hidden)
    assert (ours(hidden, context) - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_ernie_vl_block_is_our_isolated_block_with_small_vision_experts(seed: int) -> None:
    config = Ernie4_5_VLMoeConfig(
        text_config={
            "hidden_size": 32,
            "moe_intermediate_size": [24, 8],
            "moe_k": 3,
            "moe_num_experts": 8,
            "moe_num_shared_experts": 2,
        }
    ).text_config
    theirs = Ernie4_5_VLMoeMoeBlock(config)
    ours = SparseMoeBlock(
        moe_config(
            num_experts=16,
            num_experts_per_tok=3,
            moe_intermediate_size=24,
            num_shared_experts=2,
            shared_expert_intermediate_size=24,
            balance_bias=True,
            modality_routing="isolated",
            expert_groups={"text": list(range(8)), "image": list(range(8, 16))},
            expert_group_intermediate_sizes={"image": 8},
        )
    )
    generator = torch.Generator().manual_seed(seed)
    draw(theirs, generator)
    parts = {0: theirs.text_moe, 1: theirs.vision_moe}  # first expert // 8 -> part
    ours.router.weight.copy_(torch.cat([part.gate.weight for part in parts.values()]))
    ours.router.balance_bias.copy_(
        torch.cat([part.gate.moe_statics.e_score_correction_bias for part in parts.values()], dim=-1)
    )
    assert isinstance(ours.experts, GroupedExperts)
    for members, group in zip(ours.experts.members, ours.experts.banks, strict=True):
        copy_experts(parts[members[0] // 8].experts, group)
    copy_mlp(theirs.shared_experts, ours.shared_expert)
    hidden = torch.randn(2, 40, 32, generator=generator)
    kinds = torch.randint(0, 3, (2, 40), generator=generator)  # text, image, video
    expected, _ = theirs(hidden, kinds)
    actual = ours(hidden, RoutingContext(kinds.view(-1)))
    assert (actual - expected).abs().max() <= 1e-6 * expected.abs().max()
    text_only, _ = theirs(hidden)
    actual = ours(hidden, RoutingContext(torch.zeros(80, dtype=torch.long)))
    assert (actual - text_only).abs().max() <= 1e-6 * text_only.abs().max()
