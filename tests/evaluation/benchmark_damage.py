"""Damage to the files of a benchmark: change its rows, whatever the form of the file, and see what is said."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
from benchmark_fixtures import FIXTURES
from fixture_files import Row, write_json, write_lines, write_parquet, write_table

from evaluation.errors import EvaluationError
from evaluation.tasks import BENCHMARKS, Sample


@dataclass(frozen=True)
class Rows:
    """Rows of an annotation file.

    Args:
        file: Its name below the folder of the benchmark.
        within: Key of the list of rows in a JSON object. None: the file is the list, or tells rows by its ending.
        by_id: The file is a JSON object of rows by their ids.
        by_line: The file has a JSON object a line, although it is not called .jsonl.
    """

    file: str
    within: str | None = None
    by_id: bool = False
    by_line: bool = False

    def change(self, folder: Path, change: Callable[[list[Row]], object]) -> None:
        """Read the rows, let `change` work on the list, write them back."""
        path = folder / self.file
        if path.suffix == ".parquet":
            rows = pyarrow.parquet.read_table(path).to_pylist()
            change(rows)
            write_parquet(path, rows)
        elif path.suffix in (".tsv", ".csv"):
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t"))
            change(rows)
            write_table(path, rows)
        elif self.by_line or path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            change(rows)
            write_lines(path, rows)
        else:
            content = json.loads(path.read_text())
            rows = list(content.values()) if self.by_id else content[self.within] if self.within else content
            change(rows)
            write_json(path, content)


def write(name: str, data_root: Path) -> Path:
    """The fixture of a benchmark; returns its folder."""
    folder = data_root / name
    folder.mkdir(parents=True, exist_ok=True)
    FIXTURES[name](folder)
    return folder


def read(name: str, data_root: Path) -> dict[str, Sample]:
    """Rows of a benchmark by id, without its prompt."""
    benchmark = BENCHMARKS[name]
    return {sample.id: sample for sample in benchmark.samples(benchmark.source(data_root))}


def read_fixture(name: str, data_root: Path) -> list[Sample]:
    """Rows of the fixture of a benchmark, in order."""
    write(name, data_root)
    return list(read(name, data_root).values())


def read_hub_row(name: str, row: Row, data_root: Path, *, where: str = "row 0", **source: Any) -> Sample:
    """A row of the Hub."""
    benchmark = BENCHMARKS[name]
    assert benchmark.hub is not None
    sample = benchmark.read(benchmark.hub.layout.parse(row, where), replace(benchmark.source(data_root), **source))
    assert sample is not None
    return sample


def complaint(name: str, data_root: Path) -> str:
    """What reading a damaged benchmark says."""
    try:
        read(name, data_root)
    except EvaluationError as error:
        return str(error)
    raise AssertionError(f"{name} was read without a complaint")


def damaged(name: str, data_root: Path, rows: Rows, change: Callable[[list[Row]], object]) -> str:
    """What is said of a fixture after rows of a file were changed."""
    rows.change(write(name, data_root), change)
    return complaint(name, data_root)
