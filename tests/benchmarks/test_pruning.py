"""The benchmark of pruning makes every variant, measures each once, and lays out means over seeds."""

from pathlib import Path

import pytest
import typer
from surgery.rows import write_rows
from tiny_model import save_tiny
from typer.testing import CliRunner

from benchmarks import pruning


def test_every_variant_is_made_measured_and_laid_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(2):
        home = tmp_path / f"runs/seed-{seed}"
        save_tiny(home / "model", num_experts=8, num_experts_per_tok=2)
        (home / "data").mkdir()
        write_rows(home / "data").rename(home / "data/calibration.jsonl")
    measured: list[Path] = []

    def scores(model: Path, data: Path, out: Path) -> dict[str, float]:
        measured.append(model)
        return dict.fromkeys(pruning.TASKS, 0.25 + 0.5 * ("seed-1" in str(model)))

    some = [own for own in pruning.variants() if own.ratio != 0.25 and own.modalities is None]
    monkeypatch.setattr(pruning, "variants", lambda: some)
    monkeypatch.setattr(pruning, "scores", scores)
    app = typer.Typer()
    app.command()(pruning.main)
    page = tmp_path / "page.md"
    words = [str(tmp_path / "runs"), str(tmp_path / "out"), "--seeds", "2", "--markdown", str(page)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert len(measured) == len(set(measured)) == 2 * len(some) == 8
    rows = [line for line in page.read_text().splitlines() if line.startswith("| 50% pruned, all, quota, recal")]
    assert rows == [f"| 50% pruned, all, quota, recalibrated |{' 0.500 (0.250 to 0.750) |' * 4}"]
