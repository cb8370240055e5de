"""What do the choices of a recipe bring? Variants of a model, several seeds each, trained and compared alike.

`python -m benchmarks.ablations OUT`. A comparison is a file that names a recipe and which of its stages are compared;
those of `configs/ablations/` are variants of the quickstart. Everything of a seed is in `OUT/seed-N/`, evaluations are
`OUT/STAGE-N/`, output of the commands is in `OUT/logs/`. What is finished is not run again, what was interrupted goes
on; `ablations.json` has all numbers.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evaluation.config import load_config
from evaluation.errors import EvaluationError
from evaluation.fingerprint import model_fingerprint
from training.checkpoint.folder import is_complete
from training.config.recipe import Recipe, load_recipe
from training.config.stage import StageConfig
from unimoe.errors import ConfigError
from unimoe.errors.suggest import did_you_mean
from unimoe.files.settings import Section, read_yaml, validate

from .__main__ import environment
from .ablations_table import compare_all, put_section, render

CONFIGS = Path("configs/ablations")


class Ablation(Section):
    """One comparison.

    Args:
        title, question: What it is about.
        against: The variant that the others are compared with.
        variants: Name -> stage of the recipe whose model it is.
        recipe: File of the stages.
        start: Module that writes data and starts of a seed: `python -m START FOLDER --config RECIPE --set seed=N`.
        evaluation: Configuration of what is measured.
    """

    title: str
    question: str
    against: str
    variants: dict[str, str]
    recipe: Path = CONFIGS / "recipe.yaml"
    start: str = "training.quickstart"
    evaluation: Path = Path("configs/evaluation/quickstart.yaml")


@dataclass(frozen=True)
class Settings:
    """What one run of this driver is asked for.

    Args:
        out: Folder of everything.
        scale: Factor of all lengths of the recipe.
        limit: Rows of each task that are measured. None: as the evaluation's configuration says.
        recipe_file, start, evaluation: Of the comparisons.
    """

    out: Path
    scale: float
    limit: int | None
    recipe_file: Path = Ablation.model_fields["recipe"].default
    start: str = Ablation.model_fields["start"].default
    evaluation: Path = Ablation.model_fields["evaluation"].default

    def recipe_overrides(self, seed: int) -> list[str]:
        """Say what a seed changes in the recipe: folder, order of rows, and new weights, routers included."""
        assembled = [name for name, stage in load_recipe(self.recipe_file).stages.items() if stage.start.assemble]
        routers = [f"stages.{name}.start.assemble.seed={seed}" for name in assembled]
        return [f"output={self.seed_folder(seed)}", f"seed={seed}", f"scale={self.scale}", *routers]

    @property
    def limits(self) -> list[str]:
        """What the limit changes in the evaluation's configuration."""
        tasks = [] if self.limit is None else load_config(self.evaluation).tasks
        return [f"tasks.{task}.limit={self.limit}" for task in tasks]

    def recipe(self, seed: int) -> Recipe:
        """Return the stages of a seed."""
        return load_recipe(self.recipe_file, self.recipe_overrides(seed))

    def starts(self, seed: int) -> list[Path]:
        """Folders that stages of a seed start from and no stage writes."""
        stages = self.recipe(seed).stages
        written = {stage.output for stage in stages.values()}
        return [Path(path) for stage in stages.values() if (path := stage.start.path) and path not in written]

    def seed_folder(self, seed: int) -> Path:
        """Return the data, starts and models of a seed."""
        return self.out / f"seed-{seed}"

    def evaluation_folder(self, stage: str, seed: int) -> Path:
        """Predictions and results of a stage's model."""
        return self.out / f"{stage}-{seed}"


@dataclass(frozen=True)
class Step:
    """One command: `data`, a stage's name, or `measure STAGE`, for a seed."""

    name: str
    seed: int

    def __str__(self) -> str:
        return f"{self.name.replace(' ', '-')}-{self.seed}"

    def command(self, settings: Settings) -> list[str]:
        """Arguments of Python. Each command goes on where it was interrupted."""
        folder, verb, stage = settings.seed_folder(self.seed), *self.name.rpartition(" ")[::2]
        if self.name == "data":
            config = ["--config", str(settings.recipe_file), "--set", f"seed={self.seed}"]
            return ["-m", settings.start, str(folder), *config]
        if not verb:
            overrides = settings.recipe_overrides(self.seed)
            return ["-m", "training", str(settings.recipe_file), "--resume", "--only", self.name, *overrides]
        model, output = settings.recipe(self.seed).stages[stage].output, settings.evaluation_folder(stage, self.seed)
        paths = [f"output={output}", f"data_root={folder}/data"]
        asked = [
            "--model",
            model,
            "--config",
            str(settings.evaluation),
            "--overwrite",
        ]  # where another model was measured
        return ["-m", "evaluation", *asked, *paths, *settings.limits]

    def is_done(self, settings: Settings) -> bool:
        """Whether it is finished with these settings.

        Raises:
            ConfigError: If a stage was finished with others.
        """
        if self.name == "data":
            return all((folder / "config.json").is_file() for folder in settings.starts(self.seed))
        verb, stage = self.name.rpartition(" ")[::2]
        config = settings.recipe(self.seed).stages[stage]
        if not verb:
            return is_complete(config)
        results = settings.evaluation_folder(stage, self.seed) / "results.json"
        if not results.is_file():
            return False
        measured = json.loads(results.read_text(encoding="utf-8"))
        limits = {name: task.limit for name, task in load_config(settings.evaluation, settings.limits).tasks.items()}
        same = limits == {name: task["limit"] for name, task in measured["config"]["tasks"].items()}
        return same and bool(measured["model"]["fingerprint"] == model_fingerprint(Path(config.output)))


def load_ablations(names: list[str]) -> dict[str, Ablation]:
    """Read the comparisons of these names, or of these files; without any, all of the recipe of `configs/ablations`.

    Raises:
        ConfigError: If a name, a stage or a variant is not there, or they are of more than one recipe.
    """
    recipe_file = Ablation.model_fields["recipe"].default
    files = {path.stem: path for path in sorted(CONFIGS.glob("*.yaml")) if path != recipe_file}
    if not names:
        every = {name: read_ablation(path) for name, path in files.items()}
        return {name: ablation for name, ablation in every.items() if ablation.recipe == recipe_file}
    found: dict[str, Ablation] = {}
    for name in names:
        file = files.get(name, Path(name))
        if not file.is_file():
            raise ConfigError(f"There is no ablation {name!r}.{did_you_mean(name, files)}")
        found[file.stem] = read_ablation(file)
    if len({(each.recipe, each.start, each.evaluation) for each in found.values()}) > 1:
        raise ConfigError(
            f"{', '.join(found)}: these are of several recipes. Run them apart, each into its own folder."
        )
    return found


def read_ablation(file: Path) -> Ablation:
    """Read one comparison.

    Raises:
        ConfigError: If a stage or a variant is not there.
    """
    ablation = validate(Ablation, read_yaml(file), source=str(file))
    if ablation.against not in ablation.variants:
        raise ConfigError(f"{file}: against: no such variant.{did_you_mean(ablation.against, ablation.variants)}")
    stages = load_recipe(ablation.recipe).stages
    for stage in ablation.variants.values():
        if stage not in stages:
            raise ConfigError(f"{file}: {ablation.recipe} has no stage {stage!r}.{did_you_mean(stage, stages)}")
    return ablation


def needed_stages(recipe: Recipe, stage: str) -> list[str]:
    """Return the stages whose outputs, or models in these, a stage starts from."""
    folders = [Path(folder) for folder in start_folders(recipe.stages[stage])]
    outputs = {name: Path(other.output) for name, other in recipe.stages.items()}
    return [name for name, output in outputs.items() if any(folder.is_relative_to(output) for folder in folders)]


def start_folders(config: StageConfig) -> set[str]:
    """Return the folders of the models that a stage starts from."""
    if config.start.specialists is not None:
        return {config.start.specialists.base}
    if config.start.assemble is None:
        return {config.start.path or ""}
    experts = config.start.assemble.expert_folders.values()
    return {config.start.assemble.base, *(folder for folders in experts for folder in folders)}


def plan_steps(ablations: dict[str, Ablation], settings: Settings, seeds: int) -> dict[Step, set[Step]]:
    """Every step and those before it: what variants share is there once for each seed."""
    graph: dict[Step, set[Step]] = {}
    measured = dict.fromkeys(stage for ablation in ablations.values() for stage in ablation.variants.values())
    for seed in range(seeds):
        recipe, waiting = settings.recipe(seed), list(measured)
        while waiting:
            before = needed_stages(recipe, stage := waiting.pop())
            graph[Step(stage, seed)] = {Step(name, seed) for name in before} or {Step("data", seed)}
            waiting += before
    for stage in measured:
        graph |= {Step(f"measure {stage}", seed): {Step(stage, seed)} for seed in range(seeds)}
    return graph


def run_steps(graph: dict[Step, set[Step]], settings: Settings, *, jobs: int, console: Console) -> None:
    """Run all steps that are not done, each after those that it needs, so many at once.

    Raises:
        CalledProcessError: If one fails, once those beside it have ended.
    """
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    running: dict[Future[None], Step] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while sorter.is_active():
            for step in sorter.get_ready():
                running[pool.submit(run_step, step, settings, jobs=jobs, console=console)] = step
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                if future.exception() is not None:
                    pool.shutdown(cancel_futures=True)
                future.result()
                sorter.done(running.pop(future))


def run_step(step: Step, settings: Settings, *, jobs: int, console: Console) -> None:
    """Run one command, its output to its log, unless it is done.

    Raises:
        CalledProcessError: If it fails.
    """
    if step.is_done(settings):
        console.print(f"{step}: done before", highlight=False)
        return
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    log, started = settings.out / "logs" / f"{step}.log", time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        subprocess.run(
            [sys.executable, *step.command(settings)],
            check=True,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"},
        )
    console.print(f"{step}: {time.monotonic() - started:.0f} s", highlight=False)


def main(
    out: Annotated[Path, typer.Argument(help="Folder of models, evaluations and ablations.json.")],
    only: Annotated[
        list[str] | None, typer.Option(help="A comparison, by file or name in configs/ablations; repeat.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Trainings of each variant.")] = 3,
    scale: Annotated[float, typer.Option(help="Factor of all lengths of the recipe.")] = 1.0,
    jobs: Annotated[int, typer.Option(min=1, help="Commands at once; they share the cores.")] = 2,
    limit: Annotated[int | None, typer.Option(help="Rows of each task that are measured.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Put the tables into this file, as its Results.")] = None,
) -> None:
    """Train and measure what is missing, then compare the variants of each ablation."""
    console = Console(width=160)
    try:
        ablations = load_ablations(only or [])
        one = next(iter(ablations.values()))
        settings = Settings(out, scale, limit, one.recipe, one.start, one.evaluation)
        run_steps(plan_steps(ablations, settings, seeds), settings, jobs=jobs, console=console)
        folders = {
            name: {
                variant: [settings.evaluation_folder(stage, seed) for seed in range(seeds)]
                for variant, stage in ablation.variants.items()
            }
            for name, ablation in ablations.items()
        }
        found = compare_all({name: (ablations[name].against, folders[name]) for name in ablations})
    except (ConfigError, EvaluationError) as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except subprocess.CalledProcessError as error:
        console.print(f"failed: python {' '.join(error.cmd[1:])}; see {out}/logs", style="red", soft_wrap=True)
        raise typer.Exit(1) from None
    titles = {name: (ablation.title, ablation.question) for name, ablation in ablations.items()}
    text = render(found, titles)
    asked = {"seeds": seeds, "scale": scale, "limit": limit}
    report = {
        "settings": asked,
        "environment": environment(),
        "ablations": {name: finding.to_json() for name, finding in found.items()},
    }
    (out / "ablations.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if markdown is not None:
        put_section(markdown, "Results", text)


if __name__ == "__main__":
    typer.run(main)
