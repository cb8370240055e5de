"""A judge grades answers beside the metric: any endpoint that speaks OpenAI's chat completions.

rows and predictions -> prompts -> judged/NAME.jsonl (resumable) -> a ratio of sums for each value that it names
One process asks. A reply is kept under its row and prompt, so that of changed answers alone new grades are asked for.
"""

import hashlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from http.client import HTTPException
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console

from unimoe.settings import Section

from .errors import EvaluationError
from .predictions import append_predictions, resume_file
from .progress import track
from .tasks import Judge, Sample

_PAUSES = (1, 5, 20)
"""Between tries, s."""
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""HTTP states that may pass."""


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
    prompts = {}
    for row, text in zip(samples, predictions, strict=True):
        prompt = judge.render(row, text)
        prompts[f"{row.id} {hashlib.sha256(prompt.encode()).hexdigest()[:16]}"] = prompt
    replies = resume_file(
        path, {"judge": config.model}, overwrite=overwrite, cure="Remove it to have all graded anew."
    )
    left = [key for key in prompts if key not in replies]
    batches = [left[start : start + config.workers] for start in range(0, len(left), config.workers)]
    with ThreadPoolExecutor(config.workers) as pool:
        for batch in track(batches, description, console=console):
            asked = [(key, pool.submit(_ask, config, prompts[key])) for key in batch]
            wait(future for _, future in asked)
            fresh = {key: future.result() for key, future in asked if future.exception() is None}
            append_predictions(path, ({"id": key, "prediction": text} for key, text in fresh.items()))
            replies |= fresh
            for _, future in asked:
                future.result()  # the first error, once its neighbours' replies are kept
    grades = [read_grades(replies[key], judge.values) for key in prompts]
    values = {
        name: np.array([[found[name] if found else 0.0, 1.0] for found in grades], dtype=np.float64)
        for name in judge.values
    }
    return values, sum(found is None for found in grades)


def read_grades(reply: str, limits: Mapping[str, float]) -> dict[str, float] | None:
    """Grades of a reply that is a JSON object with all of them, each a number from 0 to its limit; otherwise None."""
    try:
        found = json.loads(reply[reply.index("{") : reply.rindex("}") + 1])
    except (ValueError, RecursionError):
        return None
    grades = {name: found.get(name) for name in limits}
    for name, grade in grades.items():
        if isinstance(grade, bool) or not isinstance(grade, int | float) or not 0 <= grade <= limits[name]:
            return None
    return {name: float(grade) for name, grade in grades.items()}


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
    for pause in (*_PAUSES, None):
        try:
            with urllib.request.urlopen(request, timeout=config.timeout) as response:
                return str(json.load(response)["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            problem = str(error)
            if error.code not in _PASSING:
                break
        except (OSError, HTTPException) as error:  # URLError and timeouts are among them
            problem = str(error)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            problem = f"not a chat completion ({error!r})"
        if pause is not None:
            time.sleep(pause)
    raise EvaluationError(f"judge: {url} failed: {problem}. Grades up to here are kept; run again.")


__all__ = ["JudgeConfig", "judge_rows", "read_grades"]
