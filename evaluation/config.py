"""The configuration of an evaluation: YAML file -> `key.sub=value` overrides -> validated `EvaluationConfig`."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError
from transformers import GenerationConfig

from unimoe.errors import ConfigError
from unimoe.errors.suggest import did_you_mean
from unimoe.files.settings import Section, apply_override, read_yaml, validate

from .judge.judge import JudgeConfig
from .tasks import BENCHMARKS

MetricName = Literal[
    "exact_match",
    "vqa_accuracy",
    "anls",
    "multiple_choice",
    "circular",
    "yes_no",
    "mme",
    "wer",
    "cer",
    "captions",
    "contains",
]
"""Keys of `evaluation.metrics.METRICS`."""


_TASK_NAME = re.compile(r"[^\W_.][\w .()+=,-]{0,99}")
"""Of predictions/NAME.jsonl: no separators, nothing hidden, no control characters."""
DEFAULT_OUTPUT = "runs/evaluation"
"""Where results go unless a configuration says otherwise."""
DEFAULT_LENGTH = 32
"""Longest answer to a task of one's own, tokens."""


def _check_generation(arguments: dict[str, Any]) -> dict[str, Any]:
    """Refuse what `model.generate` would, once everything is loaded, and a second place for the longest answer."""
    if "max_new_tokens" in arguments:
        raise PydanticCustomError("refused", "set 'max_new_tokens' beside 'generation', not in it.")
    known = GenerationConfig().to_dict()
    for name in arguments:
        if name not in known:
            raise PydanticCustomError(
                "refused", f"model.generate has no argument {name!r}.{did_you_mean(name, known)}"
            )
    return arguments


Generation = Annotated[dict[str, Any], AfterValidator(_check_generation)]
"""Arguments of `model.generate`."""


class TaskConfig(Section):
    """One task: rows with a reference answer, and how answers are scored.

    Args:
        data: JSONL file of the rows to answer; relative to `data_root`. None: `benchmark` says what they are.
        benchmark: A published benchmark, in its publisher's layout in `data_root`/NAME; see docs/benchmarks.md. Its
            metric, prompt and decoding are taken, unless they are set here.
        hub: Read the benchmark from the Hub instead.
        train: JSONL file of the training split, from which the floors are computed. None: no floors.
        metric: `exact_match`; `vqa_accuracy` (`answers` of annotators); `anls`, `contains` (`answers` that are right);
            `multiple_choice` (`choices`); `circular` (`choices`; `group` of a question's rotations); `yes_no`; `mme`
            (`group` of a picture's two questions); `wer`, `cer` (error rates of words and characters, lower is
            better); `captions` (`answers` are the reference captions). None: `exact_match`, or the benchmark's.
        limit: Score a random sample (by `seed`) of so many rows, or a few more where rows count in groups. None: all.
        prompt: Text appended to the last user turn of every row. None: none, or the benchmark's.
        max_new_tokens: Longest answer, tokens. None: that of the evaluation, or the benchmark's.
        generation: Further arguments of `model.generate` for this task.
    """

    data: Path | None = None
    benchmark: str | None = None
    hub: bool = False
    train: Path | None = None
    metric: MetricName | None = None
    limit: int | None = Field(default=None, ge=1)
    prompt: str | None = None
    max_new_tokens: int | None = Field(default=None, ge=1)
    generation: Generation = Field(default_factory=dict)

    @model_validator(mode="after")
    def check_rows_come_from_one_place(self) -> Self:
        """Refuse a task without rows, or with two kinds of them."""
        if (self.data is None) == (self.benchmark is None):
            raise PydanticCustomError(
                "refused", "a task needs either 'data', a JSONL file, or 'benchmark', the name of a published one."
            )
        if self.benchmark is not None and self.benchmark not in BENCHMARKS:
            raise PydanticCustomError(
                "refused", f"no benchmark {self.benchmark!r}.{did_you_mean(self.benchmark, BENCHMARKS)}"
            )
        if self.hub and (self.benchmark is None or BENCHMARKS[self.benchmark].hub is None):
            raise PydanticCustomError(
                "refused", "'hub' is for benchmarks that can be read from the Hub; docs/benchmarks.md says which."
            )
        return self


class BootstrapConfig(Section):
    """Resampling behind the 95 % intervals."""

    samples: int = Field(default=1000, ge=100)


class EvaluationConfig(Section):
    """An evaluation.

    Args:
        output: Folder of results.json, predictions/ and routing.png.
        data_root: Folder that `data` and `train` of the tasks are relative to, and that holds a folder for each
            benchmark. None: the working directory.
        batch_size: Rows per generation batch.
        max_new_tokens: Longest answer of all tasks that do not say their own, tokens. None: 32, or the benchmark's.
        generation: Further arguments of `model.generate`. Greedy unless they say otherwise.
        seed: Of sampling rows, shuffling media, sampling tokens and the bootstrap.
        device: `auto` takes the GPU if there is one.
        routing_rows: Rows per task whose routing is counted. 0: none.
        worst_rows: Rows per task that report.html shows, those whose answers are worth least.
        judge: Endpoint that grades the answers to benchmarks with a judge. None: only metrics score them.
        reserved_task: Task whose reserved experts the model works with, by the name that `unimoe extend --task` gave
            it; a baseline works without. None: no task's.
        tasks: Name -> task.
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # which may be the address of a judge, with a password

    output: Path
    data_root: Path | None = None
    batch_size: int = Field(default=32, ge=1)
    max_new_tokens: int | None = Field(default=None, ge=1)
    generation: Generation = Field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    routing_rows: int = Field(default=256, ge=0)
    worst_rows: int = Field(default=12, ge=0)
    judge: JudgeConfig | None = None
    reserved_task: str | None = None
    bootstrap: BootstrapConfig = Field(default_factory=BootstrapConfig)
    tasks: dict[str, TaskConfig] = Field(min_length=1)

    @field_validator("output")
    @classmethod
    def _check_output(cls, output: Path) -> Path:
        if "\0" in str(output):
            raise PydanticCustomError("refused", "holds a NUL, which no path can. Name a folder without it.")
        return output

    @field_validator("tasks")
    @classmethod
    def _check_names(cls, tasks: dict[str, TaskConfig]) -> dict[str, TaskConfig]:
        """Refuse names that cannot be those of files."""
        seen: dict[str, str] = {}
        for name in tasks:
            if not _TASK_NAME.fullmatch(name):
                raise PydanticCustomError(
                    "refused",
                    "{why}",
                    {"why": f"the name {name[:40]!r} is also that of a file: write letters, digits, - and _."},
                )
            if (other := seen.setdefault(name.casefold(), name)) != name:
                raise PydanticCustomError(
                    "refused",
                    "{why}",
                    {"why": f"{other!r} and {name!r} differ in case alone, and are names of files too."},
                )
        return tasks

    def decoding(self, task: TaskConfig) -> dict[str, Any]:
        """Return the arguments of `model.generate`: greedy, overlaid with those of benchmark, evaluation and task."""
        benchmark = None if task.benchmark is None else BENCHMARKS[task.benchmark]
        own = {} if benchmark is None else benchmark.decoding
        longest = DEFAULT_LENGTH if benchmark is None else benchmark.max_new_tokens
        return {
            "do_sample": False,
            **own,
            **self.generation,
            **task.generation,
            "max_new_tokens": task.max_new_tokens or self.max_new_tokens or longest,
        }

    def resolve(self, path: Path) -> Path:
        """Find a task's file, relative to `data_root`."""
        return path if self.data_root is None else self.data_root / path


def load_config(
    path: Path | None,
    overrides: Iterable[str] = (),
    *,
    tasks: Sequence[str] = (),
    data_root: Path | None = None,
    output: Path | None = None,
) -> EvaluationConfig:
    """Read and validate a configuration file, or make one of published benchmarks.

    Args:
        path: The file. None: `tasks` are names of benchmarks.
        overrides: `key.sub=value` each, the value in YAML.
        tasks: With a file, those of its tasks that are measured, if any are named.
        data_root: Instead of the file's.
        output: Instead of the file's.

    Raises:
        ConfigError: One line for each problem: file, key, problem, cure.
    """
    if path is None:
        values: dict[str, Any] = {"output": DEFAULT_OUTPUT, "tasks": {name: {"benchmark": name} for name in tasks}}
        for override in overrides:
            apply_override(values, override)
    else:
        values = read_yaml(path, overrides)
        if tasks:
            values["tasks"] = _chosen(values.get("tasks") or {}, tasks, path)
    given = {"data_root": data_root, "output": output}
    values |= {key: str(value) for key, value in given.items() if value is not None}
    return validate(EvaluationConfig, values, source="--tasks" if path is None else path)


def _chosen(found: dict[str, Any], tasks: Sequence[str], path: Path) -> dict[str, Any]:
    for name in tasks:
        if name not in found:
            raise ConfigError(f"{path}: no task {name!r}.{did_you_mean(name, found)}")
    return {name: found[name] for name in tasks}


__all__ = ["BootstrapConfig", "EvaluationConfig", "MetricName", "TaskConfig", "load_config"]
