"""The Markdown files of the repository: their links, anchors, code blocks and commands."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
PROGRAMS = ("make ", ".venv/bin/unimoe ", ".venv/bin/python -m ")


@dataclass(frozen=True)
class Block:
    """A fenced block of code; `needs` says what must be there before it runs as written."""

    document: str
    needs: str
    language: str
    text: str


def describe(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> list[Block]:
    found = re.findall(
        r"^(?:<!-- needs: ([\w-]+) -->\n)?```(\w*)\n(.*?)^```$",
        path.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    return [Block(describe(path), *block) for block in found]


def commands(path: Path) -> list[list[str]]:
    """Words of each line of the bash blocks."""
    lines = [line for block in blocks(path) if block.language == "bash" for line in block.text.strip().splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def unimoe_commands(path: Path) -> list[list[str]]:
    """Arguments of each call of `unimoe`."""
    return [words[1:] for words in commands(path) if words[0] == ".venv/bin/unimoe"]


def prose(path: Path) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def links(path: Path) -> list[tuple[str, str]]:
    """File (may be empty) and anchor (may be empty) of each link that stays in the repository."""
    targets = re.findall(r"\]\((?!\w+://|mailto:)([^)\s]+)\)", prose(path))
    return [(target.partition("#")[0], target.partition("#")[2]) for target in targets]


def anchors(path: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(path), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def localised(arguments: list[str], root: Path, out: Path) -> list[str]:
    """A `unimoe build` with small local folders in the place of Hub ids, and a stride that fits their 2 x 2 tokens."""
    arguments = ["image.stride=2" if word.startswith("image.stride=") else word for word in arguments]
    for option in {"--language", "--vision", "--speech", "--audio"} & set(arguments):
        arguments[arguments.index(option) + 1] = str(root / option.removeprefix("--"))
    arguments[arguments.index("--out") + 1] = str(out)
    return arguments
