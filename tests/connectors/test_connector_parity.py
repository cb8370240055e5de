"""Connectors give the values of transformers' own classes, or of the formula written out, with the same weights."""

from types import SimpleNamespace
from typing import Any

import torch
from test_connectors import DECODER, GRID, KINDS, WIDTH, build, features
from torch import nn
from transformers import AutoConfig
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLMultiModalProjector
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
