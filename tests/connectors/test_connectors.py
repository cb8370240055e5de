"""Connectors map units of features to units of embeddings, each unit by itself."""

import json
from typing import Any

import pytest
import torch
from tiny import QFORMER, WHISPER, tiny_config, tiny_inputs

from unimoe import UniMoEConnectorConfig, UniMoEForConditionalGeneration
from unimoe.connectors import build_connector

WIDTH, GRID = 16, [4, 6]
DECODER = {**WHISPER, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 24}
KINDS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "stacked": {"stack": 3, "hidden_size": 20},
    "pooling": {"type": "pooling", "stride": 2},
    "pooling, uneven": {"type": "pooling", "output_grid": [3, 5], "hidden_size": 20},
    "pixel_shuffle": {"type": "pixel_shuffle", "stride": [2, 3]},
    "qformer": {"type": "qformer", "num_queries": 5, "num_attention_heads": 2, "hidden_size": 8},
    "blip2_qformer": {"type": "blip2_qformer", "num_queries": 6, "qformer_config": QFORMER},
    "query_decoder": {"type": "query_decoder", "num_queries": 7, "decoder_config": DECODER},
    "query_decoder, not causal": {
        "type": "query_decoder",
        "num_queries": 7,
        "decoder_config": DECODER,
        "causal": False,
    },
}
PROJECTED = ("qformer", "blip2_qformer", "query_decoder")
KINDS |= {f"{kind}, two layers behind": {**KINDS[kind], "num_output_layers": 2} for kind in PROJECTED}
TOKENS = dict(zip(KINDS, (24, 8, 6, 15, 4, 5, 6, 7, 7, 5, 6, 7), strict=True))


def build(fields: dict[str, Any], grid: list[int] = GRID) -> Any:
    """A connector in evaluation mode; all its parameters random, so that none is without effect."""
    torch.manual_seed(0)
    connector = build_connector(UniMoEConnectorConfig(**fields), input_size=WIDTH, output_size=32, grid=grid)
    for parameter in connector.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return connector.eval()


def features(units: int = 4, grid: list[int] = GRID) -> torch.Tensor:
    return torch.randn(units, grid[0] * grid[1], WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_shape_is_what_the_configuration_counts(kind: str) -> None:
    assert UniMoEConnectorConfig(**KINDS[kind]).num_tokens(GRID) == TOKENS[kind]
    assert build(KINDS[kind])(features()).shape == (4, TOKENS[kind], 32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_is_the_same_from_its_file(kind: str) -> None:
    config = UniMoEConnectorConfig(**KINDS[kind])
    assert UniMoEConnectorConfig.from_dict(json.loads(config.to_json_string())).to_dict() == config.to_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_units_do_not_see_each_other(kind: str) -> None:
    connector = build(KINDS[kind]).double()
    torch.testing.assert_close(connector(features().double())[1:2], connector(features()[1:2].double()))


@pytest.mark.parametrize("kind", KINDS)
def test_no_units_still_give_every_parameter_a_gradient(kind: str) -> None:
    connector = build(KINDS[kind])
    output = connector(features(0))
    output.sum().backward()
    assert output.shape == (0, TOKENS[kind], 32)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in connector.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_takes_part(kind: str) -> None:
    connector = build(KINDS[kind])
    connector(features()).square().sum().backward()
    assert all(parameter.grad.any() for parameter in connector.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_reads_the_features(kind: str) -> None:
    connector = build(KINDS[kind])
    changed = connector(features() + torch.randn(WIDTH)) - connector(features())
    assert (changed.abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("kind", ["pooling", "pixel_shuffle"])
def test_a_token_of_the_grid_reads_its_own_block(kind: str) -> None:
    connector = build({"type": kind, "stride": [2, 3]})  # 4 x 6 -> 2 x 2
    one = features(1)
    other = one.clone()
    other[:, 3 * 6 + 1] += 1  # row 3, column 1: the block below, on the left
    changed = (connector(other) - connector(one)).abs().amax(-1)[0] > 1e-4
    assert changed.tolist() == [False, False, True, False]


@pytest.mark.parametrize("kind", ["pooling", "pixel_shuffle"])
def test_a_row_of_sound_tokens_is_joined_in_time(kind: str) -> None:
    config = UniMoEConnectorConfig(type=kind, stride=5)
    assert config.grid([1, 50]) == [1, 10]
    assert config.grid([50, 1]) == [10, 1]
    connector = build({"type": kind, "stride": 5}, grid=[1, 50])
    one = features(1, [1, 50])
    other = one.clone()
    other[:, 12] += 1
    changed = (connector(other) - connector(one)).abs().amax(-1)[0] > 1e-4
    assert changed.nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize(("causal", "seen"), [(True, [3, 4, 5, 6]), (False, list(range(7)))])
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_causal_says_which_queries_a_query_sees(causal: bool, seen: list[int], kernel: str) -> None:
    connector = build({**KINDS["query_decoder"], "causal": causal})
    connector.decoder.set_attn_implementation(kernel)
    before = connector(features(1))
    connector.queries.data[3] += torch.randn(WIDTH)
    changed = (connector(features(1)) - before).abs().amax(-1)[0] > 1e-5
    assert changed.nonzero().flatten().tolist() == seen


def test_dropout_of_a_qformer_acts_in_training_alone() -> None:
    connector = build({**KINDS["qformer"], "dropout": 0.5})
    assert torch.equal(connector(features()), connector(features()))
    assert torch.equal(connector(features()), build(KINDS["qformer"])(features()))
    connector.train()
    assert not torch.equal(connector(features()), connector(features()))


def test_a_blip2_qformer_reads_the_features_in_every_second_layer() -> None:
    connector = build(KINDS["blip2_qformer"])
    assert [layer.has_cross_attention for layer in connector.qformer.encoder.layer] == [True, False, True]
    fields = {**KINDS["blip2_qformer"], "qformer_config": {**QFORMER, "cross_attention_frequency": 3}}
    assert [layer.has_cross_attention for layer in build(fields).qformer.encoder.layer] == [True, False, False]


def test_weights_of_a_blip2_qformer_are_drawn_as_its_configuration_says() -> None:
    qformer = tiny_with({**KINDS["blip2_qformer"], "qformer_config": {**QFORMER, "initializer_range": 0.5}})
    layer = qformer.model.connectors["speech"].qformer.encoder.layer[0]
    assert 0.3 < float(layer.crossattention.attention.query.weight.detach().std()) < 0.7
    assert float(qformer.model.connectors["speech"].queries.detach().std()) < 0.1
    assert torch.equal(layer.output_query.LayerNorm.weight, torch.ones(QFORMER["hidden_size"]))


@pytest.mark.parametrize("kind", ["blip2_qformer", "query_decoder"])
def test_checkpointing_activations_changes_no_gradient(kind: str) -> None:
    model, gradients = tiny_with(KINDS[kind]).train(), []
    inputs = tiny_inputs(model.config)
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        gradients.append([parameter.grad for parameter in model.model.connectors["speech"].parameters()])
    assert all(gradient.any() for gradient in gradients[0])
    torch.testing.assert_close(*gradients)


def tiny_with(speech: dict[str, Any]) -> UniMoEForConditionalGeneration:
    values = {**tiny_config().to_dict(), "speech_connector_config": speech}
    torch.manual_seed(0)
    return UniMoEForConditionalGeneration(type(tiny_config()).from_dict(values)).eval()


def set_kernel(model: UniMoEForConditionalGeneration, kernel: str) -> None:
    """Of connectors alone: a ResNet has no attention to set."""
    model.set_attn_implementation({"audio_connector_config": kernel, "speech_connector_config": kernel})


@pytest.mark.parametrize(("kind", "inner"), [("query_decoder", "decoder"), ("blip2_qformer", "qformer")])
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_models_attention_implementation_is_that_of_its_connectors(kernel: str, kind: str, inner: str) -> None:
    model = tiny_with(KINDS[kind])
    set_kernel(model, kernel)
    assert model.model.connectors["audio"].layers[0].cross_attention.config._attn_implementation == kernel
    assert getattr(model.model.connectors["speech"], inner).config._attn_implementation == kernel


@pytest.mark.parametrize("kind", ["query_decoder", "blip2_qformer"])
@torch.no_grad()
def test_attention_implementations_agree(kind: str) -> None:
    model = tiny_with(KINDS[kind]).double()
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in tiny_inputs(model.config).items()}
    logits = []
    for kernel in ("eager", "sdpa"):
        set_kernel(model, kernel)
        logits.append(model(**inputs).logits)
    torch.testing.assert_close(*logits)


@pytest.mark.parametrize(
    "kind",
    [
        "pooling",
        "pixel_shuffle",
        "blip2_qformer",
        "query_decoder",
        "query_decoder, not causal",
        "query_decoder, two layers behind",
    ],
)
@torch.no_grad()
def test_a_model_with_any_connector_is_the_same_after_saving(kind: str, tmp_path: Any) -> None:
    fields = {"type": kind, "stride": 10} if kind in ("pooling", "pixel_shuffle") else KINDS[kind]
    model = tiny_with(fields)
    model.save_pretrained(tmp_path)
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    inputs = tiny_inputs(model.config)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize(
    ("fields", "encoder_grid", "grid"),
    [
        ({}, [3, 4], [3, 4]),
        ({"stack": 2}, [3, 4], [3, 2]),
        ({"stack": 3}, [3, 4], [1, 4]),  # a token crosses rows
        ({"stack": 10}, [1, 1500], [1, 150]),
        ({"type": "pooling", "stride": 2}, [4, 6], [2, 3]),
        ({"type": "pooling", "output_grid": [2, 3]}, [5, 5], [2, 3]),
        ({"type": "pixel_shuffle", "stride": [12, 1]}, [12, 101], [1, 101]),
        ({"type": "qformer"}, [3, 4], [1, 32]),
        ({"type": "blip2_qformer", "qformer_config": {}}, [1, 1496], [1, 32]),
        ({"type": "query_decoder", "decoder_config": DECODER}, [1, 1500], [1, 200]),
    ],
)
def test_tokens_lie_in_rows_and_columns(fields: dict, encoder_grid: list[int], grid: list[int]) -> None:
    config = UniMoEConnectorConfig(**fields)
    assert config.grid(encoder_grid) == grid
    assert config.num_tokens(encoder_grid) == grid[0] * grid[1]
