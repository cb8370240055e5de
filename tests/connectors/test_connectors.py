"""Connectors map units of features to units of embeddings, each unit by itself."""

import pytest
import torch

from unimoe import UniMoEConnectorConfig
from unimoe.connectors import build_connector

GRID = [3, 4]
KINDS = {
    "mlp": UniMoEConnectorConfig(),
    "stacked": UniMoEConnectorConfig(stack=3, hidden_size=20),
    "qformer": UniMoEConnectorConfig(type="qformer", num_queries=5, num_attention_heads=2, hidden_size=8),
}


def build(config: UniMoEConnectorConfig, input_size: int = 10, grid: list[int] = GRID) -> torch.nn.Module:
    return build_connector(config, input_size=input_size, output_size=16, grid=grid)


@pytest.mark.parametrize("kind", KINDS)
def test_shape_is_what_the_configuration_counts(kind: str) -> None:
    connector = build(KINDS[kind])
    assert connector(torch.randn(4, 12, 10)).shape == (4, KINDS[kind].num_tokens(GRID), 16)


@pytest.mark.parametrize("kind", KINDS)
def test_units_do_not_see_each_other(kind: str) -> None:
    connector = build(KINDS[kind]).eval().double()
    features = torch.randn(4, 12, 10, dtype=torch.float64)
    torch.testing.assert_close(connector(features)[1:2], connector(features[1:2]))


@pytest.mark.parametrize("kind", KINDS)
def test_no_units_still_give_every_parameter_a_gradient(kind: str) -> None:
    connector = build(KINDS[kind])
    connector(torch.zeros(0, 12, 10)).sum().backward()
    assert all(parameter.grad is not None for parameter in connector.parameters())


def test_stacking_concatenates_neighbours_in_order() -> None:
    connector = build(UniMoEConnectorConfig(stack=2), input_size=3, grid=[1, 4])
    features = torch.randn(1, 4, 3)
    by_hand = features.reshape(1, 2, 6)
    expected = connector.linear_2(connector.act_fn(connector.linear_1(by_hand)))
    assert torch.equal(by_hand[0, 0], torch.cat([features[0, 0], features[0, 1]]))
    assert torch.equal(connector(features), expected)


def test_every_query_of_a_qformer_attends_to_the_features() -> None:
    torch.manual_seed(0)
    connector = build(KINDS["qformer"])
    torch.nn.init.normal_(connector.queries)
    features = torch.randn(1, 12, 10)
    changed = connector(features + 1) - connector(features)
    assert (changed.abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize(
    ("fields", "encoder_grid", "grid"),
    [
        ({}, [3, 4], [3, 4]),
        ({"stack": 2}, [3, 4], [3, 2]),
        ({"stack": 3}, [3, 4], [1, 4]),  # a token crosses rows
        ({"stack": 10}, [1, 1500], [1, 150]),
        ({"type": "qformer", "num_queries": 5}, [3, 4], [1, 5]),
    ],
)
def test_tokens_lie_in_rows_and_columns(fields: dict, encoder_grid: list[int], grid: list[int]) -> None:
    config = UniMoEConnectorConfig(**fields)
    assert config.grid(encoder_grid) == grid
    assert config.num_tokens(encoder_grid) == grid[0] * grid[1]
