"""The structure holds: imports go down only, no circle, no file or function outgrows its idea, imports stay light."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import grimp
import pytest
from tiny_processor import FOLDER
from transformers import AutoModelForMultimodalLM, AutoProcessor

from benchmarks.structure import measure

ROOT = Path(__file__).parents[1]
PACKAGES = ("unimoe", "training", "evaluation")

WALK = ("processing_unimoe", "modeling_unimoe", "connectors", "moe.block", "moe.losses")


def describe(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True, check=False)


def test_imports_go_down_only() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "upwards"),
    [
        ("unimoe/moe/block.py", "from ..build import build_model"),
        ("training/config/stage.py", "from evaluation import run"),
        ("evaluation/tasks/sample.py", "from .jsonl import read_task"),  # a circle
    ],
)
def test_an_import_upwards_breaks_a_contract(tmp_path: Path, file: str, upwards: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in (*PACKAGES, "benchmarks"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("media*.*", "*.png", "*.wav")
        )
    with (tmp_path / file).open("a") as source:
        source.write(f"{upwards}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1 and "BROKEN" in result.stdout, result.stdout


@pytest.mark.parametrize("package", (*PACKAGES, "benchmarks"))
def test_nothing_outgrows_its_idea(package: str) -> None:
    assert not list(measure(package).excesses())


def test_no_file_is_a_drawer() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert not [describe(path) for path in files if path.stem in ("utils", "helpers")]


def test_every_test_file_has_a_name_of_its_own() -> None:
    """pytest imports them by that name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), {name for name in names if names.count(name) > 1}


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root)}


def test_the_walk_of_a_sample_visits_each_of_its_files_once() -> None:
    """Read in this order, a newcomer meets every stop after the one before, and never has to turn back."""
    graph = grimp.build_graph("unimoe", cache_dir=None)
    for earlier, later in pairwise(f"unimoe.{stop}" for stop in WALK):
        assert earlier not in graph.find_upstream_modules(later, as_package=True), f"{later} leads back to {earlier}"


def test_a_sample_walks_through_the_five_files_in_order_and_never_turns_back(model_folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(model_folder)
    model = AutoModelForMultimodalLM.from_pretrained(model_folder).eval()
    picture = {"type": "image", "path": str(FOLDER / "image_kind/food_00.png")}
    messages = [{"role": "user", "content": [picture, {"type": "text", "text": "what is this?"}]}]

    def sample() -> None:
        inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
        model(**inputs, labels=inputs["input_ids"])

    calls = stops_called(sample)
    assert tuple(dict.fromkeys(calls)) == WALK, "order of the first arrivals"
    for index, stop in enumerate(WALK):
        # what the connectors gave is merged into the text by the file that called them
        gone = set(WALK[:index]) - ({"modeling_unimoe"} if stop == "connectors" else set())
        again = gone.intersection(calls[calls.index(stop) :])
        assert not again, f"after {stop}, the sample is back in {again}"


def stops_called(action: Callable[[], None]) -> list[str]:
    """Stops of the walk in which functions are called while an action runs, one entry for each call."""
    paths = {str(ROOT / "unimoe" / stop.replace(".", "/")): stop for stop in WALK}
    calls: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            file = frame.f_code.co_filename.removesuffix(".py")
            stop = paths.get(file) or paths.get(str(Path(file).parent))
            calls.extend([stop] if stop else [])

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


def test_every_yaml_starts_with_the_command_that_runs_it() -> None:
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    firsts = {describe(path): path.read_text(encoding="utf-8").splitlines()[0] for path in files}
    assert len(firsts) > 10
    assert not {
        name: first
        for name, first in firsts.items()
        if not re.match(r"# .*(python -m|deepspeed|make )", first) or (name not in first and "make " not in first)
    }
