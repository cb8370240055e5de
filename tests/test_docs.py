"""The documents are true: links lead somewhere, commands and code work, tests and files that are named exist."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import (
    DOCUMENTS,
    PROGRAMS,
    ROOT,
    anchors,
    blocks,
    commands,
    describe,
    links,
    localised,
    prose,
    unimoe_commands,
)
from test_build import parts  # noqa: F401  # a fixture: saved language model and towers
from typer.main import get_command
from typer.testing import CliRunner

from training.config.recipe import load_recipe
from unimoe.cli import app

DOCS = [path for path in DOCUMENTS if path.parent.name == "docs"]
PYTHON = [block for path in DOCS for block in blocks(path) if block.language == "python"]
BUILDS = [arguments for path in DOCS for arguments in unimoe_commands(path) if arguments[0] == "build"]


def test_links_and_anchors_lead_somewhere() -> None:
    found = [
        (describe(path), file, anchor, (path.parent / file).resolve() if file else path)
        for path in DOCUMENTS
        for file, anchor in links(path)
    ]
    assert not [(document, file) for document, file, _, target in found if not target.exists()]
    assert not [
        (document, f"{file}#{anchor}") for document, file, anchor, to in found if anchor and anchor not in anchors(to)
    ]


def test_commands_name_programs_options_and_files_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in (words for path in DOCUMENTS for words in commands(path)):
        line = " ".join(words)
        assert line.startswith(PROGRAMS) or words[0] == "pip", line
        if words[0] == "make":
            assert words[1] in makefile_targets(), line
        elif words[0] == ".venv/bin/unimoe":
            command = get_command(app).commands[words[1]]  # type: ignore[attr-defined]
            command.make_context(words[1], words[2:])  # refuses unknown options
        elif words[0] == ".venv/bin/python":
            check_module(words[2], words[3:])


def makefile_targets() -> set[str]:
    return set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def check_module(name: str, arguments: list[str]) -> None:
    """A module that runs, each of whose options is a parameter in its source."""
    spec = importlib.util.find_spec(
        f"{name}.__main__" if importlib.util.find_spec(name).submodule_search_locations else name
    )
    assert spec is not None and spec.origin, name
    source = Path(spec.origin).read_text(encoding="utf-8")
    for argument in arguments:
        if argument.startswith("--"):
            option = argument.partition("=")[0].removeprefix("--").replace("-", "_")
            assert re.search(rf"\b{option}\b|--{argument[2:]}", source), f"python -m {name} has no {argument}"
    if name == "training" and arguments[0].endswith(".yaml"):  # not another command
        load_recipe(arguments[0], [word for word in arguments[1:] if "=" in word])


@pytest.mark.parametrize("arguments", BUILDS, ids=" ".join)
def test_builds_of_the_docs_run_with_local_folders(arguments, parts, tmp_path: Path) -> None:  # noqa: F811
    small = ["image.stride=2" if word == "image.stride=3" else word for word in arguments]  # of 2 x 2 tokens
    result = CliRunner().invoke(app, localised(small, parts[0], tmp_path / "out"))
    assert result.exit_code == 0 and (tmp_path / "out/model.safetensors").is_file(), result.output


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.document}: {block.text.splitlines()[0]}")
def test_python_of_the_docs_runs(block, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code = compile(block.text.replace("runs/quickstart/model", str(model_folder)), block.document, "exec")
    if block.needs in ("", "quickstart"):
        exec(code, {})


def test_tests_files_modules_and_targets_named_in_the_text_exist() -> None:
    assert not [f"{describe(path)} names {name}" for path in DOCUMENTS for name in absent_names(prose(path))]


def absent_names(text: str) -> Iterator[str]:
    """Names in a text of tests, files, modules and targets of make that do not exist."""
    for file, name in re.findall(r"(\w+\.py)::(\w+)", text):
        sources = [source.read_text(encoding="utf-8") for source in (ROOT / "tests").rglob(file)]
        if not any(f"def {name}(" in source for source in sources):
            yield f"{file}::{name}"
    folders = "unimoe|training|evaluation|benchmarks|tests|configs|docs"
    files = re.findall(rf"`((?:{folders})/[\w/.-]*\w)(?:::\w+)?/?`", text)
    yield from (file for file in files if not (ROOT / file).exists())
    modules = re.findall(r"`[^`\n]*python -m ([\w.]+)", text)
    yield from (f"python -m {module}" for module in modules if importlib.util.find_spec(module) is None)
    targets = re.findall(r"`make ([\w-]+)", text)
    yield from (f"make {target}" for target in targets if target not in makefile_targets())
