"""Connectors give the values of transformers' own classes, or of the formula written out, with the same weights."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_connectors import DECODER, GRID, KINDS, PROJECTED, WIDTH, build, features
from tiny import QFORMER
from torch import nn
from transformers import AutoConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLMultiModalProjector
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.models.whisper.modeling_whisper import WhisperDecoder


def test_stacking_concatenates_neighbours_in_order() -> None:
    connector, units = build({"stack": 3}), features()
    neighbours = torch.stack([torch.cat([unit[3 * i + j] for j in range(3)]) for unit in units for i in range(8)])
    expected = connector.linear_2(connector.act_fn(connector.linear_1(neighbours))).view(4, 8, -1)
    torch.testing.assert_close(connector(units), expected)


def test_pooling_is_an_mlp_of_every_token_and_the_mean_of_each_block() -> None:
    connector, units = build({"type": "pooling", "stride": [2, 3]}), features()
    tokens = connector.linear_2(connector.act_fn(connector.linear_1(units))).view(4, *GRID, -1)
    blocks = [[tokens[:, r : r + 2, c : c + 3].mean((1, 2)) for c in (0, 3)] for r in (0, 2)]
    torch.testing.assert_close(connector(units), torch.stack([*blocks[0], *blocks[1]], dim=1))


def test_uneven_pooling_covers_every_token() -> None:
    connector, units = build({"type": "pooling", "output_grid": [1, 4]}), features()
    tokens = connector.linear_2(connector.act_fn(connector.linear_1(units))).view(4, *GRID, -1)
    bins = [(0, 2), (1, 3), (3, 5), (4, 6)]  # of 6 columns: from floor(6 i / 4) to ceil(6 (i + 1) / 4)
    expected = torch.stack([tokens[:, :, start:end].mean((1, 2)) for start, end in bins], dim=1)
    torch.testing.assert_close(connector(units), expected)


def test_pixel_shuffle_is_internvls() -> None:
    units = features(grid=[4, 4])
    connector = build({"type": "pixel_shuffle", "stride": 2}, grid=[4, 4])
    sizes = SimpleNamespace(
        vision_config=SimpleNamespace(hidden_size=WIDTH),
        text_config=SimpleNamespace(hidden_size=32),
        downsample_ratio=0.5,
        projector_hidden_act="gelu",
    )
    projector = InternVLMultiModalProjector(sizes)
    projector.load_state_dict(connector.state_dict())
    shuffled = InternVLModel.pixel_shuffle(None, units.view(4, 4, 4, WIDTH), scale_factor=0.5)
    expected = projector(shuffled.reshape(4, -1, shuffled.shape[-1]))
    torch.testing.assert_close(connector(units), expected)


def test_pixel_shuffle_is_idefics3s() -> None:
    units = features(grid=[6, 6])
    sizes: Any = SimpleNamespace(
        scale_factor=3,
        vision_config=SimpleNamespace(hidden_size=WIDTH),
        text_config=SimpleNamespace(hidden_size=32),
    )
    expected = Idefics3Connector(sizes).pixel_shuffle(units, 3)
    assert torch.equal(build({"type": "pixel_shuffle", "stride": 3}, grid=[6, 6]).shuffle(units), expected)


def test_query_decoder_is_whispers_decoder_given_the_queries() -> None:
    connector, units = build(KINDS["query_decoder"]), features()
    decoder = WhisperDecoder(AutoConfig.for_model(**DECODER)).eval()
    weights = decoder.state_dict()
    assert set(weights) - set(connector.decoder.state_dict()) == {"embed_tokens.weight"}
    decoder.load_state_dict({**weights, **connector.decoder.state_dict()})
    queries = connector.queries.expand(4, -1, -1)
    states = decoder(inputs_embeds=queries, encoder_hidden_states=units).last_hidden_state
    torch.testing.assert_close(connector(units), connector.output_proj(states))


def test_blip2_qformer_is_transformers_given_the_queries() -> None:
    connector, units = build(KINDS["blip2_qformer"]), features()
    qformer = Blip2QFormerModel(AutoConfig.for_model("blip_2_qformer", **QFORMER)).eval()
    qformer.load_state_dict(connector.qformer.state_dict())
    states = qformer(query_embeds=connector.queries.expand(4, -1, -1), encoder_hidden_states=units).last_hidden_state
    torch.testing.assert_close(connector(units), connector.output_proj(states))


def test_blip2_qformer_normalises_after_each_step() -> None:
    """The formula written out."""
    connector, units = build(KINDS["blip2_qformer"]), features()
    states = connector.qformer.layernorm(connector.queries).expand(4, -1, -1)
    for layer in connector.qformer.encoder.layer:
        states = layer.attention.output.LayerNorm(states + blip2_attention(layer.attention, states, states))
        if layer.has_cross_attention:
            found = blip2_attention(layer.crossattention, states, units)
            states = layer.crossattention.output.LayerNorm(states + found)
        hidden = nn.functional.gelu(layer.intermediate_query.dense(states))
        states = layer.output_query.LayerNorm(states + layer.output_query.dense(hidden))
    torch.testing.assert_close(connector(units), connector.output_proj(states))


def blip2_attention(attention: Any, queries: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Attention of queries (N, Q, W) to states (N, L, C), head by head, with its output projection."""
    projections, outputs = attention.attention, []
    size = queries.shape[-1] // QFORMER["num_attention_heads"]
    for start in range(0, queries.shape[-1], size):
        head = slice(start, start + size)
        query, key = projections.query(queries)[..., head], projections.key(states)[..., head]
        scores = (query @ key.transpose(1, 2) / size**0.5).softmax(dim=-1)
        outputs.append(scores @ projections.value(states)[..., head])
    return attention.output.dense(torch.cat(outputs, dim=-1))


def test_names_of_a_blip2_qformer_are_those_of_the_published_model() -> None:
    """Uni-MoE's sound aligner holds transformers' names of the Q-Former without a text branch."""
    names = {name.removeprefix("qformer.") for name in build(KINDS["blip2_qformer"]).state_dict()}
    linear = ["attention.query", "attention.key", "attention.value", "output.dense", "output.LayerNorm"]
    expected = {"queries", "output_proj.weight", "output_proj.bias", "layernorm.weight", "layernorm.bias"}
    for layer in range(3):
        own = ["intermediate_query.dense", "output_query.dense", "output_query.LayerNorm"]
        own += [f"attention.{name}" for name in linear]
        own += [f"crossattention.{name}" for name in linear] if layer % 2 == 0 else []
        expected |= {f"encoder.layer.{layer}.{name}.{kind}" for name in own for kind in ("weight", "bias")}
    assert names == expected


@pytest.mark.parametrize("kind", PROJECTED)
def test_two_layers_behind_the_queries_are_llavas_projector(kind: str) -> None:
    connector, units = build(KINDS[f"{kind}, two layers behind"]), features()
    sizes: Any = SimpleNamespace(
        vision_config=SimpleNamespace(hidden_size=connector.queries.shape[1]),
        text_config=SimpleNamespace(hidden_size=32),
        vision_feature_layer=-2,
        multimodal_projector_bias=True,
        projector_hidden_act="gelu",
    )
    projector = LlavaMultiModalProjector(sizes)
    projector.load_state_dict(connector.output_proj.state_dict())
    found = connector(units)
    connector.output_proj = nn.Identity()
    torch.testing.assert_close(found, projector(connector(units)))


def test_qformer_attention_is_torchs() -> None:
    connector, units = build(KINDS["qformer"]), features()
    expected = connector.queries.expand(4, -1, -1)
    states = connector.input_proj(units)
    for layer in connector.layers:
        normed = layer.self_norm(expected)
        expected = expected + torch_attention(layer.self_attention, normed, normed)
        expected = expected + torch_attention(layer.cross_attention, layer.cross_norm(expected), states)
        expected = expected + layer.mlp(layer.mlp_norm(expected))
    torch.testing.assert_close(connector(units), connector.output_proj(connector.norm(expected)))


def torch_attention(attention: Any, queries: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """`nn.MultiheadAttention` with the weights of our attention, which it keeps in one matrix."""
    theirs = nn.MultiheadAttention(queries.shape[-1], attention.heads_shape[0], batch_first=True)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([projection.weight for projection in projections]),
            "in_proj_bias": torch.cat([projection.bias for projection in projections]),
            "out_proj.weight": attention.out_proj.weight,
            "out_proj.bias": attention.out_proj.bias,
        }
    )
    return theirs(queries, states, states, need_weights=False)[0]
