"""Skipping: nothing at 0, more with larger thresholds, and what a token-by-token reference says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from stock import KINDS, make
from surgery.rows import token_batches, write_rows
from tiny_model import save_tiny
from torch import Tensor
from typer.testing import CliRunner

from unimoe import Modality
from unimoe.cli import app
from unimoe.errors import UniMoEError
from unimoe.surgery.mixture import sparse_layers
from unimoe.surgery.skip import skip_experts

KERNELS = ("eager", "grouped_mm", "batched_mm")
BY_MODALITY = {"text": 0.85, "image": 0.95, "audio": 0.8}
TAU = torch.tensor([0.85, 0.95, 0.95, 0.8, 0.0])  # video as images, speech not at all


def with_media(kind: str) -> dict[str, Any]:
    """Tokens of all modalities, where a model is told of them."""
    inputs = token_batches(modalities=True)[1].inputs
    if kind in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss"):
        del inputs["mm_token_type_ids"]
    return inputs


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_thresholds_of_0_change_nothing_bit_for_bit(kind: str, kernel: str) -> None:
    model, inputs = make(kind), with_media(kind)
    model.set_experts_implementation(kernel)
    before = model(**inputs).logits
    for rest in ("as_is", "renormalised"):
        with skip_experts(model, {"text": 0}, rest=rest) as skipped:
            assert torch.equal(model(**inputs).logits, before)
        assert all(not counts[1].any() and counts[0].any() for counts in skipped.counts.values())


def reference(experts: Any, given: tuple[Tensor, Tensor, Tensor], kinds: Tensor, renormalise: bool) -> Tensor:
    """Ask the experts of each token one by one."""
    output = torch.zeros_like(given[0])
    for token, (state, index, weights) in enumerate(zip(*given, strict=True)):
        chosen = [(e, float(w)) for e, w in zip(index.tolist(), weights, strict=True) if e < experts.num_experts]
        least = float(TAU[kinds[token]]) * max(weight for _, weight in chosen)
        kept = [(expert, weight) for expert, weight in chosen if weight >= least]
        scale = sum(w for _, w in chosen) / sum(w for _, w in kept) if renormalise else 1.0
        for expert, weight in kept:
            answer = experts.forward(state[None], torch.tensor([[expert]]), torch.ones(1, 1))
            output[token] += weight * scale * answer[0]
    return output


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_left_is_that_of_a_token_by_token_reference(kind: str, kernel: str) -> None:
    model, inputs = make(kind), with_media(kind)
    model.set_experts_implementation(kernel)
    layer, seen = sparse_layers(model)[0], []
    handles = [
        layer.experts.register_forward_pre_hook(lambda module, given: seen.append(given)),
        layer.experts.register_forward_hook(lambda module, given, output: seen.append(output)),
    ]
    kinds = inputs.get("mm_token_type_ids", torch.zeros_like(inputs["input_ids"])).flatten()
    for rest in ("as_is", "renormalised"):
        del [torch.full((30, size), float("nan")) for size in (24, 32, 48, 96)][:]  # what kernels do not write is seen
        with skip_experts(model, BY_MODALITY, rest=rest) as skipped:
            model(**inputs)
        assert skipped.counts[0][1].any()
    for handle in handles:
        handle.remove()
    model.set_experts_implementation("eager")
    for start, renormalise in ((0, False), (2, True)):
        expected = reference(layer.experts, seen[start], kinds, renormalise)
        torch.testing.assert_close(seen[start + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "kernel"), [("mlp", "eager"), ("mlp", "grouped_mm"), ("qwen3_moe", "grouped_mm")])
@torch.no_grad()
def test_no_expert_is_asked_for_what_is_skipped(kind: str, kernel: str) -> None:
    model, seen = make(kind), []
    model.set_experts_implementation(kernel)
    experts = sparse_layers(model)[0].experts
    with skip_experts(model, {"text": 1.0}):
        handle = experts.register_forward_pre_hook(lambda module, given: seen.append(given))
        model(torch.arange(3, 11)[None])
        handle.remove()
    _, index, weights = seen[0]
    assert torch.equal(index == experts.num_experts, weights == 0) and int((weights == 0).sum()) == len(weights)


@torch.no_grad()
def test_fewer_experts_are_left_with_each_larger_threshold_and_one_in_the_end() -> None:
    model, dropped = make("mlp"), []
    for tau in (0.0, 0.3, 0.6, 0.9, 1.0):
        with skip_experts(model, {"text": tau}) as skipped:
            model(torch.arange(3, 60)[None])
        dropped.append(int(skipped.counts[0][1, Modality.TEXT]))
    assert dropped == sorted(dropped) and dropped[0] == 0 < dropped[2] < dropped[-1] == 57


@torch.no_grad()
def test_it_counts_by_layer_and_modality_without_padding() -> None:
    model, batch = make("mlp"), token_batches(modalities=True)[1]
    with skip_experts(model, {"image": 1.0}) as skipped:
        model(**batch.inputs)
    real = batch.modality_ids[batch.attention_mask].bincount(minlength=5)
    assert torch.equal(skipped.counts[1], torch.stack([2 * real, real * torch.tensor([0, 1, 1, 0, 0])]))
    assert skipped.losses["all"]["video"] == skipped.losses[0]["video"] == {"skipped": 0.5}
    assert skipped.losses[0]["text"] == {"skipped": 0.0}


@pytest.mark.parametrize("kind", ["mlp", "qwen3_moe"])
def test_generation_with_a_cache_skips_what_a_whole_pass_skips(kind: str) -> None:
    model, ids = make(kind), torch.arange(3, 11)[None]
    with torch.no_grad(), skip_experts(model, {"text": 0.9}):
        found = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None)
        expected = ids
        for _ in range(6):
            expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(dim=-1)], dim=-1)
    assert torch.equal(found, expected)


def test_the_model_is_as_before_after_the_block_even_after_an_error() -> None:
    model, ids = make("qwen3_moe"), torch.arange(3, 11)[None]
    model.set_experts_implementation("grouped_mm")
    with torch.no_grad():
        before = model(ids).logits
        with pytest.raises(ZeroDivisionError), skip_experts(model, {"text": 1.0}):
            assert not torch.equal(model(ids).logits, before)
            _ = 1 / 0
        assert torch.equal(model(ids).logits, before)
    assert not any(layer.experts._is_expert_parallel for layer in sparse_layers(model))


def test_what_cannot_be_skipped_is_refused() -> None:
    model: Any = make("qwen3_moe")
    for thresholds, problem in (({"text": 1.5}, "thresholds: that of text is 1.5"), ({"smell": 0.1}, "'smell'")):
        with pytest.raises(UniMoEError, match=problem), skip_experts(model, thresholds):
            pass
    with pytest.raises(UniMoEError, match="rest: it is 'all'"), skip_experts(model, {}, rest="all"):  # type: ignore[arg-type]
        pass
    with pytest.raises(UniMoEError, match="was not called as a whole"), skip_experts(model, {}):
        model.model(torch.arange(3, 11)[None])


def test_the_command_prints_what_is_skipped_and_what_it_changes(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", num_experts=4, num_experts_per_tok=2)
    command = ["skip", str(folder), "--data", str(write_rows(tmp_path / "data"))]
    result = CliRunner().invoke(app, [*command, "--threshold", "image=1", "--threshold", "speech=0.99"])
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in line.split("│")] for line in result.output.splitlines()]
    assert ["", "all", "image", "50.0%", ""] in rows and ["", "all", "text", "0.0%", ""] in rows
    assert "measured: On 8 rows" in result.output
    nothing = CliRunner().invoke(app, [*command, "--threshold", "text=0"])
    assert "exact: On 8 rows" in nothing.output
    wrong = CliRunner().invoke(app, [*command, "--threshold", "image=much"])
    assert wrong.exit_code == 2 and "--threshold image: 'much' is no number" in wrong.output
