"""What lmms-eval imports on every start costs next to nothing, and names classes that are there."""

import ast
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.imports import modules_after

ROOT = Path(__file__).parents[2]
ENTRY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]["unimoe"]


def test_the_entry_point_imports_nothing_but_itself() -> None:
    name, _, _ = ENTRY.partition(":")
    added = modules_after(f"import typing, {name}") - modules_after("import typing")
    assert added == {name}, sorted(added)


def test_the_entry_point_names_classes_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ModuleType("lmms_eval.models.registry_v2")
    registry.ModelManifest = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", registry)
    module, _, function = ENTRY.partition(":")
    manifest = getattr(import_module(module), function)()
    for path in (manifest["chat_class_path"], manifest["simple_class_path"]):
        file, _, name = path.rpartition(".")
        tree = ast.parse((ROOT / f"{file.replace('.', '/')}.py").read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_a_wheel_holds_the_entry_point() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert ENTRY.partition(":")[0] + ".py" in wheel["only-include"]
