"""The house stands: imports go down only, no circle, no file or function outgrows its idea, imports stay light."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tiny_processor import FOLDER
from transformers import AutoModelForMultimodalLM, AutoProcessor

from benchmarks.structure import measure

ROOT = Path(__file__).parents[1]
PACKAGES = ("unimoe", "training", "evaluation")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

WALK = ("processing_unimoe", "modeling_unimoe", "connectors", "moe.block", "moe.losses")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Absolute names of the modules that a file imports; `from x import y` gives x.y too if that is a module.

    With `top_level`, only the imports that run when the file is imported: not those in functions.
    """
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in run_at_import(parse(path)) if top_level else ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            submodules = [f"{name}.{alias.name}" for alias in node.names]
            found = [module for module in submodules if is_module(module)]
            yield from found or [name]


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes outside functions and `if TYPE_CHECKING:`, however deep in `try`, `if` or a class."""
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        if not typing_only and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from run_at_import(child)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


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


@pytest.mark.parametrize("package", ["benchmarks"])
def test_nothing_outgrows_its_idea(package: str) -> None:
    assert not list(measure(package).excesses())


def test_every_test_file_has_a_name_of_its_own() -> None:
    """pytest imports them by that name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), {name for name in names if names.count(name) > 1}


def test_unimoe_runs_without_the_heavy_libraries() -> None:
    code = (
        "import sys;"
        "sys.modules.update(dict.fromkeys(['deepspeed', 'timm', 'torchaudio', 'peft', 'datasets']));"
        "import unimoe; from tiny import tiny_inputs, tiny_model; model = tiny_model(num_experts=4);"
        "assert model(**tiny_inputs(model.config)).logits.isfinite().all()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "tests",
        env=environment(ROOT),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root)}


def test_the_walk_of_a_sample_visits_each_of_its_files_once() -> None:
    """Read in this order, a newcomer meets every stop after the one before, and never has to turn back."""
    for stop in WALK:
        assert is_module(f"unimoe.{stop}")
    reached = {stop: set(reach(f"unimoe.{stop}")) for stop in WALK}
    for earlier, later in pairwise(WALK):
        assert f"unimoe.{earlier}" not in reached[later], f"{later} leads back to {earlier}"


def reach(module: str) -> Iterator[str]:
    """Modules of this project that a module imports, directly or through others."""
    seen: set[str] = set()
    queue = [module]
    while queue:
        path = ROOT.joinpath(*queue.pop().split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for target in imports(file):
            if target.startswith("unimoe.") and target not in seen:
                seen.add(target)
                queue.append(target)
                yield target


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


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=describe)
def test_every_yaml_starts_with_the_command_that_runs_it(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and any(word in first for word in ("python -m", "deepspeed", "make "))
    assert describe(path) in first or "make " in first
