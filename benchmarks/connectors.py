"""Which connector learns the quickstart best? Kinds and seeds trained and measured alike, kept, and put in one table.

`python -m benchmarks.connectors`. Every run is the quickstart without its dense baseline, at `scale`, with one kind of
connector behind all three encoders, and as many tokens for a medium as the other kinds. A run is a folder
`KIND-SEED/` with its models, predictions and results.json. Complete runs are not run again, interrupted ones go on
where they stopped; `table.md` and `table.json` are made of all.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from transformers.utils import logging

from .__main__ import environment
from .connectors_table import compare_kinds, render
from .timing import Case, measure

RECIPE = "configs/quickstart/quickstart.yaml"
EVALUATION = "configs/evaluation/quickstart.yaml"
STAGES = ("align", "specialists", "mixed")
QFORMER = {"type": "qformer", "num_attention_heads": 4}
KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "mlp": {"image": {"stack": 2}, "audio": {"stack": 4}, "speech": {"stack": 5}},
    "pooling": {
        "image": {"type": "pooling", "stride": [1, 2]},
        "audio": {"type": "pooling", "stride": [2, 2]},
        "speech": {"type": "pooling", "stride": 5},
    },
    "qformer": {
        "image": {**QFORMER, "num_queries": 8},
        "audio": {**QFORMER, "num_queries": 6},
        "speech": {**QFORMER, "num_queries": 10},
    },
}
"""Kind -> encoder -> fields of its connector: 8 tokens for a picture, 6 for a sound, 10 for a second of speech."""


@dataclass(frozen=True)
class Run:
    """One kind of connector, trained from one seed.

    Args:
        kind: Of `KINDS`.
        seed: Of the weights and the order of the data.
        scale: Share of the quickstart's steps.
        folder: Where everything of the run is.
    """

    kind: str
    seed: int
    scale: float
    folder: Path

    def settings(self) -> dict[str, Any]:
        """Say what the run's results depend on, as run.json keeps it."""
        return {"kind": self.kind, "seed": self.seed, "scale": self.scale, "connectors": KINDS[self.kind]}

    def commands(self) -> list[list[str]]:
        """Arguments of Python for data and start, for training, and for evaluation; the last two go on if repeated."""
        connectors = [f"model.config.{key}_connector_config={json.dumps(f)}" for key, f in KINDS[self.kind].items()]
        start = [word for setting in [f"seed={self.seed}", *connectors] for word in ("--set", setting)]
        only = [word for stage in STAGES for word in ("--only", stage)]
        recipe = [f"output={self.folder}", f"seed={self.seed}", f"scale={self.scale}"]
        paths = [f"output={self.folder}", f"data_root={self.folder}/data"]
        return [
            ["-m", "training.quickstart", str(self.folder), *start],
            ["-m", "training", RECIPE, "--resume", *only, *recipe, "defaults.trainer.save_steps=50"],
            ["-m", "evaluation", "--model", f"{self.folder}/model", "--config", EVALUATION, *paths],
        ]

    def is_complete(self) -> bool:
        """Whether there are results of these settings.

        Raises:
            ValueError: If the folder holds a run of other settings.
        """
        marker = self.folder / "run.json"
        if marker.is_file() and (found := json.loads(marker.read_text())) != self.settings():
            raise ValueError(f"{self.folder} holds another run ({found}). Choose another --out, or remove the folder.")
        return marker.is_file() and (self.folder / "results.json").is_file()


def python(arguments: list[str]) -> None:
    """Run Python with these arguments, its output shown.

    Raises:
        CalledProcessError: If it fails.
    """
    subprocess.run([sys.executable, *arguments], check=True)


def complete(run: Run, execute: Callable[[list[str]], None] = python) -> bool:
    """Bring a run to its end.

    Args:
        run: The run.
        execute: What runs a command.

    Returns:
        Whether anything was left to do.
    """
    if run.is_complete():
        return False
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "run.json").write_text(json.dumps(run.settings(), indent=1))
    data, *rest = run.commands()
    if not (run.folder / "start-dense" / "config.json").is_file():  # written after the start
        execute(data)
    for command in rest:
        execute(command)
    return True


def time_steps(runs: list[Run], *, rounds: int) -> dict[str, float]:
    """Forward and backward passes per second of each kind, over the first kind's; in turns, on one training batch.

    Args:
        runs: One of each kind; their starts are trained.
        rounds: Of which the median is taken.
    """
    from unimoe.checkpoint.loading import load_model, load_processor

    def step(run: Run) -> Callable[[], Any]:
        model = load_model(run.folder / "start").train()
        batch = training_batch(run, load_processor(run.folder / "start", model.config))

        def forward_and_backward() -> None:
            model.zero_grad()
            model(**batch).loss.backward()

        return forward_and_backward

    case = Case("a training step", {run.kind: step(run) for run in runs}, {})
    return {measurement.peer: 1 / measurement.ratio for measurement in measure(case, rounds=rounds)}


def training_batch(run: Run, processor: Any) -> dict[str, Any]:
    """Collate one batch of the first stage's mixture, as training would."""
    from training.config.recipe import load_recipe
    from training.data import Collator, MixtureDataset, MixtureSampler
    from training.data.mixture.dataset import read_mixture

    config = load_recipe(RECIPE, [f"output={run.folder}"]).stages[STAGES[0]]
    dataset = MixtureDataset(read_mixture(config.data), seed=0)
    indices = islice(MixtureSampler(dataset), config.trainer["per_device_train_batch_size"])
    return Collator(processor, max_length=config.data.max_length)([dataset[index] for index in indices])


def describe(run: Run) -> dict[str, Any]:
    """Tokens for a unit behind each encoder, and parameters of the connectors, of a trained model."""
    from unimoe.checkpoint.loading import load_model

    model = load_model(run.folder / "model")
    names = model.parts()["connectors"]
    tokens = {key: model.config.num_tokens[key] for key in KINDS[run.kind]}
    return {"tokens": tokens, "parameters": sum(model.get_parameter(name).numel() for name in names)}


def main(
    out: Annotated[Path, typer.Option(help="Folder of the runs and the table.")] = Path("runs/connectors"),
    kinds: Annotated[list[str] | None, typer.Option("--kind", help=f"Of {', '.join(KINDS)}; repeat. All.")] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Runs of each kind.")] = 3,
    scale: Annotated[float, typer.Option(help="Share of the quickstart's training steps.")] = 0.2,
    rounds: Annotated[int, typer.Option(min=3, help="Of timed training steps.")] = 15,
) -> None:
    """Train what is missing, seed by seed, and compare all kinds with the first."""
    names = list(kinds or KINDS)
    if unknown := set(names) - set(KINDS):
        raise typer.BadParameter(f"no kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}.")
    logging.disable_progress_bar()
    console = Console(width=119)
    runs = [Run(kind, seed, scale, out / f"{kind}-{seed}") for seed in range(seeds) for kind in names]
    for number, run in enumerate(runs, start=1):
        console.rule(f"run {number}/{len(runs)} {run.folder.name}")
        if not complete(run):
            console.print("complete")
    first = runs[: len(names)]
    steps = time_steps(first, rounds=rounds)
    facts = {run.kind: {**describe(run), "steps": steps[run.kind]} for run in first}
    results = compare_kinds({kind: [run.folder for run in runs if run.kind == kind] for kind in names}, EVALUATION)
    table = render(results, facts, task_labels(first[0]))
    (out / "table.md").write_text(table, encoding="utf-8")
    values = {kind: {task: asdict(cell) for task, cell in cells.items()} for kind, cells in results.items()}
    settings = {"seeds": seeds, "scale": scale, "rounds": rounds}
    report = {"results": values, "facts": facts, "settings": settings, "environment": environment()}
    (out / "table.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    console.print(table, markup=False, highlight=False, soft_wrap=True)


def task_labels(run: Run) -> dict[str, str]:
    """Name of each task, with its rows and its floor: what one can score without looking at the medium."""
    tasks = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))["tasks"]
    return {name: f"{name} ({task['n']:,} rows, floor {task['floor']:.3f})" for name, task in tasks.items()}


if __name__ == "__main__":
    typer.run(main)
