"""`python -m benchmarks.plan_memory --parts FOLDER`: what `training plan` says of memory, and what trainings take.

Each configuration is a training of two steps of the real parts in processes of its own. Measured is the most memory
that a process had resident, less what its imports take. glibc keeps small blocks that are freed, more or fewer by
chance, so that all larger ones are taken from the system and given back (`MALLOC_MMAP_THRESHOLD_`).
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from training.config.recipe import load_recipe
from training.planning.plan import estimate_recipe

PARTS = {"language": "SmolLM2-135M-Instruct", "vision": "tf_efficientnet_lite0", "speech": "whisper-tiny.en"}
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "runs", "far", "from", "home"]
ROWS, WIDTH = 16, 119


def stages(output: Path, parts: Path) -> dict[str, dict[str, Any]]:
    """Return the configurations, each a stage; later ones start from what earlier ones write."""
    build = {name: str(parts / folder) for name, folder in PARTS.items()}
    align, mixture = str(output / "connectors"), str(output / "assembled")
    lora = {"parts": ["experts", "attention"]}
    return {
        "connectors": {
            "start": {"build": build},
            "train": {"parts": ["connectors"]},
            "trainer": {"per_device_train_batch_size": 4},
        },
        "assembled": {
            "start": {"assemble": {"base": align, "experts": {"image": align, "speech": align}}},
            "train": {"parts": ["connectors", "router"], "lora": lora},
        },
        "lora": {"start": mixture, "train": {"parts": ["router"], "lora": {"parts": ["experts"], "r": 32}}},
        "full": {"start": mixture, "train": {"parts": ["router", "experts", "attention", "norms", "embeddings"]}},
        "checkpointing": {
            "start": align,
            "train": {"parts": ["connectors", "mlp", "attention"]},
            "trainer": {"per_device_train_batch_size": 4, "activation_checkpointing": True},
        },
        "zero": {
            "start": align,
            "train": {"parts": ["connectors", "mlp", "attention", "norms"]},
            "parallel": {"zero": 2},
        },
    }


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
PROCESSES = {"zero": 2}
"""Configurations that more than one process trains."""


def write_data(folder: Path) -> Path:
    """Rows with pictures and rows with speech, by turns, with long answers."""
    chance = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(ROWS):
        kind, name = ("image", f"{number}.png") if number % 2 else ("speech", f"{number}.wav")
        if kind == "image":
            Image.fromarray(chance.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / name)
        else:
            soundfile.write(folder / name, chance.normal(0, 0.1, 16_000).astype(np.float32), 16_000)
        question = [{"type": kind, "path": name}, {"type": "text", "text": "What is it?"}]
        answer = " ".join(chance.choice(WORDS, 320))
        rows.append(
            {
                "id": str(number),
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": [{"type": "text", "text": answer}]},
                ],
            }
        )
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def write_recipe(folder: Path, parts: Path) -> Path:
    """All configurations as one recipe."""
    trainer = {"max_steps": 2, "per_device_train_batch_size": 1, "use_cpu": True, "report_to": []}
    recipe = {
        "output": str(folder / "runs"),
        "defaults": {"data": {"mixture": [str(write_data(folder / "data"))], "max_length": 1024}, "trainer": trainer},
        "stages": stages(folder / "runs", parts),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def measure(file: Path, name: str, folder: Path) -> int:
    """Train one stage; most bytes that one of its processes had resident, above its imports.

    Raises:
        CalledProcessError: If the training fails.
    """
    processes, out = PROCESSES.get(name, 1), folder / name
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}}
    probe = ["-m", "benchmarks.memory_probe"]
    training = [*launch, *probe, str(out), str(file), "--only", name]
    subprocess.run([sys.executable, *training], check=True, **quiet)  # type: ignore[call-overload]
    taken = []
    for rank in range(processes):
        noted = Path(f"{out}.{rank}.json")
        subprocess.run([sys.executable, *probe, "--imports", str(noted)], check=True, **quiet)  # type: ignore[call-overload]
        values = json.loads(noted.read_text())
        taken.append(values["peak"] - values["imports"])
    return max(taken)


def count_saved(model: Path) -> int:
    """Parameters in the weights that a training wrote; statistics of batch norms are none."""
    with safe_open(model / "model.safetensors", framework="pt") as weights:
        names = [name for name in weights.keys() if not name.endswith(STATISTICS)]  # noqa: SIM118  # no mapping
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in names)


def compare(file: Path, names: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Plan, train and count each configuration."""
    for name in names:
        (plan,) = estimate_recipe(file, [], only=[name], processes=PROCESSES.get(name, 1), limit=None)
        measured = measure(file, name, folder)
        estimated = plan.host.total
        yield {
            "configuration": name,
            "parameters": plan.parameters,
            "saved": count_saved(Path(load_recipe(file).stages[name].output)),
            "estimated": estimated,
            "measured": measured,
            "ratio": estimated / measured,
        }


def main(
    parts: Annotated[Path, typer.Option(help=f"Folder with {', '.join(PARTS.values())}.")],
    names: Annotated[list[str] | None, typer.Argument(help="Configurations. None: all.")] = None,
    folder: Annotated[Path, typer.Option(help="Where data and models go.")] = Path("runs/plan-memory"),
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Compare estimates of memory with what trainings take."""
    folder = folder.resolve()
    file = write_recipe(folder, parts.resolve())
    table = Table("configuration", "parameters", "trainable", "estimated GB", "measured GB", "ratio")
    results = []
    for result in compare(file, names or list(stages(folder, parts)), folder):
        counts = [f"{result['parameters'][key]:,}" for key in ("total", "trainable")]
        sizes = [f"{result[key] / 1e9:.2f}" for key in ("estimated", "measured")]
        table.add_row(result["configuration"], *counts, *sizes, f"{result['ratio']:.3f}")
        results.append(result)
        if out:
            out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    Console(width=WIDTH).print(table)


if __name__ == "__main__":
    typer.run(main)
