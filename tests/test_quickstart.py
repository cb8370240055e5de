"""The README's first command, a fiftieth as long: data, three stages, evaluation; then the baseline beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def quickstart(out: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """Results of a short run in this environment, and what it printed."""
    make = f"make quickstart SCALE=0.02 OUT={out} BIN={Path(sys.executable).parent} VENV={out}"
    (out / ".unimoe-dev").touch()  # the environment is this one
    command = [*make.split(), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads((out / "results.json").read_text(encoding="utf-8")), done.stdout


@pytest.mark.slow
def test_the_quickstart_goes_from_nothing_to_its_results_and_then_to_its_baseline(tmp_path: Path) -> None:
    results, said = quickstart(tmp_path)
    assert set(results["tasks"]) == {"vqa", "image_kind", "spoken_word", "sound_kind"}
    for task in results["tasks"].values():
        assert task["low"] <= task["value"] <= task["high"]
        assert task["floor"] == max(task["floors"].values())
        assert "shuffled" in task and "baseline" not in task
    vqa = results["tasks"]["vqa"]
    assert vqa["n"] >= 2000 and vqa["floors"]["majority"] == pytest.approx(0.373, abs=0.02)
    assert json.loads((tmp_path / "model" / "certificate.json").read_text())["kind"] == "exact"
    assert (tmp_path / "routing.png").stat().st_size > 10_000
    assert "AutoModelForMultimodalLM" in said and said.rstrip().endswith("make quickstart BASELINE=1")
    beside, _ = quickstart(tmp_path, "BASELINE=1")
    assert all("baseline" in task for task in beside["tasks"].values())
    assert {name: task["value"] for name, task in beside["tasks"].items()} == {
        name: task["value"] for name, task in results["tasks"].items()
    }
