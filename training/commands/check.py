"""`python -m training check DATA ...`: validates data without a model, and says what is in it."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from unimoe.errors import ConfigError
from unimoe.errors.terminal import fail, plain
from unimoe.errors.visible import visible
from unimoe.files.settings import validate

from ..config.data import DataConfig, SourceConfig
from ..config.recipe import load_recipe

if TYPE_CHECKING:
    from unimoe.processing.lengths import TokenCounter

    from ..data.checking.check import Report

PROBLEMS = 1
_WIDTH = 160
"""Columns of a table that does not go to a terminal."""


class Asked(NamedTuple):
    """A source to check, and what the stage that it is from says of long rows."""

    source: SourceConfig
    max_length: int | None = None
    refuse_long: bool = True


def command(
    data: Annotated[list[str], typer.Argument(help="Data files, tables or Hub ids; or YAML files of stages.")],
    model: Annotated[str | None, typer.Option(help="Model or processor that counts tokens exactly.")] = None,
    media_root: Annotated[str | None, typer.Option(help="Folder of the media. None: the data file's.")] = None,
    decode: Annotated[bool, typer.Option(help="Decode all media, instead of reading headers.")] = False,
    max_length: Annotated[int | None, typer.Option(min=1, help="Most tokens of a row; needs --model.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="NAME=MEANING, e.g. question=user.")] = None,
    format: Annotated[str, typer.Option(help="The only format that rows may have.")] = "auto",
    split: Annotated[str | None, typer.Option(help="Of a saved folder or the Hub.")] = None,
    subset: Annotated[str | None, typer.Option(help="Configuration of a data set on the Hub.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Problems of each file that are shown.")] = 50,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all that was found to this file.")] = None,
) -> None:
    """Check data without training: every row, every medium. Exit code 0: clean, 1: problems, 2: wrong call."""
    given: dict[str, Any] = {"media_root": media_root, "format": format, "split": split, "subset": subset}
    try:
        if max_length is not None and model is None:
            raise ConfigError("--max-length counts tokens. Say which model's with --model.")
        given["columns"] = read_columns(column or [])
        sources = [source for name in data for source in read_sources(name, given)]
        counter = None if model is None else load_counter(model)
    except ConfigError as error:
        fail(error)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    reports = check_all(sources, counter=counter, decode=decode, max_length=max_length)
    for report in reports:
        print_report(report, console, show=show)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps([report.as_json() for report in reports], indent=1), encoding="utf-8")
    raise typer.Exit(PROBLEMS if any(report.problems for report in reports) else 0)


def read_columns(texts: list[str]) -> dict[str, str]:
    """Read `name=meaning` pairs.

    Raises:
        ConfigError: If a text is no such pair.
    """
    for text in texts:
        if "=" not in text:
            raise ConfigError(f"--column {text}: write NAME=MEANING, e.g. question=user.")
    return dict(text.split("=", 1) for text in texts)


def read_sources(name: str, given: dict[str, Any]) -> list[Asked]:
    """Return the sources that an argument names: itself, or those of a file of stages, each once.

    Args:
        name: A data file, a table, a Hub id, or a YAML file.
        given: Keys of `SourceConfig`, for data that are named themselves.

    Raises:
        ConfigError: If there is no such file, or a setting does not fit.
    """
    from ..data.readers.tables import is_table

    if not name.endswith((".yaml", ".yml")):
        if not Path(name).exists() and not is_table(name):
            raise ConfigError(f"There is no data file {name!r} (looked in {Path.cwd()}). Correct its path.")
        return [Asked(validate(SourceConfig, {"path": name, **given}, source=name))]
    found: dict[str, Asked] = {}
    for stage in load_recipe(name).stages.values():
        data: DataConfig = stage.data
        for source in data.mixture:
            asked = Asked(source, data.max_length, data.too_long == "refuse")
            found.setdefault(repr((source.model_dump(exclude={"weight", "augment", "stream"}), asked[1:])), asked)
    return list(found.values())


def load_counter(model: str) -> "TokenCounter":
    """Make what counts tokens as a model's processor makes them.

    Raises:
        ConfigError: If there is no such processor.
    """
    from transformers import AutoProcessor

    from unimoe.processing.lengths import TokenCounter

    from ..data.mixture.dataset import SAMPLING_RATE

    try:
        return TokenCounter(AutoProcessor.from_pretrained(model), sampling_rate=SAMPLING_RATE)
    except (AttributeError, ImportError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--model {model}: no processor of unimoe can be loaded ({reason}).") from error


def check_all(
    asked: list[Asked], *, counter: "TokenCounter | None", decode: bool, max_length: int | None
) -> list["Report"]:
    """Check all sources, with a bar that shows how far it is."""
    from ..data.checking.check import Checker

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    reports = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        for source, length, refuse_long in asked:

            def track(numbers: range, path: str = source.path) -> Iterable[int]:
                return bar.track(numbers, description=f"checking {plain(path)}")

            check = Checker(
                decode=decode,
                counter=counter,
                max_length=max_length or length,
                refuse_long=refuse_long,
                track=track,
            )
            reports.append(check(source))
    return reports


def print_report(report: "Report", console: Console, *, show: int) -> None:
    """Print the problems of a source as a table, and what is in it."""
    census = report.census
    console.rule(plain(report.path))
    if report.problems:
        table = Table("row", "key", "problem", "cure", title=f"{len(report.problems)} problem(s)")
        for error in report.problems[:show]:
            row = error.where.removeprefix(report.path).lstrip(": ") or "the file"
            table.add_row(*map(plain, (row, error.key, error.problem, error.cure)))
        console.print(table)
        if (more := len(report.problems) - show) > 0:
            console.print(f"and {more} more; --show and --json give all.", highlight=False)
    good = len(census.turns)
    lines = [f"{census.rows} rows, {census.rows - good} with problems"]
    if good:
        lines += [f"{name}: {counts(getattr(census, name))}" for name in ("formats", "modalities", "media", "roles")]
        values = census.as_json()
        lines += [f"turns in a row: {spread(values['turns'])}", f"media in a row: {spread(values['media_in_rows'])}"]
        lines += length_lines(values)
    if census.too_long:
        lines.append(f"too long: {census.too_long} row(s)")
    console.print(visible("\n".join([*lines, *report.notes])), highlight=False, markup=False)


def counts(values: dict[str, int]) -> str:
    """Write counts, the largest first."""
    ordered = sorted(values.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{name} {count}" for name, count in ordered) or "none"


def spread(values: dict[str, float]) -> str:
    """Write least, median and largest of some numbers."""
    return f"{values['least']} to {values['most']}, median {values['median']:g}, {values['sum']} in all"


def length_lines(values: dict[str, Any]) -> list[str]:
    """Write a histogram of the lengths of rows."""
    unit = "tokens" if "tokens" in values else "words"
    note = "" if unit == "tokens" else " (words and media are an estimate: --model counts tokens)"
    found = values[unit]
    ranges = found["histogram"]
    most = max(ranges.values())
    bars = [f"{name:>15} {count:>9} {'#' * -(-40 * count // most)}" for name, count in ranges.items()]
    return [f"{unit} in a row: {spread(found)}{note}", *bars]


__all__ = ["command"]
