"""From output folders to decisions; runs that cannot be compared are refused by what differs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from finished_runs import ROWS, first_right, write_run, write_task
from task_rows import write_rows
from typer.testing import CliRunner, Result

from evaluation.__main__ import app
from evaluation.compare.comparison import compare_variants


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def refused(*arguments: object) -> str:
    result = command(*arguments)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.output
    return result.stderr


@pytest.fixture
def runs(tmp_path: Path, yes_data: Path) -> Path:
    """Runs a, good, bad and same of one seed."""
    for name, share in {"a": 0.5, "good": 0.7, "bad": 0.4, "same": 0.505}.items():
        write_run(tmp_path / "runs" / name, yes_data, first_right(share))
    return tmp_path / "runs"


def test_each_run_is_compared_with_the_first(runs: Path, tmp_path: Path) -> None:
    files = ("--json", tmp_path / "out" / "c.json", "--markdown", tmp_path / "out" / "c.md")
    result = command(runs / "a", runs / "good", runs / "bad", runs / "same", *files)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "c.json").read_text())
    found = {row["variant"]: row for row in report["comparisons"]}
    assert {name: row["decision"] for name, row in found.items()} == {
        "good": "better",
        "bad": "worse",
        "same": "no difference shown",
    }
    assert found["good"]["difference"]["value"] == pytest.approx(0.2) and found["good"]["other"] == 0.5
    assert found["good"]["corrected_p"] > found["good"]["difference"]["p"]
    assert report["against"] == "a" and report["seeds"] == 1 and report["notes"] == []
    for text in ("no difference shown", "One model each", "Holm's correction for 3 comparisons"):
        assert text in result.output
    lines = (tmp_path / "out" / "c.md").read_text().splitlines()
    assert lines[2].startswith("| t (200 rows) | exact_match | good | 0.700 | 0.500 | +0.200 | +0.1")
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_seeds_of_a_variant_are_compared_together(tmp_path: Path, yes_data: Path) -> None:
    for seed, (old, new) in enumerate([(0.5, 0.8), (0.52, 0.85), (0.48, 0.75)]):
        write_run(tmp_path / "runs" / f"old-{seed}", yes_data, first_right(old))
        write_run(tmp_path / "runs" / f"new-{seed}", yes_data, first_right(new))
    by_name = compare_variants(
        {name: [tmp_path / "runs" / f"{name}-{seed}" for seed in range(3)] for name in ("old", "new")}, samples=1000
    )
    (row,) = by_name.comparisons
    assert row.decision == "better" and row.score == pytest.approx(0.8)
    assert row.difference.low < row.difference.rows_low < row.difference.value
    asked = ("--against", "old", "--samples", 1000, "--json", tmp_path / "c.json")
    groups = [
        f"{name}={','.join(str(tmp_path / 'runs' / f'{name}-{s}') for s in range(3))}" for name in ("old", "new")
    ]
    for form in (["--seeds", tmp_path / "runs"], ["--group", groups[0], "--group", groups[1]]):
        result = command(*form, *asked)
        assert result.exit_code == 0 and "rows alone" in result.output, result.output
        assert json.loads((tmp_path / "c.json").read_text())["comparisons"] == json.loads(json.dumps([asdict(row)]))


def test_rows_of_a_cluster_are_drawn_together(tmp_path: Path) -> None:
    reports = {}
    for size in (1, 20):
        rows = write_task(tmp_path / f"data{size}", cluster=size)
        folders = {
            name: [write_run(tmp_path / f"{name}{size}", rows, first_right(share))]
            for name, share in {"a": 0.5, "b": 0.6}.items()
        }
        reports[size] = compare_variants(folders, samples=1000).comparisons[0]
    assert reports[20].clusters == 10 and reports[1].difference.p < 0.01 < reports[20].difference.p


def test_few_clusters_are_said(tmp_path: Path) -> None:
    rows = write_task(tmp_path / "data", cluster=20)
    folders = [write_run(tmp_path / name, rows, first_right(0.5)) for name in "ab"]
    assert "Fewer than 30 clusters, so that intervals are too narrow: t (10)" in command(*folders).output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "vqa_accuracy"}, "metric is vqa_accuracy and exact_match"),
        ({"data_hash": "0" * 64}, "data_hash is 000000000000... and"),
        ({"n": 20}, f"n is 20 and {ROWS}"),
        ({"value": 0.9}, "but results.json says 0.9000: the metric has changed since"),
    ],
)
def test_runs_that_were_measured_otherwise_are_refused(
    runs: Path,
    yes_data: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    write_run(runs / "other", yes_data, first_right(0.5), **changes)
    assert message in refused(runs / "a", runs / "other")


def test_answers_to_other_rows_are_refused(runs: Path) -> None:
    path = runs / "good" / "predictions" / "t.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    write_rows(path, [*lines[:-1], {"id": "stranger", "prediction": "yes"}])
    assert "no prediction for row 'r199'. The task has 200 rows" in refused(runs / "a", runs / "good")


def test_data_that_changed_since_are_refused_and_moved_data_are_found(
    runs: Path,
    yes_data: Path,
    tmp_path: Path,
) -> None:
    moved = yes_data.rename(tmp_path / "t.jsonl")
    assert "t.jsonl: cannot be read" in refused(runs / "a", runs / "good")
    assert command(runs / "a", runs / "good", "--data-root", tmp_path).exit_code == 0
    write_task(moved.parent, rows=ROWS - 1)
    assert "has changed since" in refused(runs / "a", runs / "good", "--data-root", tmp_path)


def test_tasks_that_only_one_run_has_are_named(runs: Path) -> None:
    path = runs / "good" / "results.json"
    results = json.loads(path.read_text())
    results["tasks"]["u"] = results["tasks"]["t"]
    path.write_text(json.dumps(results))
    assert "has measured u" in refused(runs / "a", runs / "good")
    assert "task 'u' was not measured" in refused(runs / "good", runs / "a")
    assert command(runs / "a", runs / "good", "--task", "t").exit_code == 0


def test_other_questions_are_compared_and_noted(runs: Path, yes_data: Path) -> None:
    write_run(runs / "asked", yes_data, first_right(0.5), prompt="is it so?", decoding={"do_sample": True})
    result = command(runs / "a", runs / "asked")
    assert (
        result.exit_code == 0 and "was asked otherwise" in result.output and "t: prompt, t: decoding" in result.output
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "Found 1 variant(s)"),
        ([], "Found 0 variant(s)"),
        (["a", "none"], "none/results.json: cannot be read"),
        (["a", "good", "--against", "goood"], "Did you mean 'good'"),
        (["a", "--group", "two=good,bad"], "two has 2 run(s), a has 1"),
    ],
)
def test_a_mistake_is_named(runs: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(runs)
    assert message in refused(*arguments)
