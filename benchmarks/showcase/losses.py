"""`python -m benchmarks.showcase.losses NAME=FOLDER,FOLDER,... ...`: losses on validation rows, beside each other.

Each folder is a stage's output, one for each seed; systems are paired seed by seed. The loss of a task is the mean
over the labels of its file, after the last step; `all` is the mean over tasks. Differences are to the first system,
with 95 % intervals of Student's t over seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from training.monitor.metrics_file import METRICS_FILE, read_metrics
from unimoe.errors import ConfigError
from unimoe.errors.terminal import fail

_PREFIX = "eval_loss/"
ALL = "all"
"""Name of the mean over tasks."""

# Of Student's t, two-sided 95 %, for 1, 2, ... degrees of freedom.
_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

Losses = dict[str, float]
"""Task -> loss, in nats per label; `all` too."""


@dataclass(frozen=True)
class Difference:
    """How much higher one system's loss is than another's; negative is better.

    Args:
        value: Mean over seeds.
        margin: Half the 95 % interval. None: of one seed.
        by_seed: Each seed's.
    """

    value: float
    margin: float | None
    by_seed: tuple[float, ...]

    def __str__(self) -> str:
        if self.margin is None:
            return f"{self.value:+.3f}"
        return f"{self.value:+.3f} ({self.value - self.margin:+.3f} to {self.value + self.margin:+.3f})"


def read_losses(folder: Path) -> Losses:
    """Read the losses of a stage's last measurement.

    Raises:
        ConfigError: If there is none.
    """
    logs = [log for log in read_metrics(folder / METRICS_FILE) if any(key.startswith(_PREFIX) for key in log)]
    if not logs:
        raise ConfigError(f"{folder}: {METRICS_FILE} has no losses of validation rows. Train it to the end first.")
    losses = {key.removeprefix(_PREFIX): float(value) for key, value in logs[-1].items() if key.startswith(_PREFIX)}
    return {**losses, ALL: float(np.mean(list(losses.values())))}


def subtract(losses: Sequence[float], others: Sequence[float]) -> Difference:
    """Subtract the losses of one system from those of another, seed by seed.

    Raises:
        ConfigError: If they have different numbers of seeds, or more than ten.
    """
    if len(losses) != len(others) or len(losses) > len(_QUANTILES) + 1:
        raise ConfigError(
            f"{len(losses)} and {len(others)} trainings cannot be paired. Give each system as many, ten at most."
        )
    by_seed = np.array(losses) - np.array(others)
    seeds = len(by_seed)
    margin = None
    if seeds > 1:
        margin = float(_QUANTILES[seeds - 2] * by_seed.std(ddof=1) / np.sqrt(seeds))
    return Difference(float(by_seed.mean()), margin, tuple(by_seed.tolist()))


def compare(systems: Mapping[str, Sequence[Losses]]) -> dict[str, dict[str, Difference]]:
    """Compare each system with the first: name -> task -> difference.

    Raises:
        ConfigError: If tasks or seeds differ.
    """
    (first, others), *rest = systems.items()
    tasks = set(others[0])
    for name, runs in systems.items():
        if any(set(run) != tasks for run in runs):
            raise ConfigError(f"{name} was measured on other files than {first}. Compare stages of one recipe.")
    return {
        name: {task: subtract([run[task] for run in runs], [run[task] for run in others]) for task in others[0]}
        for name, runs in rest
    }


def tabulate(systems: Mapping[str, Sequence[Losses]]) -> list[list[str]]:
    """Rows of a table: each task's mean loss in every system, and differences to the first."""
    (first, runs), *rest = systems.items()
    differences = compare(systems)
    rows = [["task", *systems, *(f"{name} - {first}" for name, _ in rest)]]
    for task in runs[0]:
        means = [f"{np.mean([run[task] for run in each]):.3f}" for each in systems.values()]
        rows.append([task, *means, *(str(differences[name][task]) for name, _ in rest)])
    return rows


def to_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown, its first row as its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in rows[0]) + " |", *lines[1:]])


def main(
    systems: Annotated[list[str], typer.Argument(metavar="NAME=FOLDER,...", help="Name, and an output of each seed.")],
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
) -> None:
    """Print the losses of systems on validation rows, and the differences to the first one."""
    try:
        named = [system.partition("=")[::2] for system in systems]
        read = {name: [read_losses(Path(folder)) for folder in folders.split(",")] for name, folders in named}
        rows = tabulate(read)
    except ConfigError as error:
        fail(error)
    if markdown:
        Console(soft_wrap=True).print(to_markdown(rows), markup=False, highlight=False)
        return
    table = Table(*rows[0])
    for row in rows[1:]:
        table.add_row(*row)
    Console(width=200).print(table)


if __name__ == "__main__":
    typer.run(main)
