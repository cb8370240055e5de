"""The house stands: imports go down only, no circle, no file or function outgrows its idea, imports stay light."""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tiny_processor import FOLDER
from transformers import AutoModelForMultimodalLM, AutoProcessor

ROOT = Path(__file__).parents[1]
PACKAGES = ("unimoe", "training", "evaluation")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# Floor of each room of `unimoe`. A room imports from the floors below.
FLOORS = {
    "errors": 1,
    "modality": 2,
    "media": 2,
    "files": 3,
    "configuration": 4,
    "configuration_unimoe": 5,
    "encoders": 5,
    "connectors": 5,
    "processing": 5,
    "moe": 6,
    "processing_unimoe": 6,
    "presets": 6,
    "modeling": 7,
    "modeling_unimoe": 8,
    "checkpoint": 9,
    "analysis": 9,
    "tiny": 9,
    "build": 10,
    "surgery": 10,
    "integrations": 10,
    "cli": 11,
}
HEAVY = ("av", "deepspeed", "timm", "torchaudio", "peft", "datasets", "torchcodec", "matplotlib", "jiwer", "soundfile")
WALK = ("processing_unimoe", "modeling_unimoe", "connectors", "moe.block", "moe.losses")


@cache
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


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def describe(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=describe)
def test_imports_go_down_only(path: Path) -> None:
    here = module_name(path)
    package = here.split(".")[0]
    for target in imports(path):
        other = target.split(".")[0]
        if other not in PACKAGES:
            continue
        assert other in (package, "unimoe"), f"{here} imports {target}: only unimoe may be shared"
        if package == "unimoe" == other and room(here):
            assert room(here) in FLOORS, f"{here} has no floor"
            same = room(here) == room(target)
            below = FLOORS.get(room(target), 9) < FLOORS[room(here)]
            assert same or below, f"{here} (floor {FLOORS[room(here)]}) imports {target}, which is not below it"


def test_every_test_file_has_a_name_of_its_own() -> None:
    """pytest imports them by that name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), {name for name in names if names.count(name) > 1}


def test_there_is_no_circle() -> None:
    arrows: dict[str, set[str]] = {}
    for path in FILES:
        here = module_name(path)
        arrows[here] = {target for target in imports(path) if target.split(".")[0] in PACKAGES and target != here}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"circle: {' -> '.join([*trail, module])}"
        if module in done:
            return
        for target in arrows.get(module, ()):
            visit(target, (*trail, module))
        done.add(module)

    for module in arrows:
        visit(module, ())


def test_files_and_functions_hold_one_idea() -> None:
    sizes = {describe(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: lines for name, lines in sizes.items() if lines > 450}
    assert not [name for name in sizes if Path(name).stem in ("utils", "helpers")]
    functions = [
        (describe(path), node.name, (node.end_lineno or 0) - node.lineno + 1)
        for path in FILES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert not [(name, function, lines) for name, function, lines in functions if lines > 60]


def test_libraries_neither_print_nor_swallow_errors() -> None:
    nodes = [(path, node) for path in FILES for node in ast.walk(parse(path))]
    assert not [
        f"{describe(path)}:{node.lineno}"
        for path, node in nodes
        if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
        or (isinstance(node, ast.ExceptHandler) and node.type is None)
    ]


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    files = [path for path in FILES if path.is_relative_to(ROOT / "unimoe")]
    targets = [(describe(path), target) for path in files for target in imports(path, top_level=True)]
    assert not [f"{name} imports {target}" for name, target in targets if target.split(".")[0] in HEAVY]


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


def test_every_yaml_starts_with_the_command_that_runs_it() -> None:
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    firsts = {describe(path): path.read_text(encoding="utf-8").splitlines()[0] for path in files}
    assert len(firsts) > 10
    assert not {
        name: first
        for name, first in firsts.items()
        if not re.match(r"# .*(python -m|deepspeed|make )", first) or (name not in first and "make " not in first)
    }
