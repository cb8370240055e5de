"""Implementations of attention and experts agree and can be chosen by part; packed rows equal rows apart."""

import pytest
import torch
from tiny import TEXT, randomise, tiny_config, tiny_inputs, tiny_model
from transformers import AutoModelForMultimodalLM

from unimoe import UniMoEForCausalLM, UniMoETextConfig

MEDIA = ("pixel_values", "speech_features", "audio_features", "pixel_values_videos")
IMPLEMENTATIONS = ["eager", "sdpa", pytest.param("flex_attention", marks=pytest.mark.slow)]  # which is compiled first


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
@torch.no_grad()
def test_implementations_of_attention_agree(model, folder, inputs, attention) -> None:
    """Also with padding on the left, which each masks in its own way."""
    chosen = AutoModelForMultimodalLM.from_pretrained(folder, attn_implementation={"text_config": attention})
    assert chosen.model.language_model.config._attn_implementation == attention
    ids = torch.cat([torch.zeros(1, 3, dtype=torch.long), inputs["input_ids"]], dim=1)
    padded = {**inputs, "input_ids": ids, "attention_mask": (ids != 0).long()}
    for given in (inputs, padded):
        real = given["attention_mask"].bool()
        torch.testing.assert_close(chosen(**given).logits[real], model(**given).logits[real], atol=1e-5, rtol=1e-4)


def test_each_part_may_have_its_own_implementation(folder) -> None:
    chosen = AutoModelForMultimodalLM.from_pretrained(
        folder,
        attn_implementation={"text_config": "eager", "audio_config": {"tower_config": "sdpa"}},
        experts_implementation={"text_config": "batched_mm"},
    )
    assert chosen.config.text_config._attn_implementation == "eager"
    assert chosen.config.text_config._experts_implementation == "batched_mm"
    assert chosen.model.encoders["audio"].tower.config._attn_implementation == "sdpa"
    chosen.set_experts_implementation({"text_config": "eager"})
    chosen.set_attn_implementation({"text_config": "sdpa"})
    assert chosen.model.language_model.config._attn_implementation == "sdpa"
    assert chosen.model.language_model.layers[0].mlp.experts.config._experts_implementation == "eager"


def test_the_default_is_the_fast_one_of_each_kind(folder) -> None:
    config = AutoModelForMultimodalLM.from_pretrained(folder).model.language_model.config
    assert (config._attn_implementation, config._experts_implementation) == ("sdpa", "grouped_mm")


def test_an_unknown_implementation_is_refused(folder) -> None:
    with pytest.raises(ValueError, match="not supported"):
        AutoModelForMultimodalLM.from_pretrained(folder, attn_implementation="fastest")
    with pytest.raises(ValueError, match="not supported"):
        AutoModelForMultimodalLM.from_pretrained(folder, experts_implementation="fastest")


def pack(rows: list[dict]) -> tuple[dict, list[int]]:
    """Rows one behind the other in a batch of one; positions start again at each."""
    lengths = [row["input_ids"].shape[1] for row in rows]
    packed = {name: torch.cat([row[name] for row in rows]) for name in MEDIA if name in rows[0]}
    packed["input_ids"] = torch.cat([row["input_ids"] for row in rows], dim=1)
    packed["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    return packed, lengths


@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
@torch.no_grad()
def test_packed_rows_equal_rows_apart(sparse, attention) -> None:
    model = tiny_model(**sparse)
    randomise(model)
    model.set_attn_implementation({"text_config": attention})
    rows = [tiny_inputs(model.config, seed=seed) for seed in range(3)]
    packed, lengths = pack(rows)
    output = model(**packed, output_router_logits=True)
    apart = [model(**row, output_router_logits=True) for row in rows]
    torch.testing.assert_close(output.logits[0], torch.cat([row.logits[0] for row in apart]), atol=1e-5, rtol=1e-4)
    for layer, logits in enumerate(output.router_logits):
        expected = torch.cat([row.router_logits[layer] for row in apart])
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    assert lengths == [len(row.logits[0]) for row in apart]


def test_packed_rows_have_the_losses_of_a_batch_of_the_same_rows(sparse) -> None:
    """The label of each row's first token is -100: nothing predicts it, and no row may predict the next."""
    model = tiny_model(**sparse)
    rows = [tiny_inputs(model.config, seed=seed) for seed in range(3)]
    packed, _ = pack(rows)
    labels = packed["input_ids"].masked_fill(packed["position_ids"] == 0, -100)
    batch = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    together = model(**packed, labels=labels)
    apart = model(**batch, labels=batch["input_ids"])
    for name, loss in apart.losses.items():
        torch.testing.assert_close(together.losses[name], loss, msg=name)


def test_logits_can_be_limited_to_some_positions(model, inputs) -> None:
    whole = model(**inputs).logits
    torch.testing.assert_close(model(**inputs, logits_to_keep=3).logits, whole[:, -3:])
    places = torch.tensor([0, 5])
    torch.testing.assert_close(model(**inputs, logits_to_keep=places).logits, whole[:, places])


def test_forward_returns_what_every_layer_saw(sparse, inputs) -> None:
    model = tiny_model(**sparse)
    model.set_attn_implementation({"text_config": "eager"})
    output = model(**inputs, output_hidden_states=True, output_attentions=True, output_router_logits=True)
    length, text = inputs["input_ids"].shape[1], model.config.text_config
    assert [tuple(state.shape) for state in output.hidden_states] == [(1, length, 32)] * (text.num_hidden_layers + 1)
    assert [tuple(weights.shape) for weights in output.attentions] == [(1, 4, length, length)] * 2
    assert [tuple(logits.shape) for logits in output.router_logits] == [(length, 5)] * 2
    torch.testing.assert_close(model.lm_head(output.hidden_states[-1]), output.logits)
    silent = model(**inputs)
    assert silent.hidden_states is None and silent.attentions is None and not silent.router_logits
    as_tuple = model(**inputs, return_dict=False)
    torch.testing.assert_close(as_tuple[0], output.logits)


def test_what_to_return_may_be_said_in_the_configuration(inputs) -> None:
    model = tiny_model(num_experts=4, output_router_logits=True)
    assert len(model(**inputs).router_logits) == 2
    assert not model(**inputs, output_router_logits=False).router_logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@torch.no_grad()
def test_implementations_of_experts_agree_in_every_dtype(dtype) -> None:
    """But for `grouped_mm` in float64, which torch does not have."""
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-7, torch.bfloat16: 3e-2}[dtype]
    torch.manual_seed(0)
    model = UniMoEForCausalLM(UniMoETextConfig(**TEXT, num_experts=4)).to(dtype).eval()
    ids = torch.randint(3, 60, (2, 9))
    found = {}
    for implementation in ("eager", "batched_mm") + (() if dtype == torch.float64 else ("grouped_mm",)):
        model.set_experts_implementation(implementation)
        found[implementation] = model(ids).logits
    for logits in found.values():
        assert (logits - found["eager"]).abs().max() <= tolerance * found["eager"].abs().max()


def test_a_tower_without_an_implementation_leaves_it_to_the_parts_that_have_it() -> None:
    """A ResNet knows no sdpa, so asking it of all parts is refused by transformers; asking it of one part is not."""
    model = tiny_model()
    model.set_attn_implementation({"text_config": "eager"})
    with pytest.raises(ValueError, match="ResNetModel does not support"):
        model.set_attn_implementation("sdpa")
    model.set_attn_implementation({"text_config": "sdpa"})
    assert model.config.text_config._attn_implementation == "sdpa"
    assert tiny_config().text_config._attn_implementation is None
