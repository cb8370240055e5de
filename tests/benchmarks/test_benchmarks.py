"""The frame of the benchmarks: fair turns, honest ratios, one command."""

import json
import time
from itertools import pairwise

import pytest
from typer import Typer
from typer.testing import CliRunner

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


@pytest.mark.parametrize("name", CASES)
def test_peers_of_every_benchmark_run(name: str) -> None:
    for case in CASES[name]():
        outputs = [run() for run in case.peers.values()]
        assert len(outputs) >= 2 and set(case.facts) <= set(case.peers)
        if name in (
            "blocks",
            "kernels",
            "packing",
            "encoder_cache",
        ):  # peers that do the same work give the same answer
            first, *others = [output[0] if isinstance(output, tuple) else output for output in outputs]
            for other in others:
                assert (other.reshape(-1) - first.reshape(-1)).abs().max() <= 1e-5 * first.abs().max()


def test_the_command_writes_a_table_and_json(tmp_path) -> None:
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
