"""`python -m benchmarks.showcase.growth OUT OUT ...`: how losses fall with rows, operations, time and experts.

Each OUT is a folder of `python -m benchmarks.showcase`, of another `--scale`, or a copy of its `losses.json`.
Losses are means over the validation files and over seeds; differences are paired by seed, with 95 % intervals of
Student's t.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from unimoe.errors import ConfigError
from unimoe.errors.terminal import fail

from ..ablations_table import put_section
from .costs import Cost, mean
from .losses import ALL, subtract, to_markdown

DENSE, MIXTURE, WIDE = "dense of equal active parameters", "mixture", "dense of equal total parameters"
"""Systems of configs/showcase/main.yaml."""
EIGHT = "8 experts"
"""The mixture's name in configs/showcase/experts.yaml."""


@dataclass(frozen=True)
class Point:
    """A system at one length of training.

    Args:
        losses: Mean over validation files, of each seed.
        cost: Of its training, mean over seeds.
    """

    losses: tuple[float, ...]
    cost: Cost

    @property
    def loss(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.losses))


Curves = dict[str, list[Point]]
"""System -> a point for each length, the shortest first."""


def read_curves(folders: Sequence[Path], comparison: str) -> Curves:
    """Read what systems of a comparison lost in trainings of several lengths.

    Raises:
        ConfigError: If one has no losses.
    """
    reports = [read_report(folder) for folder in folders]
    having = [report for report in reports if comparison in report["losses"]]
    having.sort(key=lambda report: report["settings"]["scale"])
    return {
        system: [_point(report, comparison, system) for report in having] for system in _systems(having, comparison)
    }


def read_report(path: Path) -> dict[str, Any]:
    """Read the losses.json of a folder, or a copy of one.

    Raises:
        ConfigError: If there is none.
    """
    file = path if path.suffix == ".json" else path / "losses.json"
    if not file.is_file():
        raise ConfigError(f"{file} is not there. Write it: python -m benchmarks.showcase {file.parent}")
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return report


def _systems(reports: Sequence[Mapping[str, Any]], comparison: str) -> list[str]:
    return list(dict.fromkeys(system for report in reports for system in report["losses"][comparison]))


def _point(report: Mapping[str, Any], comparison: str, system: str) -> Point:
    losses = tuple(run[ALL] for run in report["losses"][comparison][system])
    return Point(losses, mean([Cost(*cost) for cost in report["costs"][comparison][system]]))


def tabulate_rows(curves: Curves) -> list[list[str]]:
    """One row for each length: the losses of the three main systems, and how far the mixture goes."""
    table = [["rows trained on", DENSE, MIXTURE, WIDE, f"{MIXTURE} - dense", "of the way to the wide one"]]
    for dense, mixture, wide in zip(curves[DENSE], curves[MIXTURE], curves[WIDE], strict=True):
        losses = [f"{point.loss:.3f}" for point in (dense, mixture, wide)]
        way = (dense.loss - mixture.loss) / (dense.loss - wide.loss)
        difference = str(subtract(mixture.losses, dense.losses))
        table.append([f"{dense.cost.rows:,.0f}", *losses, difference, f"{way:.0%}"])
    return table


def tabulate_costs(curves: Curves) -> list[list[str]]:
    """One row for each system, of the longest training: what it costs, and its loss at equal time.

    A loss at the time of the dense system is read off the line through the system's own lengths, over the logarithm
    of their times; beyond these there is none.
    """
    longest = curves[DENSE][-1].cost
    table = [["system", "active FLOPs", "seconds", "seconds, dense = 1", "loss", "loss in the dense system's time"]]
    for system, points in curves.items():
        cost = points[-1].cost
        there = loss_at(points, longest.seconds)
        table.append(
            [
                system,
                f"{cost.flops:.2e}",
                f"{cost.seconds:,.0f}",
                f"{cost.seconds / longest.seconds:.2f}",
                f"{points[-1].loss:.3f}",
                "longer than measured" if there is None else f"{there:.3f}",
            ]
        )
    return table


def loss_at(points: Sequence[Point], seconds: float) -> float | None:
    """Loss of a training of so many seconds, between those that were measured; None beyond them."""
    times = [point.cost.seconds for point in points]
    if not times[0] <= seconds <= times[-1]:
        return None
    return float(np.interp(np.log(seconds), np.log(times), [point.loss for point in points]))


def tabulate_experts(curves: Curves) -> list[list[str]]:
    """One row for each number of experts, at the longest length that was trained."""
    dense, eight = curves[DENSE][-1], curves[EIGHT][-1]
    table = [["system", "loss", "- dense", f"- {EIGHT}", "seconds, dense = 1"]]
    for system, points in curves.items():
        point = points[-1]
        differences = ["" if point is other else str(subtract(point.losses, other.losses)) for other in (dense, eight)]
        table.append([system, f"{point.loss:.3f}", *differences, f"{point.cost.seconds / dense.cost.seconds:.2f}"])
    return table


def draw(main_curves: Curves, expert_curves: Curves, file: Path) -> None:
    """Draw losses over active operations, over time and over the number of experts."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    by_flops, by_time, by_experts = figure.subplots(1, 3, sharey=False)
    for panel, axis, title in ((by_flops, "flops", "active FLOPs"), (by_time, "seconds", "seconds of training")):
        for system, points in main_curves.items():
            _line(panel, [getattr(point.cost, axis) for point in points], points, system)
        panel.set_xlabel(title)
    by_flops.set_ylabel("loss, nats per label")
    if expert_curves:
        experts = {name: points for name, points in expert_curves.items() if name != DENSE}
        _line(
            by_experts, [int(name.split()[0]) for name in experts], [each[-1] for each in experts.values()], "mixture"
        )
        by_experts.axhline(expert_curves[DENSE][-1].loss, linestyle="--", color="gray", label=DENSE)
        by_experts.set_xlabel("experts, two for a token")
    for panel in (by_flops, by_time, by_experts):
        panel.set_xscale("log", base=2 if panel is by_experts else 10)
        panel.legend(fontsize="small")
    figure.savefig(file, dpi=120)


def _line(panel: Any, places: Sequence[float], points: Sequence[Point], label: str) -> None:
    spread = [float(np.std(point.losses, ddof=1)) for point in points]
    panel.errorbar(places, [point.loss for point in points], yerr=spread, marker="o", capsize=3, label=label)


def main(
    folders: Annotated[list[Path], typer.Argument(help="Of `benchmarks.showcase`, each of another scale.")],
    picture: Annotated[Path | None, typer.Option(help="Draw the curves into this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Put the tables into this file, as its Growth.")] = None,
) -> None:
    """Print what growing rows, time and numbers of experts bring."""
    try:
        curves, experts = read_curves(folders, "main"), read_curves(folders, "experts")
        sections = {"By rows": tabulate_rows(curves), "By cost": tabulate_costs(curves)}
        sections |= {"By number of experts": tabulate_experts(experts)} if experts else {}
    except ConfigError as error:
        fail(error)
    text = "\n\n".join(f"### {title}\n\n{to_markdown(table)}" for title, table in sections.items())
    Console(soft_wrap=True).print(text, markup=False, highlight=False)
    if picture is not None:
        draw(curves, experts, picture)
    if markdown is not None:
        put_section(markdown, "Growth", text)


if __name__ == "__main__":
    typer.run(main)
