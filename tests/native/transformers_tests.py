"""transformers' own common tests, from the source distribution of the installed version: fetched when asked, not kept.

    python tests/native/transformers_tests.py        # or: make transformers-tests

`load` imports one of its modules. What the distribution leaves out is replaced by empty mixins, which `ABSENT` names.
"""

import importlib
import importlib.abc
import importlib.machinery
import os
import subprocess
import sys
import tarfile
import unittest
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import transformers
from tiny_processor import first

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("UNIMOE_TRANSFORMERS_TESTS", ROOT / "runs/transformers-sdist"))
TESTS = FOLDER / f"transformers-{transformers.__version__}" / "tests"
PACKAGE = "transformers_common_tests"
ABSENT: set[str] = set()
"""Modules that the distribution does not contain, as far as they were imported."""


def fetch() -> None:
    """Download the distribution, and `parameterized`, which its tests import, and unpack the tests."""
    wanted = [["--no-binary", "transformers", f"transformers=={transformers.__version__}"], ["parameterized"]]
    for names in wanted:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--dest", str(FOLDER), *names], check=True)
    archive = FOLDER / f"transformers-{transformers.__version__}.tar.gz"
    with tarfile.open(archive) as opened:
        inside = [member for member in opened.getmembers() if "/tests/" in f"/{member.name}"]
        opened.extractall(FOLDER, members=inside, filter="data")
    (TESTS / "__init__.py").touch()  # what the tests of configurations import as transformers
    (TESTS / "utils").mkdir(exist_ok=True)
    (TESTS / "utils/tiny_model_summary.json").write_text("{}", encoding="utf-8")  # its models are on the Hub
    source = TESTS.parent / "src"  # the installed package, where the tests look for it
    source.mkdir(exist_ok=True)
    if not (source / "transformers").exists():
        (source / "transformers").symlink_to(Path(transformers.__file__).parent)
    for wheel in FOLDER.glob("parameterized-*.whl"):
        zipfile.ZipFile(wheel).extractall(FOLDER / "packages")


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what the distribution lacks: modules with an empty class for every name."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if not fullname.startswith(f"{PACKAGE}.") and fullname != "fetch_hub_objects_for_ci":
            return None
        place = TESTS.joinpath(*fullname.split(".")[1:])
        if fullname.startswith(PACKAGE) and ((place / "__init__.py").is_file() or place.with_suffix(".py").is_file()):
            return None
        ABSENT.add(fullname.removeprefix(f"{PACKAGE}."))
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = _empty


def _empty(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name[0].isupper():
        return type(name, (), {})
    if name.endswith("kwargs"):
        return {}
    return _local if name == "url_to_local_path" else _skip


def _local(address: str) -> str:
    """A picture of the quickstart in the place of one of the Hub's."""
    is_picture = address.endswith((".png", ".jpg"))
    return str(first("image_kind", "*.png")) if is_picture else address


def _skip(*args: Any, **kwargs: Any) -> None:
    raise unittest.SkipTest("the source distribution does not contain what this needs")


def load(name: str) -> Any:
    """Import a module of transformers' `tests` folder."""
    if PACKAGE not in sys.modules:
        package = ModuleType(PACKAGE)
        package.__path__ = [str(TESTS)]
        sys.modules[PACKAGE] = package
        sys.meta_path.insert(0, _Absent())
        sys.path.append(str(FOLDER / "packages"))
    return importlib.import_module(f"{PACKAGE}.{name}")


if __name__ == "__main__":
    fetch()
    print(f"transformers' common tests are in {TESTS}")
