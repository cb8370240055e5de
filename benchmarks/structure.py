"""`python -m benchmarks.structure`: what the packages are made of, counted from their source, and held to limits.

An entry is a file or a folder at the top of a package, an arrow an import from one entry to another, a floor the
longest way down from an entry. `lint-imports` refuses imports upwards and circles; here is counted how many there are.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
PACKAGES = ("unimoe", "training", "evaluation", "benchmarks")
NOT_COUNTED = ("__init__", "__main__")
MAX_ENTRIES = {"unimoe": 22, "training": 15, "evaluation": 18}
MAX_FLOORS = {"training": 7}
MAX_FILE = 400
MAX_FUNCTION = 60


@dataclass(frozen=True)
class Structure:
    """Counts of one package.

    Args:
        package: Its name.
        arrows: Entry -> entries that it imports.
        files: Lines of each file, by its path.
        functions: Lines of each function, by path and name.
    """

    package: str
    arrows: dict[str, set[str]]
    files: dict[str, int]
    functions: dict[str, int]

    @property
    def floors(self) -> dict[str, int]:
        """Floor of each entry; those that import no other are on the first.

        Raises:
            ValueError: If entries import each other in a circle.
        """
        known: dict[str, int] = {}
        for entry in self.arrows:
            self._floor(entry, known, ())
        return known

    def _floor(self, entry: str, known: dict[str, int], way: tuple[str, ...]) -> int:
        if entry in way:
            raise ValueError(f"{self.package} has a circle: {' -> '.join((*way, entry))}.")
        if entry not in known:
            below = (self._floor(other, known, (*way, entry)) for other in self.arrows[entry])
            known[entry] = 1 + max(below, default=0)
        return known[entry]

    def excesses(self) -> Iterator[str]:
        """Say what is more than its limit."""
        floors = max(self.floors.values(), default=0)
        counts = [("entries", len(self.arrows), MAX_ENTRIES), ("floors", floors, MAX_FLOORS)]
        for what, count, limits in counts:
            if count > limits.get(self.package, count):
                yield f"{self.package} has {count} {what}, and may have {limits[self.package]}."
        for lengths, limit in ((self.files, MAX_FILE), (self.functions, MAX_FUNCTION)):
            yield from (
                f"{name} has {lines} lines, and may have {limit}." for name, lines in lengths.items() if lines > limit
            )


def measure(package: str, root: Path = ROOT) -> Structure:
    """Count what a package under `root` is made of."""
    structure = Structure(package, {}, {}, {})
    for path in sorted((root / package).rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(root))
        tree = ast.parse(text)
        structure.files[name] = len(text.splitlines())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                structure.functions[f"{name}:{node.name}"] = (node.end_lineno or node.lineno) - node.lineno + 1
        module = path.relative_to(root).with_suffix("").parts
        if module[1] not in NOT_COUNTED:
            others = structure.arrows.setdefault(module[1], set())
            others |= set(_entries(tree, module, root)) - {module[1], *NOT_COUNTED}
    return structure


def _entries(tree: ast.Module, module: tuple[str, ...], root: Path) -> Iterator[str]:
    """Entries of its own package that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = module[: -node.level] if node.level else ()
            target = [*base, *(node.module.split(".") if node.module else ())]
            for alias in node.names:
                full = [*target, alias.name]
                folder = root.joinpath(*full[:2])
                if full[0] == module[0] and (folder.is_dir() or folder.with_suffix(".py").is_file()):
                    yield full[1]


def main() -> None:
    """Count, and exit with 1 if anything is more than its limit."""
    table = Table("package", "entries", "arrows", "floors", "files", "longest file", "longest function")
    excesses: list[str] = []
    for package in PACKAGES:
        structure = measure(package)
        floors = max(structure.floors.values())
        numbers = (len(structure.arrows), sum(map(len, structure.arrows.values())), floors, len(structure.files))
        longest = (
            max(lengths.items(), key=lambda item: item[1]) for lengths in (structure.files, structure.functions)
        )
        table.add_row(package, *map(str, numbers), *(f"{lines} {name}" for name, lines in longest))
        excesses += structure.excesses()
    console = Console(width=160)
    console.print(table)
    for excess in excesses:
        console.print(excess, style="red")
    if excesses:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
