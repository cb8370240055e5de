"""One evaluation: tasks -> predictions of the model, with shuffled media, and of the baseline -> results.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from .config import EvaluationConfig
from .generate import generate_predictions
from .loading import LoadedModel, LoadedTask, load_model, load_tasks
from .results import task_result, versions
from .routing import count_prompt_routing, save_heat_map, summarise_routing
from .tasks import Sample, has_media, shuffle_media

Predictions = dict[str, list[str]]
"""Task name -> predictions in the order of its rows."""


@dataclass(frozen=True)
class Run:
    """What stays the same through one evaluation."""

    config: EvaluationConfig
    output: Path
    overwrite: bool
    console: Console

    def predict(self, loaded: LoadedModel, task: LoadedTask, samples: list[Sample], folder: str = "") -> list[str]:
        """Predictions of a model for these rows, kept in predictions/[folder/]NAME.jsonl."""
        decoding = self.config.decoding()
        header = {
            "model": loaded.fingerprint,
            "data": task.data_hash,
            "prompt": task.config.prompt,
            "limit": task.config.limit,
            "seed": self.config.seed,
            "decoding": decoding,
            "control": folder,
        }
        return generate_predictions(
            loaded.model,
            loaded.processor,
            samples,
            path=self.output / "predictions" / folder / f"{task.name}.jsonl",
            header=header,
            decoding=decoding,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            overwrite=self.overwrite,
            description=" ".join(filter(None, (task.name, folder))),
            console=self.console,
        )

    def predict_all(self, loaded: LoadedModel, tasks: list[LoadedTask], folder: str = "") -> Predictions:
        """Predictions of a model for all tasks."""
        return {task.name: self.predict(loaded, task, task.samples, folder) for task in tasks}

    def predict_shuffled(self, loaded: LoadedModel, tasks: list[LoadedTask]) -> Predictions:
        """Predictions for all tasks that have media, each row with another row's media."""
        return {
            task.name: self.predict(loaded, task, shuffle_media(task.samples, seed=self.config.seed), "shuffled")
            for task in tasks
            if has_media(task.samples)
        }

    def routing(self, loaded: LoadedModel, tasks: list[LoadedTask]) -> dict[str, Any] | None:
        """Routing of the prompts, over all tasks and task by task, with its heat map; None for a dense model."""
        counts: dict[str, Tensor] = {}
        for task in tasks:
            counted = count_prompt_routing(
                loaded.model,
                loaded.processor,
                task.samples[: self.config.routing_rows],
                batch_size=self.config.batch_size,
                description=f"{task.name} routing",
                console=self.console,
            )
            if counted is not None:
                counts[task.name] = counted
        if not counts:
            return None
        text = loaded.model.config.get_text_config()
        layers = [layer for layer in range(text.num_hidden_layers) if text.is_sparse(layer)]
        summary = summarise_routing(
            torch.stack(list(counts.values())).sum(dim=0), num_experts=text.num_experts, layers=layers
        )
        summary["tasks"] = {
            name: summarise_routing(counted, num_experts=text.num_experts, layers=layers)["modalities"]
            for name, counted in counts.items()
        }
        return {**summary, "heat_map": self.heat_map(summary)}

    def heat_map(self, summary: dict[str, Any]) -> str | None:
        """Draw routing.png; returns its name, or None without matplotlib."""
        try:
            save_heat_map(summary, self.output / "routing.png")
        except ImportError:
            self.console.print('no routing.png: matplotlib is missing (pip install "unimoe\\[eval]")')
            return None
        return "routing.png"


def evaluate(run: Run, *, model: str, baseline: str | None = None, shuffled_media: bool = False) -> dict[str, Any]:
    """Evaluate a model, and write results.json.

    Args:
        run: Configuration, output folder, console.
        model: Folder (or Hub id) of the model.
        baseline: Folder of a model to compare with, on the same rows.
        shuffled_media: Ask each question again about another row's media.

    Returns:
        The contents of results.json.

    Raises:
        EvaluationError: If the configuration, data, models or earlier predictions do not fit.
    """
    tasks = load_tasks(run.config)
    loaded = load_model(model, device=run.config.device)
    predictions = run.predict_all(loaded, tasks)
    shuffled = run.predict_shuffled(loaded, tasks) if shuffled_media else {}
    routing = run.routing(loaded, tasks)
    prompts = {task.name: render_prompt(loaded.processor, task.samples[0]) for task in tasks}
    description = loaded.describe()
    del loaded  # two models need not be in memory at once
    baseline_predictions: Predictions = {}
    baseline_description = None
    if baseline is not None:
        other = load_model(baseline, device=run.config.device)
        baseline_description = other.describe()
        baseline_predictions = run.predict_all(other, tasks, "baseline")
    results = {
        "tasks": {
            task.name: task_result(
                task,
                predictions[task.name],
                config=run.config,
                prompt=prompts[task.name],
                shuffled=shuffled.get(task.name),
                baseline=baseline_predictions.get(task.name),
            )
            for task in tasks
        },
        "model": description,
        "baseline": baseline_description,
        "decoding": run.config.decoding(),
        "config": run.config.model_dump(mode="json"),
        "versions": versions(),
        "routing": routing,
    }
    save_results(results, run.output / "results.json")
    return results


def render_prompt(processor: Any, sample: Sample) -> str:
    """The prompt as text, placeholders not expanded."""
    return str(processor.apply_chat_template(list(sample.messages), tokenize=False, add_generation_prompt=True))


def save_results(results: dict[str, Any], path: Path) -> None:
    """Write results.json as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


__all__ = ["Run", "evaluate", "save_results"]
