"""README.md of this folder names tests that exist, every file here, and the lines of docs/transformers.md."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
DOCUMENT = (ROOT / "docs" / "transformers.md").read_text(encoding="utf-8")


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


def test_every_line_of_the_document_is_shown() -> None:
    items = set(re.findall(r"^\| ([^|]+) \| `", PAGE, re.MULTILINE))
    promised = re.findall(
        r"^\| ([^|]+) \| [^|]", DOCUMENT.partition("## The checklist")[2].partition("\n## ")[0], re.MULTILINE
    )
    assert set(promised) - {"item"} <= items
