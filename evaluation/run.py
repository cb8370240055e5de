"""One evaluation: tasks -> predictions of the model, with shuffled media, and of the baseline -> results.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from unimoe.files.writing import write_whole

from .config import EvaluationConfig
from .fingerprint import questions_hash
from .generate import generate_predictions
from .judge.judge import judge_rows, read_key
from .loading import LoadedModel, LoadedTask, load_model, load_tasks
from .metrics import Scores, without_thoughts
from .predictions import match_predictions
from .processes import begin, rank, wait
from .report.html import worst_answers, write_page
from .report.markdown import write_markdown
from .results import add_judged, task_result, versions
from .routing import count_prompt_routing, is_sparse, save_heat_map, save_layer_plot, sparse_layers, summarise_routing
from .tasks import Sample, has_media, shuffle_media

Predictions = dict[str, list[str]]
"""Task name -> predictions in the order of its rows."""
PLOTS = {"routing.png": save_heat_map, "routing_layers.png": save_layer_plot}


@dataclass(frozen=True)
class Run:
    """What stays the same through one evaluation.

    Args:
        config: Of the evaluation.
        output: Folder of results.json.
        overwrite: Replace predictions of an earlier run.
        console: Where progress goes.
    """

    config: EvaluationConfig
    output: Path
    overwrite: bool
    console: Console

    def predict(self, loaded: LoadedModel, task: LoadedTask, samples: list[Sample], folder: str = "") -> list[str]:
        """Let a model answer these rows; its predictions are kept in predictions/[folder/]NAME.jsonl."""
        header = {
            "model": loaded.fingerprint,
            "data": task.data_hash,
            "prompt": task.config.prompt,
            "limit": task.config.limit,
            "seed": self.config.seed,
            "decoding": task.decoding,
            "batch_size": self.config.batch_size if task.decoding["do_sample"] else None,  # a batch is drawn together
            "control": folder,
            "questions and media": questions_hash(samples),
        }
        return generate_predictions(
            loaded.model,
            loaded.processor,
            samples,
            path=self.output / "predictions" / folder / f"{task.name}.jsonl",
            header=header,
            decoding=task.decoding,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            overwrite=self.overwrite,
            description=" ".join(filter(None, (task.name, folder))),
            console=self.console,
        )

    def predict_all(self, loaded: LoadedModel, tasks: list[LoadedTask], folder: str = "") -> Predictions:
        """Let a model answer all tasks."""
        return {task.name: self.predict(loaded, task, task.samples, folder) for task in tasks}

    def shuffle(self, tasks: list[LoadedTask]) -> dict[str, list[Sample]]:
        """Give each row another row's media, in all tasks that have media."""
        return {
            task.name: shuffle_media(task.samples, seed=self.config.seed) for task in tasks if has_media(task.samples)
        }

    def routing(self, loaded: LoadedModel, tasks: list[LoadedTask]) -> dict[str, Any] | None:
        """Count the routing of the prompts, over all tasks and task by task, and plot it; None for a dense model."""
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
        text = loaded.model.config.get_text_config()
        if not counts:
            if getattr(text, "num_experts", 0) and not is_sparse(loaded.model):
                self.console.print("routing is left out: this model does not tell which experts a token passes")
            return None
        layers = sparse_layers(text)
        summary = summarise_routing(
            torch.stack(list(counts.values())).sum(dim=0), num_experts=text.num_experts, layers=layers
        )
        summary["tasks"] = {
            name: summarise_routing(counted, num_experts=text.num_experts, layers=layers)["modalities"]
            for name, counted in counts.items()
        }
        return {**summary, "plots": self.plot(summary)}

    def plot(self, summary: dict[str, Any]) -> list[str]:
        """Draw the routing; returns names of the files, none without matplotlib."""
        try:
            for name, draw in PLOTS.items() if rank() == 0 else ():
                draw(summary, self.output / name)
        except ImportError:
            self.console.print('no plots of routing: matplotlib is missing (pip install "unimoe\\[eval]")')
            return []
        return list(PLOTS)

    def save(self, results: dict[str, Any]) -> None:
        """Write results.json."""
        write_whole(self.output / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")

    def judge(self, task: LoadedTask, predictions: list[str], result: dict[str, Any]) -> None:
        """Add to a task's result what a judge says of the answers, where there is one."""
        if self.config.judge is None or task.judge is None:
            return
        values, unread = judge_rows(
            task.judge,
            self.config.judge,
            task.samples,
            [without_thoughts(text) for text in predictions],
            path=self.output / "judged" / f"{task.name}.jsonl",
            overwrite=self.overwrite,
            description=f"{task.name} judged",
            console=self.console,
        )
        add_judged(result, task, values, unread, config=self.config)

    def write(
        self, results: dict[str, Any], tasks: list[LoadedTask], predictions: Predictions, scores: dict[str, Scores]
    ) -> None:
        """Write results.json, ask the judge, and write it again with the reports."""
        self.save(results)
        worst = {}
        for task in tasks:
            answers = predictions[task.name]
            self.judge(task, answers, results["tasks"][task.name])
            worst[task.name] = worst_answers(task, answers, scores[task.name], most=self.config.worst_rows)
        self.save(results)
        write_markdown(self.output / "report.md", results)
        plots = [self.output / name for name in (results["routing"] or {}).get("plots", ())]
        write_page(self.output / "report.html", results, worst, plots=plots)


def evaluate(
    run: Run,
    *,
    model: str | None = None,
    predictions: Path | None = None,
    baseline: str | None = None,
    shuffled_media: bool = False,
) -> dict[str, Any]:
    """Evaluate a model, or predictions that are there already, and write results.json and the reports.

    Args:
        run: Configuration, output folder, console.
        model: Folder (or Hub id) of the model. None: `predictions` are scored.
        predictions: Folder with a file NAME.jsonl for each task; or a file, where there is one task.
        baseline: Folder of a model to compare with, on the same rows.
        shuffled_media: Ask each question again about another row's media.

    Returns:
        The contents of results.json.

    Raises:
        EvaluationError: If configuration, data, models or earlier predictions do not fit.
    """
    begin()
    tasks = load_tasks(run.config)
    if run.config.judge is not None and rank() == 0 and any(task.judge for task in tasks):
        read_key(run.config.judge)  # what cannot be asked later is said now
    if predictions is not None:
        answers = given_answers(predictions, tasks)
    else:
        assert model is not None
        answers = model_answers(run, model, tasks, shuffled_media=shuffled_media)
    of_baseline, baseline_description = baseline_answers(run, baseline, tasks)
    scores = score_all(tasks, answers.predictions)
    results: dict[str, Any] = {
        "tasks": task_results(run, tasks, answers, scores, of_baseline),
        "model": answers.model,
        "baseline": baseline_description,
        "config": run.config.model_dump(mode="json"),
        "versions": versions(),
        "routing": answers.routing,
    }
    if rank() == 0:
        run.write(results, tasks, answers.predictions, scores)
    wait()
    return results


@dataclass(frozen=True)
class Answers:
    """What is measured.

    Args:
        predictions: Of all tasks.
        shuffled: Those with other rows' media.
        prompts: The first question of each task, rendered.
        decoding: Arguments of `model.generate` by task; empty where no model was asked.
        routing: Of the prompts. None: there is none.
        model: What results.json says of the model.
    """

    predictions: Predictions
    shuffled: Predictions
    prompts: dict[str, str]
    decoding: dict[str, dict[str, Any]]
    routing: dict[str, Any] | None
    model: dict[str, Any]


def model_answers(run: Run, name: str, tasks: list[LoadedTask], *, shuffled_media: bool) -> Answers:
    """Let a model answer all tasks; it is not kept in memory."""
    shuffled = run.shuffle(tasks) if shuffled_media else {}
    loaded = load_model(name, device=run.config.device, reserved_task=run.config.reserved_task)
    return Answers(
        predictions=run.predict_all(loaded, tasks),
        shuffled={
            task.name: run.predict(loaded, task, shuffled[task.name], "shuffled")
            for task in tasks
            if task.name in shuffled
        },
        prompts={task.name: render_prompt(loaded.processor, task.samples[0]) for task in tasks},
        decoding={task.name: task.decoding for task in tasks},
        routing=run.routing(loaded, tasks),
        model=loaded.describe(),
    )


def baseline_answers(run: Run, name: str | None, tasks: list[LoadedTask]) -> tuple[Predictions, dict[str, Any] | None]:
    """Let the baseline answer all tasks, and return what results.json says of it; without one, nothing."""
    if name is None:
        return {}, None
    loaded = load_model(name, device=run.config.device)
    return run.predict_all(loaded, tasks, "baseline"), loaded.describe()


def given_answers(path: Path, tasks: list[LoadedTask]) -> Answers:
    """Read the predictions of all tasks that are there already.

    Raises:
        EvaluationError: If a file is missing, or does not answer just the rows of its task.
    """
    found = {
        task.name: match_predictions(
            path / f"{task.name}.jsonl" if path.is_dir() else path, task.samples, task.data_hash
        )
        for task in tasks
    }
    prompts = {task.name: render_question(task.samples[0]) for task in tasks}
    return Answers(found, shuffled={}, prompts=prompts, decoding={}, routing=None, model={"path": str(path)})


def task_results(
    run: Run, tasks: list[LoadedTask], answers: Answers, scores: dict[str, Scores], baseline: Predictions
) -> dict[str, Any]:
    """Put together what results.json says of each task.

    Args:
        run: The run.
        tasks: Its tasks.
        answers: What is measured.
        scores: Of the answers.
        baseline: Predictions of the baseline; empty if there is none.
    """
    shuffled, others = score_all(tasks, answers.shuffled), score_all(tasks, baseline)
    return {
        task.name: task_result(
            task,
            scores[task.name],
            predictions=answers.predictions[task.name],
            config=run.config,
            prompt=answers.prompts[task.name],
            decoding=answers.decoding.get(task.name),
            shuffled=shuffled.get(task.name),
            baseline=others.get(task.name),
        )
        for task in tasks
    }


def score_all(tasks: list[LoadedTask], predictions: Predictions) -> dict[str, Scores]:
    """Score each task that was answered."""
    return {task.name: task.score(predictions[task.name]) for task in tasks if task.name in predictions}


def render_question(sample: Sample) -> str:
    """Write the question of a row, with a mark for each medium."""
    items = (item for message in sample.messages for item in message["content"])
    return "".join(item["text"] if item["type"] == "text" else f"<{item['type']}>" for item in items)


def render_prompt(processor: Any, sample: Sample) -> str:
    """Write the prompt as text, placeholders not expanded."""
    return str(processor.apply_chat_template(list(sample.messages), tokenize=False, add_generation_prompt=True))


__all__ = ["Run", "evaluate"]
