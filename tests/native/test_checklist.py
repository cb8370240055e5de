"""docs/transformers.md names tests that exist, and every file of this folder."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "transformers.md").read_text(encoding="utf-8")


def named() -> set[tuple[Path, str | None]]:
    """Files and tests that the page names."""
    found = re.findall(r"`((?:tests/(?:\w+/)?)?test_\w+\.py)(?:::(\w+))?`", PAGE)
    return {
        (ROOT / name if name.startswith("tests/") else ROOT / "tests/native" / name, test or None)
        for name, test in found
    }


def test_every_test_that_the_page_names_exists() -> None:
    assert len(named()) > 40
    for path, test in named():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert test is None or test in functions, f"{path.name}::{test}"


def test_the_page_names_every_file_of_native_behaviour() -> None:
    files = set(Path(__file__).parent.glob("test_*.py")) - {Path(__file__)}
    assert files <= {path for path, _ in named()}
