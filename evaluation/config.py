"""The configuration of an evaluation: YAML file -> `key.sub=value` overrides -> validated `EvaluationConfig`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from unimoe.settings import Section, read_yaml, validate

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


class TaskConfig(Section):
    """One task: rows with a reference answer, and how answers are scored.

    Args:
        data: JSONL file of the rows to answer; relative to `data_root`.
        train: JSONL file of the training split, from which the floors are computed. None: no floors.
        metric: `exact_match`; `vqa_accuracy` (`answers` of annotators); `anls`, `contains` (`answers` that are right);
            `multiple_choice` (`choices`); `circular` (`choices`; `group` of a question's rotations); `yes_no`; `mme`
            (`group` of a picture's two questions); `wer`, `cer` (error rates of words and characters, lower is
            better); `captions` (`answers` are the reference captions).
        limit: Score a random sample (by `seed`) of so many rows. None: all.
        prompt: Text appended to the last user turn of every row.
    """

    data: Path
    train: Path | None = None
    metric: MetricName = "exact_match"
    limit: int | None = Field(default=None, ge=1)
    prompt: str | None = None


class BootstrapConfig(Section):
    """Resampling behind the 95 % intervals."""

    samples: int = Field(default=1000, ge=100)


class EvaluationConfig(Section):
    """An evaluation.

    Args:
        output: Folder of results.json, predictions/ and routing.png.
        data_root: Folder that `data` and `train` of the tasks are relative to. None: the working directory.
        batch_size: Rows per generation batch.
        max_new_tokens: Longest answer, tokens.
        generation: Further arguments of `model.generate`. Greedy unless they say otherwise.
        seed: Of sampling rows, shuffling media, sampling tokens and the bootstrap.
        device: `auto` takes the GPU if there is one.
        routing_rows: Rows per task whose routing is counted. 0: none.
        tasks: Name -> task.
    """

    output: Path
    data_root: Path | None = None
    batch_size: int = Field(default=32, ge=1)
    max_new_tokens: int = Field(default=32, ge=1)
    generation: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    routing_rows: int = Field(default=256, ge=0)
    bootstrap: BootstrapConfig = Field(default_factory=BootstrapConfig)
    tasks: dict[str, TaskConfig] = Field(min_length=1)

    def decoding(self) -> dict[str, Any]:
        """Arguments of `model.generate`: greedy, overlaid with `generation`."""
        return {"do_sample": False, **self.generation, "max_new_tokens": self.max_new_tokens}

    def resolve(self, path: Path) -> Path:
        """A task's file, relative to `data_root`."""
        return path if self.data_root is None else self.data_root / path


def load_config(path: Path, overrides: Iterable[str] = ()) -> EvaluationConfig:
    """Read and validate a configuration file.

    Args:
        path: The file.
        overrides: `key.sub=value` each, the value in YAML.

    Raises:
        ConfigError: One line for each problem: file, key, problem, cure.
    """
    return validate(EvaluationConfig, read_yaml(path, overrides), source=path)


__all__ = ["BootstrapConfig", "EvaluationConfig", "MetricName", "TaskConfig", "load_config"]
