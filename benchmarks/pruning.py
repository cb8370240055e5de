"""What does pruning cost each modality? Calibration on text or on everything, with and without quotas, recalibrated.

`python -m benchmarks.pruning RUNS OUT`: on the mixtures of seeds (`python -m benchmarks.ablations RUNS --only
quickstart`), each pruned by a quarter and by half, on the scores of the quickstart's tasks. What is finished is not
run again.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer
from rich.console import Console
from transformers.utils import logging

from unimoe.errors.terminal import fail
from unimoe.surgery.choice import Wish
from unimoe.surgery.folders import Rows
from unimoe.surgery.prune import prune_folder
from unimoe.surgery.recalibrate import recalibrate_folder

from .ablations_table import put_section

TASKS = {"vqa": "questions about pictures", "image_kind": "kinds of pictures", "spoken_word": "spoken words"}
TASKS["sound_kind"] = "kinds of sounds"
QUOTA = {"image": 1, "audio": 1, "speech": 1}
ROWS = 384


@dataclass(frozen=True)
class Variant:
    """One way to prune.

    Args:
        title: Of its row in the table.
        ratio: Share of the experts that go. None: nothing goes.
        modalities: Of the calibration rows. None: all.
        quota: Whether the expert that serves each medium most stays.
        recalibrated: Whether routers learn the answers of the model before.
    """

    title: str
    ratio: float | None = None
    modalities: tuple[str, ...] | None = None
    quota: bool = False
    recalibrated: bool = False

    @property
    def name(self) -> str:
        """Of its folder."""
        parts = [f"{self.ratio}", *(self.modalities or ()), *["quota"] * self.quota, *["again"] * self.recalibrated]
        return "-".join(parts) if self.ratio else "whole"


def variants() -> list[Variant]:
    """List the ways to prune, each after those that it needs."""
    found = [Variant("as trained")]
    for ratio in (0.25, 0.5):
        share = f"{ratio:.0%} pruned"
        found += [
            Variant(f"{share}, text alone", ratio, ("text",)),
            Variant(f"{share}, all modalities", ratio),
            Variant(f"{share}, all, quota", ratio, None, True),
            Variant(f"{share}, all, quota, recalibrated", ratio, None, True, True),
        ]
    return found


def make(variant: Variant, model: Path, data: Path, out: Path) -> None:
    """Write the model of a variant.

    Args:
        variant: How it is made.
        model: Folder of the mixture.
        data: Folder with `calibration.jsonl`.
        out: Folder of all variants of this seed.
    """
    rows = Rows(data / "calibration.jsonl", ROWS, 32, variant.modalities)
    target = out / variant.name
    if variant.recalibrated:
        before = out / variant.name.removesuffix("-again")
        recalibrate_folder(before, target, like=model, rows=rows, steps=20, learning_rate=3e-3)
        return
    wish = Wish(ratio=variant.ratio, quota=QUOTA if variant.quota else None)
    prune_folder(model, target, rows=rows, wish=wish)


def scores(model: Path, data: Path, out: Path) -> dict[str, float]:
    """Measure a model on the tasks; what is measured already is read."""
    results = out / "results.json"
    if not results.is_file():
        words = ["--model", str(model), "--config", "configs/evaluation/quickstart.yaml"]
        words += [f"output={out}", f"data_root={data}"]
        subprocess.run([sys.executable, "-m", "evaluation", *words], check=True, stdout=subprocess.DEVNULL)
    tasks = json.loads(results.read_text(encoding="utf-8"))["tasks"]
    return {task: tasks[task]["value"] for task in TASKS}


def table(found: dict[str, list[dict[str, float]]], seeds: int) -> str:
    """Lay out the means over seeds, with the lowest and the highest."""
    lines = [f"| experts | {' | '.join(TASKS.values())} |", "|---|" + "---|" * len(TASKS)]
    for title, measured in found.items():
        cells = [_cell([own[task] for own in measured]) for task in TASKS]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join([f"Exact match, mean of {seeds} seeds (lowest to highest).", "", *lines, ""])


def _cell(values: Iterable[float]) -> str:
    values = list(values)
    return f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main(
    runs: Annotated[Path, typer.Argument(help="Folder of the trainings: seed-N/data and seed-N/model.")],
    out: Annotated[Path, typer.Argument(help="Folder for pruned models and evaluations.")],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings that are pruned.")] = 3,
    markdown: Annotated[Path | None, typer.Option(help="Put the table into this file.")] = None,
) -> None:
    """Prune, recalibrate and measure the mixtures of some seeds."""
    logging.disable_progress_bar()
    console, found = Console(), {variant.title: [] for variant in variants()}  # type: ignore[var-annotated]
    try:
        for seed in range(seeds):
            model, data, home = runs / f"seed-{seed}" / "model", runs / f"seed-{seed}" / "data", out / f"seed-{seed}"
            for variant in variants():
                if variant.ratio and not (home / variant.name).is_dir():
                    make(variant, model, data, home)
                folder = home / variant.name if variant.ratio else model
                measured = scores(folder, data, home / f"{variant.name}-scores")
                found[variant.title].append(measured)
                console.print(f"seed {seed}, {variant.title}: {measured}", highlight=False)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        fail(error)
    (out / "pruning.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    console.print(table(found, seeds), highlight=False)
    if markdown is not None:
        put_section(markdown, "Damage by modality", table(found, seeds))


if __name__ == "__main__":
    typer.run(main)
