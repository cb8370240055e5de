"""`python -m benchmarks.showcase OUT`: trains the systems of `configs/showcase` in several seeds, and compares their
losses on validation rows.

Everything of a seed is in `OUT/seed-N/`, output of the commands in `OUT/logs/`, all numbers in `OUT/losses.json`. What
is finished is not run again, what was interrupted goes on.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from training.config.recipe import Recipe
from unimoe.errors import ConfigError

from ..__main__ import environment
from ..ablations import Ablation, Settings, Step, load_ablations, plan_steps, run_steps
from ..ablations_table import put_section
from .costs import read_cost
from .losses import Losses, compare, read_losses, tabulate, to_markdown

CONFIGS = Path("configs/showcase")
COMPARISONS = ("active", "main", "changes", "experts")


def plan_trainings(ablations: dict[str, Ablation], settings: Settings, seeds: int) -> dict[Step, set[Step]]:
    """Every step and those before it. Nothing is generated: what is compared is measured while training."""
    steps = plan_steps(ablations, settings, seeds)
    return {step: before for step, before in steps.items() if not step.name.startswith("measure ")}


def read_systems(ablation: Ablation, recipes: Sequence[Recipe]) -> dict[str, Sequence[Losses]]:
    """Return the losses of each variant in each seed, those of the one that others are compared with first."""
    ordered = {ablation.against: ablation.variants[ablation.against], **ablation.variants}
    return {
        name: [read_losses(Path(recipe.stages[stage].output)) for recipe in recipes] for name, stage in ordered.items()
    }


def main(
    out: Annotated[Path, typer.Argument(help="Folder of models and losses.json.")],
    only: Annotated[list[str] | None, typer.Option(help="Name of a file in configs/showcase; repeat.")] = None,
    seeds: Annotated[int, typer.Option(min=2, max=10, help="Trainings of each system.")] = 3,
    scale: Annotated[float, typer.Option(help="Factor of all lengths of the recipe.")] = 1.0,
    jobs: Annotated[int, typer.Option(min=1, help="Commands at once; they share the cores.")] = 2,
    markdown: Annotated[Path | None, typer.Option(help="Put each table into this file, as a section.")] = None,
) -> None:
    """Train what is missing, then compare; after `benchmarks.showcase.data` and `training.real_parts`."""
    console = Console(width=200)
    try:
        ablations = load_ablations([str(CONFIGS / f"{name}.yaml") for name in only or COMPARISONS])
        first = next(iter(ablations.values()))
        settings = Settings(out, scale, None, first.recipe, first.start)
        run_steps(plan_trainings(ablations, settings, seeds), settings, jobs=jobs, console=console)
        recipes = [settings.recipe(seed) for seed in range(seeds)]
        systems = {name: read_systems(ablation, recipes) for name, ablation in ablations.items()}
        report = {
            "settings": {"seeds": seeds, "scale": scale},
            "environment": environment(),
            "losses": systems,
            "costs": {
                name: {
                    system: [read_cost(recipe, stage) for recipe in recipes]
                    for system, stage in ablation.variants.items()
                }
                for name, ablation in ablations.items()
            },
            "differences": {
                name: {
                    system: {task: vars(difference) for task, difference in found.items()}
                    for system, found in compare(of_comparison).items()
                }
                for name, of_comparison in systems.items()
            },
        }
    except ConfigError as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except subprocess.CalledProcessError as error:
        console.print(f"failed: python {' '.join(error.cmd[1:])}; see {out}/logs", style="red", soft_wrap=True)
        raise typer.Exit(1) from None
    (out / "losses.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name, ablation in ablations.items():
        text = f"{ablation.question}\n\n{to_markdown(tabulate(systems[name]))}\n\n{describe(report, name)}"
        console.print(f"{ablation.title}. {text}\n", markup=False, highlight=False, soft_wrap=True)
        if markdown is not None:
            put_section(markdown, ablation.title, text)


def describe(report: dict[str, Any], comparison: str) -> str:
    """Say what a table's numbers are, and where they are from."""
    settings, versions = report["settings"], report["environment"]
    rows = next(iter(report["costs"][comparison].values()))[0].rows
    return (
        f"Nats per label after {rows:,} rows; means over {settings['seeds']} seeds. "
        f"{versions['processor']}, torch {versions['torch']}, transformers {versions['transformers']}."
    )


if __name__ == "__main__":
    typer.run(main)
