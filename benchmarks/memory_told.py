"""`python -m benchmarks.memory_told --parts FOLDER`: the memory that stages tell before they train, and have in use.

Each configuration is a training of a few steps on a CPU in a process of its own, as users start it. Told and seen are
what `report: {memory: true}` writes to `metrics.jsonl` at the end.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from training.config.recipe import load_recipe
from training.monitor.metrics_file import METRICS_FILE, read_metrics

from .plan_memory import PARTS, WIDTH, stages, write_data

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART, ALIGN = ROOT / "configs" / "quickstart" / "quickstart.yaml", "align"
CONFIGURATIONS = ("scratch", "composed", "cached", "lora")
"""The quickstart's first stage; composed parts, connectors train; the same with cached encoders; LoRA on a mixture."""


def write_recipe(folder: Path, parts: Path) -> Path:
    """Write all configurations but the quickstart's as one recipe; each but the first needs only what it says."""
    runs = folder / "runs"
    planned = stages(runs, parts)
    composed = planned["connectors"] | {"output": str(runs / "connectors")}
    data = {"mixture": [str(write_data(folder / "data"))], "max_length": 1024}
    trainer = {"max_steps": 2, "per_device_train_batch_size": 1, "logging_steps": 1, "use_cpu": True, "report_to": []}
    recipe = {
        "output": str(runs),
        "defaults": {"data": data, "trainer": trainer, "report": {"memory": True}},
        "stages": {
            "composed": composed,
            "cached": {**planned["connectors"], "data": {"cache_encoders": True}},
            "lora": planned["assembled"],
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def prepare(folder: Path, parts: Path) -> dict[str, list[str]]:
    """Write data and recipes; returns the arguments of `python -m training` for each configuration."""
    quickstart = folder / "quickstart"
    subprocess.run([sys.executable, "-m", "training.quickstart", str(quickstart)], check=True, cwd=ROOT)
    changes = {"trainer.max_steps": 20, "report.memory": "true"}
    overrides = [f"output={quickstart}", *(f"stages.{ALIGN}.{key}={value}" for key, value in changes.items())]
    file = str(write_recipe(folder, parts))
    own = {name: [file, "--only", name] for name in CONFIGURATIONS if name != "scratch"}
    return {"scratch": [str(QUICKSTART), *overrides, "--only", ALIGN], **own}


def compare(arguments: dict[str, list[str]], names: list[str]) -> Iterator[dict[str, Any]]:
    """Train configurations one after the other, and read what each told and had in use.

    Raises:
        CalledProcessError: If a training fails.
    """
    for name in names:
        file, *others = arguments[name]
        subprocess.run([sys.executable, "-m", "training", file, *others], check=True, cwd=ROOT)
        overrides = [text for text in others if "=" in text]
        output = Path(load_recipe(Path(file), overrides).stages[others[others.index("--only") + 1]].output)
        last = read_metrics(output / METRICS_FILE)[-1]
        told, seen = last["memory_told_gb"], last["memory_gb"]
        reserved = last["memory_reserved_gb"]
        yield {"configuration": name, "told": told, "in use": seen, "ratio": told / seen, "reserved": reserved}


def main(
    parts: Annotated[Path, typer.Option(help=f"Folder with {', '.join(PARTS.values())}.")],
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(CONFIGURATIONS)}. None: all.")] = None,
    folder: Annotated[Path, typer.Option(help="Where data and models go.")] = Path("runs/memory-told"),
) -> None:
    """Compare the memory that is told with what is in use; `lora` needs the output of `composed`."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    table = Table("configuration", "told GB", "in use GB", "ratio", "with freed blocks GB")
    for result in compare(prepare(folder, parts.resolve()), names or list(CONFIGURATIONS)):
        sizes = [f"{result[key]:.2f}" for key in ("told", "in use")]
        table.add_row(result["configuration"], *sizes, f"{result['ratio']:.3f}", f"{result['reserved']:.2f}")
    Console(width=WIDTH).print(table)


if __name__ == "__main__":
    typer.run(main)
