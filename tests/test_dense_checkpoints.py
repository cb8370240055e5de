"""Dense language models load from a folder with the logits of transformers: padded, with a cache, in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TEXT, randomise
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from unimoe import UniMoEForCausalLM
from unimoe.build.language_models import build_language_model, convert_language_model

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-3": {"model_type": "llama", "rope_parameters": LLAMA3_ROPE, "max_position_embeddings": 128},
    "llama-biased": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "sliding_window": None, "head_dim": 12},
    "qwen2": {"model_type": "qwen2"},
    "qwen2-tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
}
PRECISION = [(torch.float32, 1e-5), (torch.float64, 1e-7)]


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of one family, its norms and biases not those of a new one."""
    path = tmp_path_factory.mktemp("dense") / request.param
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**TEXT, "num_hidden_layers": 3, "rms_norm_eps": 3e-6, **FAMILIES[request.param]})
    model = AutoModelForCausalLM.from_config(config).eval()
    randomise(model, scale=0.1)
    model.save_pretrained(path)
    return path


def pair(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, UniMoEForCausalLM]:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval(), build_language_model(folder, dtype)


def left_padded() -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, TEXT["vocab_size"], (3, 20))
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    mask[1, :1] = 0
    return ids, mask


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
@torch.no_grad()
def test_logits_and_hidden_states_equal_those_of_transformers(
    folder: Path, dtype: torch.dtype, tolerance: float
) -> None:
    theirs, ours = pair(folder, dtype)
    assert ours.dtype == dtype and not any(layer.is_sparse for layer in ours.model.layers)
    ids, mask = left_padded()
    positions = mask.cumsum(-1).sub(1).clamp(min=0)
    for options in ({}, {"position_ids": positions}):
        expected = theirs(ids, attention_mask=mask, output_hidden_states=True, **options)
        actual = ours(ids, attention_mask=mask, output_hidden_states=True, **options)
        real = mask.bool()
        assert relative(actual.logits[real], expected.logits[real]) <= tolerance
        for state, their_state in zip(actual.hidden_states, expected.hidden_states, strict=True):
            assert relative(state[real], their_state[real]) <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
@torch.no_grad()
def test_every_step_with_a_cache_equals_that_of_transformers(
    folder: Path, dtype: torch.dtype, tolerance: float
) -> None:
    theirs, ours = pair(folder, dtype)
    ids, mask = left_padded()
    caches = [None, None]
    start = 12
    for end in range(start, ids.shape[1] + 1):
        step = ids[:, (0 if end == start else end - 1) : end]
        outputs = [
            model(step, attention_mask=mask[:, :end], cache=cache, use_cache=True)
            for model, cache in zip((theirs, ours), caches, strict=True)
        ]
        caches = [output.cache for output in outputs]
        assert caches[0].get_seq_length() == caches[1].get_seq_length() == end
        assert relative(outputs[1].logits[:, -1], outputs[0].logits[:, -1]) <= tolerance


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_generation_equals_that_of_transformers(folder: Path, options: dict[str, Any]) -> None:
    theirs, ours = pair(folder, torch.float64)
    ids, mask = left_padded()
    expected, actual = (
        model.generate(ids, attention_mask=mask, max_new_tokens=10, do_sample=False, **options)
        for model in (theirs, ours)
    )
    assert torch.equal(actual, expected)


def test_a_saved_conversion_loads_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    ours = build_language_model(folder)
    ours.save_pretrained(tmp_path)
    loaded = UniMoEForCausalLM.from_pretrained(tmp_path).eval()
    ids, mask = left_padded()
    assert torch.equal(loaded(ids, attention_mask=mask).logits, ours(ids, attention_mask=mask).logits)


def test_a_sliding_window_is_refused_with_the_cure_that_works() -> None:
    config = AutoConfig.for_model(**{**TEXT, "model_type": "mistral", "sliding_window": 32})
    windowed = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ValueError, match=r"window \(32 tokens\) full attention computes the same: .* to null"):
        convert_language_model(windowed)
    ids, _ = left_padded()
    expected = windowed(ids).logits
    windowed.config.sliding_window = None
    assert relative(convert_language_model(windowed)(ids).logits, expected) <= 1e-5
