"""A judge grades answers beside the metric: any endpoint that speaks OpenAI's chat completions.

rows and predictions -> prompts -> judged/NAME.jsonl (resumable) -> a ratio of sums for each value that it names
"""

import json
import os
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console

from unimoe.settings import Section

from .errors import EvaluationError
from .predictions import append_predictions, open_predictions
from .progress import track
from .tasks import Judge, Sample

_TRIES = 3


class JudgeConfig(Section):
    """The endpoint of a judge.

    Args:
        base_url: Such as `http://localhost:8000/v1`; `/chat/completions` is appended.
        model: Name of the model there.
        api_key: Name of the environment variable that holds the key. None: none is sent.
        workers: Requests at a time.
        timeout: Of a request, s.
    """

    base_url: str
    model: str
    api_key: str | None = None
    workers: int = Field(default=4, ge=1)
    timeout: float = Field(default=60.0, gt=0)


def judge_rows(
    judge: Judge,
    config: JudgeConfig,
    samples: Sequence[Sample],
    predictions: Sequence[str],
    *,
    path: Path,
    overwrite: bool,
    description: str,
    console: Console,
) -> tuple[dict[str, NDArray[np.float64]], int]:
    """Let a judge grade all rows; grades that an earlier run has are kept.

    Args:
        judge: What it is asked.
        config: Where it is.
        samples: Rows.
        predictions: Of each.
        path: judged/NAME.jsonl.
        overwrite: Ask anew.
        description: Of the progress bar.
        console: Where progress goes.

    Returns:
        For each value that the judge names, numerator and denominator of the rows, (rows, 2); and how many replies
        could not be read. Those count as 0: nothing is guessed.

    Raises:
        EvaluationError: If the endpoint cannot be reached or refuses.
    """
    prompts = {row.id: judge.render(row, text) for row, text in zip(samples, predictions, strict=True)}
    header = {"judge": config.model, "base_url": config.base_url, "prompts": prompts}
    replies = open_predictions(path, header, overwrite=overwrite)
    left = [row for row in samples if row.id not in replies]
    batches = [left[start : start + config.workers] for start in range(0, len(left), config.workers)]
    with ThreadPoolExecutor(config.workers) as pool:
        for batch in track(batches, description, console=console):
            answers = pool.map(lambda row: _ask(config, prompts[row.id]), batch)
            fresh = {row.id: answer for row, answer in zip(batch, answers, strict=True)}
            append_predictions(path, ({"id": key, "prediction": text} for key, text in fresh.items()))
            replies |= fresh
    grades = [read_grades(replies[row.id], judge.values) for row in samples]
    values = {
        name: np.array([[found[name] if found else 0.0, 1.0] for found in grades], dtype=np.float64)
        for name in judge.values
    }
    return values, sum(found is None for found in grades)


def read_grades(reply: str, limits: Mapping[str, float]) -> dict[str, float] | None:
    """Grades of a reply that is a JSON object with all of them, each a number from 0 to its limit; otherwise None."""
    try:
        found = json.loads(reply[reply.index("{") : reply.rindex("}") + 1])
        grades = {name: float(found[name]) for name in limits}
    except (ValueError, KeyError, TypeError):
        return None
    return grades if all(0 <= grade <= limits[name] for name, grade in grades.items()) else None


def _ask(config: JudgeConfig, prompt: str) -> str:
    """The judge's reply to a prompt, decoded greedily."""
    headers = {"Content-Type": "application/json"}
    if config.api_key is not None:
        if not (key := os.environ.get(config.api_key)):
            raise EvaluationError(f"judge.api_key names the environment variable {config.api_key}, which is not set.")
        headers["Authorization"] = f"Bearer {key}"
    body = {"model": config.model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
    url, problem = f"{config.base_url.rstrip('/')}/chat/completions", ""
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    for _ in range(_TRIES):
        try:
            with urllib.request.urlopen(request, timeout=config.timeout) as response:
                return str(json.load(response)["choices"][0]["message"]["content"])
        except OSError as error:  # URLError, HTTPError and timeouts are among them
            problem = str(error)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            problem = f"not a chat completion ({error!r})"
    raise EvaluationError(f"judge: {url} failed {_TRIES} times: {problem}. Grades up to here are kept; run again.")


__all__ = ["JudgeConfig", "judge_rows", "read_grades"]
