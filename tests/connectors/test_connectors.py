"""Connectors map units of features to units of embeddings, each unit by itself."""

import pytest
import torch

from unimoe import UniMoEConnectorConfig
from unimoe.connectors import build_connector

KINDS = {
    "mlp": UniMoEConnectorConfig(),
    "stacked": UniMoEConnectorConfig(stack=3, hidden_size=20),
    "qformer": UniMoEConnectorConfig(type="qformer", num_queries=5, num_attention_heads=2, hidden_size=8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_shape_is_what_the_configuration_counts(kind: str) -> None:
    connector = build_connector(KINDS[kind], 10, 16)
    assert connector(torch.randn(4, 12, 10)).shape == (4, KINDS[kind].num_tokens(12), 16)


@pytest.mark.parametrize("kind", KINDS)
def test_units_do_not_see_each_other(kind: str) -> None:
    connector = build_connector(KINDS[kind], 10, 16).eval().double()
    features = torch.randn(4, 12, 10, dtype=torch.float64)
    torch.testing.assert_close(connector(features)[1:2], connector(features[1:2]))


@pytest.mark.parametrize("kind", KINDS)
def test_no_units_still_give_every_parameter_a_gradient(kind: str) -> None:
    connector = build_connector(KINDS[kind], 10, 16)
    connector(torch.zeros(0, 12, 10)).sum().backward()
    assert all(parameter.grad is not None for parameter in connector.parameters())


def test_stacking_concatenates_neighbours_in_order() -> None:
    connector = build_connector(UniMoEConnectorConfig(stack=2), 3, 4)
    features = torch.randn(1, 4, 3)
    by_hand = features.reshape(1, 2, 6)
    expected = connector.linear_2(connector.act_fn(connector.linear_1(by_hand)))
    assert torch.equal(by_hand[0, 0], torch.cat([features[0, 0], features[0, 1]]))
    assert torch.equal(connector(features), expected)


def test_every_query_of_a_qformer_attends_to_the_features() -> None:
    torch.manual_seed(0)
    connector = build_connector(KINDS["qformer"], 10, 16)
    torch.nn.init.normal_(connector.queries)
    features = torch.randn(1, 12, 10)
    changed = connector(features + 1) - connector(features)
    assert (changed.abs().amax(-1) > 1e-4).all()
