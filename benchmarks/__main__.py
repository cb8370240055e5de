"""Run benchmarks: `python -m benchmarks [NAME ...] --out results.json`; without names, all."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from evaluation.results import versions

from .cases import CASES
from .timing import Measurement, measure

console = Console(width=119)


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(CASES)}. None: all.")] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Rounds of which the median is taken.")] = 15,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    seed: Annotated[int, typer.Option(help="Of weights and tokens.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Time peers side by side, in turns, and print one table for each case."""
    if unknown := set(names or []) - set(CASES):
        raise typer.BadParameter(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(CASES)}.")
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for name in names or CASES:
        torch.manual_seed(seed)
        for case in CASES[name]():
            measurements = measure(case, rounds=rounds)
            console.print(table_of(measurements))
            rows += [{"benchmark": name, **measurement.as_row()} for measurement in measurements]
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        settings = {"rounds": rounds, "threads": threads, "seed": seed}
        out.write_text(json.dumps({"environment": environment(), "settings": settings, "results": rows}, indent=1))
        console.print(f"written to {out}", highlight=False)


def table_of(measurements: list[Measurement]) -> Table:
    """One row for each peer: median, quartiles, ratio to the first, and what was counted."""
    facts = sorted({name for measurement in measurements for name in measurement.facts})
    table = Table("peer", "median ms", "quartiles", "ratio", *facts, title=measurements[0].case, title_justify="left")
    for m in measurements:
        counted = [f"{m.facts[name]:,.1f}" if name in m.facts else "" for name in facts]
        quartiles = f"{m.low * 1e3:.2f} to {m.high * 1e3:.2f}"
        table.add_row(m.peer, f"{m.median * 1e3:.2f}", quartiles, f"{m.ratio:.2f}", *counted)
    return table


def environment() -> dict[str, str]:
    """Say what the times depend on."""
    return {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU", **versions()}


if __name__ == "__main__":
    typer.run(main)
