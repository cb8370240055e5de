"""docs/connectors.md says what the code does: its types, its numbers of tokens, and its lines of Python."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from tiny import WHISPER

from unimoe import UniMoEConnectorConfig
from unimoe.build.towers import connector_config
from unimoe.configuration.connectors import ConnectorType

PAGE = (Path(__file__).parents[2] / "docs" / "connectors.md").read_text(encoding="utf-8")


def tokens(grid: list[int], key: str = "image", **fields: Any) -> int:
    """Tokens of a unit behind an encoder with this grid, as `unimoe build` would have it."""
    return UniMoEConnectorConfig(**connector_config(key, grid, fields)).num_tokens(grid)


def test_tokens_of_pictures_are_those_of_the_table() -> None:
    small, large = [14, 14], [24, 24]
    queries = tokens(small, type="qformer")
    assert tokens(small, type="blip2_qformer", qformer_config={}) == queries
    for kind in ("pooling", "pixel_shuffle"):
        halves = tokens(small, type=kind, stride=2), tokens(large, type=kind, stride=2)
        thirds = tokens(large, type=kind, stride=3)
        whole = f"{tokens(small)}; {tokens(small, stack=2)} with `stack: 2`"
        assert f"{small} | {whole} | {halves[0]} with `stride: 2` | {queries} | - |" in PAGE
        assert f"{large} | {tokens(large)} | {halves[1]} with `stride: 2`, {thirds} with 3 | {queries} | - |" in PAGE


@pytest.mark.parametrize(("key", "grid"), [("speech", [1, 1500]), ("audio", [12, 101])])
def test_tokens_of_sounds_are_those_of_the_table(key: str, grid: list[int]) -> None:
    counts = [tokens(grid, key, type=kind) for kind in ("mlp", "pooling", "qformer")]
    assert tokens(grid, key, type="pixel_shuffle") == counts[1]
    decoder = tokens(grid, key, type="query_decoder", decoder_config=WHISPER)
    assert f"{grid} | {' | '.join(map(str, counts))} | {f'{decoder};' if key == 'speech' else '- |'}" in PAGE


def test_every_type_has_its_row() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE) == ["type", *get_args(ConnectorType)]
