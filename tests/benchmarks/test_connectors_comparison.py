"""The comparison of connectors: what is run, what is skipped, and how sure its table is."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from typer import Typer
from typer.testing import CliRunner

from benchmarks import connectors
from benchmarks.connectors import KINDS, RECIPE, STAGES, Run, complete, main
from benchmarks.connectors_table import Cell, Estimate, compare_kinds, difference, estimate, read_scores, render
from evaluation.fingerprint import file_hash
from training.config.recipe import load_recipe
from training.quickstart.build import ModelConfig
from unimoe import UniMoEConfig

ROOT = Path(__file__).parents[2]
app = Typer()
app.command()(main)


def run_of(folder: Path, **changes: Any) -> Run:
    return Run(**{"kind": "pooling", "seed": 1, "scale": 0.2, "folder": folder, **changes})


class Machine:
    """Notes the commands of a run and leaves behind what they would; may stop at one of them."""

    def __init__(self, folder: Path, stop_at: str = "") -> None:
        self.folder, self.stop_at = folder, stop_at
        self.ran: list[str] = []

    def __call__(self, arguments: list[str]) -> None:
        module = arguments[1]
        if module == self.stop_at:
            raise KeyboardInterrupt
        self.ran.append(module)
        leaves = {"training.quickstart": "start-dense/config.json", "evaluation": "results.json"}
        if name := leaves.get(module):
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text("{}")


def test_a_complete_run_is_not_run_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert complete(run_of(tmp_path), machine)
    assert machine.ran == ["training.quickstart", "training", "evaluation"]
    assert not complete(run_of(tmp_path), machine) and len(machine.ran) == 3


@pytest.mark.parametrize(
    ("stop_at", "left"),
    [
        ("training.quickstart", ["training.quickstart", "training", "evaluation"]),
        ("training", ["training", "evaluation"]),
        ("evaluation", ["training", "evaluation"]),  # training finds its stages complete
    ],
)
def test_an_interrupted_run_goes_on_where_it_stopped(stop_at: str, left: list[str], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        complete(run_of(tmp_path), Machine(tmp_path, stop_at))
    again = Machine(tmp_path)
    assert complete(run_of(tmp_path), again) and again.ran == left


@pytest.mark.parametrize("changes", [{"seed": 2}, {"scale": 1.0}, {"kind": "mlp"}])
def test_a_folder_of_another_run_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    complete(run_of(tmp_path), Machine(tmp_path))
    with pytest.raises(ValueError, match="holds another run"):
        complete(run_of(tmp_path, **changes), Machine(tmp_path))


def test_changed_connectors_are_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(run_of(tmp_path), Machine(tmp_path))
    monkeypatch.setitem(connectors.KINDS, "pooling", {"image": {"type": "pooling", "stride": 4}})
    with pytest.raises(ValueError, match="holds another run"):
        run_of(tmp_path).is_complete()


@pytest.mark.parametrize("kind", KINDS)
def test_the_commands_train_this_kind_with_as_many_tokens_as_every_other(kind: str, tmp_path: Path) -> None:
    data, training, evaluation = run_of(tmp_path, kind=kind).commands()
    recipe = load_recipe(RECIPE, [value for flag, value in pairwise(data) if flag == "--set"])
    sizes = ModelConfig.model_validate(recipe.model)
    ids = {"image_token_id": 0, "video_token_id": 1, "audio_token_id": 2, "speech_token_id": 3}
    config = UniMoEConfig(**{**sizes.config, **ids})
    assert recipe.seed == 1
    assert {key: config.num_tokens[key] for key in KINDS[kind]} == {"image": 8, "audio": 6, "speech": 10}
    assert {config.connector_config(key).type for key in KINDS[kind]} == {kind}
    overrides = [argument for argument in training if "=" in argument]
    stages = load_recipe(RECIPE, overrides).stages
    full = load_recipe(RECIPE).stages["align"].trainer["max_steps"]
    assert all(stage.seed == 1 for stage in stages.values()) and stages["align"].trainer["max_steps"] == round(
        0.2 * full
    )
    assert list(stages) == [*STAGES, "dense"] and training.count("--only") == len(STAGES)
    assert f"{tmp_path}/model" in evaluation and stages["mixed"].output == f"{tmp_path}/model"


def scores_of(by_seed: list[float], rows: int = 400) -> np.ndarray:
    """Each seed is right in the first so many rows: (S, rows, 2)."""
    right = np.arange(rows) < np.array(by_seed)[:, None] * rows
    return np.stack([right.astype(float), np.ones_like(right, dtype=float)], axis=-1)


def test_seeds_that_agree_leave_the_chance_of_the_rows() -> None:
    scores = scores_of([0.25, 0.25, 0.25])
    found = estimate(scores, [str(row) for row in range(400)])
    half = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert found.value == 0.25
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half), rel=0.08)


def test_rows_that_agree_leave_students_t_of_the_seeds() -> None:
    """Every row scores 0.2, 0.4 or 0.6, as its seed does: nothing is due to the rows."""
    numerators = np.broadcast_to(np.array([0.2, 0.4, 0.6])[:, None], (3, 50))
    found = estimate(
        np.stack([numerators, np.ones((3, 50))], axis=-1), [str(row) for row in range(50)], samples=200_000
    )
    half = 4.3027 * 0.2 / 3**0.5  # t of two degrees of freedom
    assert found.value == pytest.approx(0.4)
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half), rel=0.03)


def test_rows_of_one_cluster_count_once() -> None:
    scores = scores_of([0.5, 0.5])
    apart = estimate(scores, [str(row) for row in range(400)])
    together = estimate(scores, [str(row // 40) for row in range(400)])
    assert together.high - together.low > 4 * (apart.high - apart.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(150):
        chance = 0.5 + 0.05 * generator.standard_normal(3)[:, None] + 0.2 * generator.standard_normal(80)
        right = generator.random((3, 80)) < chance
        scores = np.stack([right.astype(float), np.ones((3, 80))], axis=-1)
        found = estimate(scores, [str(row) for row in range(80)], samples=400)
        covered.append(found.low <= 0.5 <= found.high)
    assert np.mean(covered) >= 0.92


def test_one_seed_says_nothing_of_seeds() -> None:
    with pytest.raises(ValueError, match="1 seed"):
        estimate(scores_of([0.5]), [str(row) for row in range(400)])


def test_differences_are_paired_row_by_row_and_seed_by_seed() -> None:
    better, worse = scores_of([0.9, 0.5, 0.7]), scores_of([0.8, 0.4, 0.6])
    rows = [str(row) for row in range(400)]
    paired = estimate(difference(better, worse), rows)
    assert paired.value == pytest.approx(0.1) and paired.low > 0.06
    assert estimate(better, rows).low < 0.5  # alone, its seeds are far apart
    with pytest.raises(ValueError, match="weighs differently"):
        difference(better, 2 * worse)


def write_run(folder: Path, right: int, *, of: int = 4, data: str | None = None) -> Path:
    """Data of one task and predictions of which the first so many are right."""
    (folder / "data").mkdir(parents=True)
    (folder / "predictions").mkdir()
    path = folder / "data" / "t.jsonl"
    messages = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "yes"}]
    path.write_text("".join(json.dumps({"id": str(i), "task": "t", "messages": messages}) + "\n" for i in range(of)))
    lines: list[dict[str, Any]] = [{"header": {"data": data or file_hash(path)}}]
    lines += [{"id": str(i), "prediction": "yes" if i < right else "no"} for i in reversed(range(of))]
    (folder / "predictions" / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_kinds_are_compared_by_the_answers_that_they_kept(tmp_path: Path) -> None:
    config = tmp_path / "evaluation.yaml"
    config.write_text(yaml.safe_dump({"output": "x", "tasks": {"t": {"data": "t.jsonl"}}}))
    folders = {
        kind: [write_run(tmp_path / f"{kind}-{seed}", right) for seed, right in enumerate(rights)]
        for kind, rights in {"mlp": (1, 1), "pooling": (3, 4)}.items()
    }
    cells = compare_kinds(folders, str(config))
    assert cells["mlp"]["t"].score.value == 0.25 and cells["mlp"]["t"].difference is None
    assert cells["pooling"]["t"].score.value == 0.875
    assert cells["pooling"]["t"].difference.value == 0.625
    folders["pooling"][1] = write_run(tmp_path / "other", 4, data="of other rows")
    with pytest.raises(ValueError, match="answers other rows"):
        compare_kinds(folders, str(config))


def test_missing_answers_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 2)
    sample = SimpleNamespace(id="never asked")
    task: Any = SimpleNamespace(name="t", data_hash=file_hash(tmp_path / "a/data/t.jsonl"), samples=[sample])
    with pytest.raises(ValueError, match="lacks 1 answers, never asked among them"):
        read_scores(tmp_path / "a", task)


def test_the_table_has_a_column_for_each_kind() -> None:
    cells = {
        "mlp": {"t": Cell(Estimate(0.5, 0.4, 0.6), None)},
        "pooling": {"t": Cell(Estimate(0.7, 0.6, 0.8), Estimate(0.2, -0.1, 0.3))},
    }
    facts = {kind: {"tokens": {"image": 8}, "parameters": 1234, "steps": 0.5} for kind in cells}
    lines = render(cells, facts, {"t": "t (4 rows)"}).splitlines()
    assert lines[2] == "| t (4 rows) | 0.500 (0.400 to 0.600) | 0.700 (0.600 to 0.800) |"
    assert lines[3] == "| t, more than mlp |  | 0.200 (-0.100 to 0.300) |"
    assert "| tokens, image | 8 | 8 |" in lines and "| parameters of the connectors | 1,234 | 1,234 |" in lines
    assert {line.count("|") for line in lines} == {4}


@pytest.mark.slow
def test_from_nothing_to_the_table_and_again_without_training(tmp_path: Path) -> None:
    options = ["--seeds", "2", "--kind", "mlp", "--kind", "qformer", "--scale", "0.01", "--rounds", "3"]
    command = [sys.executable, "-m", "benchmarks.connectors", "--out", str(tmp_path), *options]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    weights = tmp_path / "qformer-1" / "model" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert again.stdout.count("complete") == 4 and weights.stat().st_mtime_ns == written
    report = json.loads((tmp_path / "table.json").read_text())
    assert report["facts"]["mlp"]["tokens"] == report["facts"]["qformer"]["tokens"]
    assert report["facts"]["mlp"]["steps"] == 1.0 and report["facts"]["qformer"]["steps"] > 0
    assert report["results"]["qformer"]["vqa"]["difference"]["low"] is not None
    assert "| vqa (2,500 rows, floor 0.674) |" in (tmp_path / "table.md").read_text()


def test_the_command_trains_seed_by_seed_and_an_unknown_kind_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def stop_after_four(run: Run) -> bool:
        asked.append(run.folder.name)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(connectors, "complete", stop_after_four)
    CliRunner().invoke(app, ["--out", str(tmp_path)])
    assert asked == [*(f"{kind}-0" for kind in KINDS), f"{next(iter(KINDS))}-1"]
    result = CliRunner().invoke(app, ["--kind", "perceiver"])
    assert result.exit_code == 2 and "qformer" in result.output
