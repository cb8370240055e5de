"""The frame of the benchmarks: fair turns, honest ratios, one command."""

import json
import time
from itertools import pairwise

import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks import cases, encoder_cache, packing
from benchmarks.__main__ import main
from benchmarks.cases import CASES
from benchmarks.timing import Case, measure

app = Typer()
app.command()(main)


def test_peers_take_turns_and_are_compared_with_the_first() -> None:
    turns: list[str] = []

    def peer(name: str, seconds: float):
        return lambda: (turns.append(name), time.sleep(seconds))

    case = Case("sleep", {"short": peer("short", 0.01), "long": peer("long", 0.03)}, {"long": {"naps": 1.0}})
    short, long = measure(case, rounds=5, warm_up=1)
    assert turns == ["short", "long"] * 6
    assert short.ratio == 1.0 and long.ratio > 1.5 and long.facts == {"naps": 1.0}
    assert short.low <= short.median <= short.high


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds is 2"):
        measure(Case("x", {"a": int}, {}), rounds=2)


SMALL = [
    (cases.SIZES, {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 64}),
    (packing.MODEL, {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}),
    (encoder_cache.TEXT, {"hidden_size": 96, "intermediate_size": 32, "num_hidden_layers": 1}),
    (encoder_cache.VISION, {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1}),
    (encoder_cache.SPEECH, {"d_model": 24, "encoder_ffn_dim": 32, "encoder_layers": 1}),
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the models of the benchmarks so small that their peers run in no time."""
    for sizes, smaller in SMALL:
        for name, size in smaller.items():
            monkeypatch.setitem(sizes, name, size)


@pytest.mark.parametrize("name", [name for name in CASES if name != "imports"])
def test_peers_of_every_benchmark_run(name: str, small: None) -> None:
    check_peers(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_peers_of_every_benchmark_run_as_they_are_measured(name: str) -> None:
    check_peers(name)


def check_peers(name: str) -> None:
    """Run each peer once; peers that do the same work give the same answer."""
    for case in CASES[name]():
        outputs = [run() for run in case.peers.values()]
        assert len(outputs) >= 2 and set(case.facts) <= set(case.peers)
        if name in ("blocks", "kernels", "packing", "encoder_cache"):
            first, *others = [output[0] if isinstance(output, tuple) else output for output in outputs]
            for other in others:
                assert (other.reshape(-1) - first.reshape(-1)).abs().max() <= 1e-5 * first.abs().max()


def test_the_command_writes_a_table_and_json(tmp_path, small: None) -> None:
    result = CliRunner().invoke(app, ["null_experts", "--rounds", "3", "--out", str(tmp_path / "b.json")])
    assert result.exit_code == 0 and "100% null" in result.output, result.output
    saved = json.loads((tmp_path / "b.json").read_text())
    assert saved["environment"]["torch"] and saved["settings"]["rounds"] == 3
    counted = [
        row["facts"]["MFLOPs per token"] for row in saved["results"] if row["case"].startswith("null experts, mlp")
    ]
    steps = [before - after for before, after in pairwise(counted)]
    assert len(counted) == 5 and counted[-1] == 0 and steps == pytest.approx([steps[0]] * 4)


def test_an_unknown_benchmark_is_refused_with_the_list() -> None:
    result = CliRunner().invoke(app, ["speed"])
    assert result.exit_code == 2 and "null_experts" in result.output
