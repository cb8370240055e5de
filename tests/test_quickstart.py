"""The README's first command, a fiftieth as long: data, six stages, evaluation, and the model in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_quickstart_goes_from_nothing_to_its_results(tmp_path: Path) -> None:
    bin_folder = Path(sys.executable).parent
    make = f"make quickstart SCALE=0.02 OUT={tmp_path} BIN={bin_folder} VENV={tmp_path}"
    (tmp_path / ".unimoe-dev").touch()  # the environment is this one
    done = subprocess.run(make.split(), cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert set(results["tasks"]) == {"vqa", "image_kind", "spoken_word", "sound_kind"}
    for task in results["tasks"].values():
        assert task["low"] <= task["value"] <= task["high"]
        assert task["floor"] == max(task["floors"].values())
        assert {"shuffled", "baseline"} <= set(task)
    vqa = results["tasks"]["vqa"]
    assert vqa["n"] >= 2000 and vqa["floors"]["majority"] == pytest.approx(0.373, abs=0.02)
    assert json.loads((tmp_path / "model" / "certificate.json").read_text())["kind"] == "exact"
    assert (tmp_path / "routing.png").stat().st_size > 10_000
    assert "AutoModelForMultimodalLM" in done.stdout
