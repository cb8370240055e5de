"""Dense parity with transformers' own decoders, from copied weights."""

from typing import Any

import pytest
import torch
from tiny import TEXT, randomise
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from unimoe import UniMoEForCausalLM, UniMoETextConfig

ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def reference(kind: str) -> tuple[PreTrainedModel, dict[str, Any]]:
    torch.manual_seed(0)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**TEXT, rope_parameters=dict(ROPE))), {}
    if kind == "llama-bias":
        bias = {"attention_bias": True, "mlp_bias": True}
        return LlamaForCausalLM(LlamaConfig(**TEXT, **bias, rope_parameters=dict(ROPE))), bias
    if kind == "llama3-rope":
        rope = {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
        return LlamaForCausalLM(LlamaConfig(**TEXT, rope_parameters=dict(rope))), {"rope_parameters": rope}
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**TEXT, rope_parameters=dict(ROPE))), {"qkv_bias": True}
    return Qwen3ForCausalLM(Qwen3Config(**TEXT, head_dim=16, rope_parameters=dict(ROPE))), {
        "qk_norm": "head",
        "head_dim": 16,
    }


@pytest.mark.parametrize("kind", ["llama", "llama-bias", "llama3-rope", "qwen2", "qwen3"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-7)])
def test_dense_decoder_equals_transformers(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    theirs, options = reference(kind)
    randomise(theirs)
    ours = UniMoEForCausalLM(UniMoETextConfig(**{**TEXT, "rope_parameters": dict(ROPE), **options}))
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing and not unexpected
    theirs, ours = theirs.to(dtype).eval(), ours.to(dtype).eval()
    ids = torch.randint(3, 64, (2, 24))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask).logits[mask.bool()]
        actual = ours(ids, attention_mask=mask).logits[mask.bool()]
    assert (expected - actual).abs().max() <= tolerance * expected.abs().max()


def test_all_experts_active_equal_the_dense_weighted_sum() -> None:
    torch.manual_seed(0)
    config = UniMoETextConfig(**TEXT, num_experts=3, num_experts_per_tok=3)
    block = UniMoEForCausalLM(config).eval().model.layers[0].mlp
    hidden = torch.randn(1, 7, 32)
    probabilities = torch.nn.functional.linear(hidden, block.router.weight).softmax(-1)
    expected = torch.zeros_like(hidden)
    for expert in range(3):
        gate, up = torch.nn.functional.linear(hidden, block.experts.gate_up_proj[expert]).chunk(2, -1)
        output = torch.nn.functional.linear(torch.nn.functional.silu(gate) * up, block.experts.down_proj[expert])
        expected = expected + probabilities[..., expert : expert + 1] * output
    torch.testing.assert_close(block(hidden, torch.zeros(1, 7, dtype=torch.long)), expected, atol=1e-6, rtol=1e-4)


def test_only_the_named_layers_are_sparse() -> None:
    model = UniMoEForCausalLM(UniMoETextConfig(**TEXT, num_experts=2, moe_layers=[1]))
    assert [layer.is_sparse for layer in model.model.layers] == [False, True]


def test_four_accumulated_rows_have_the_loss_of_one_batch() -> None:
    model = UniMoEForCausalLM(UniMoETextConfig(**TEXT)).eval()
    ids = torch.randint(3, 64, (4, 9))
    labels = ids.clone()
    labels[0, :6] = -100
    items = (labels[:, 1:] != -100).sum()
    whole = model(ids, labels=labels, num_items_in_batch=items).loss
    parts = [model(ids[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=items).loss for i in range(len(ids))]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)
    torch.testing.assert_close(model(ids, labels=labels).loss, whole)
