"""A judge grades answers beside the metric: any endpoint that speaks OpenAI's chat completions.

rows and predictions -> prompts -> judged/NAME.jsonl (resumable) -> a ratio of sums for each value that it names
One process asks. A reply is kept under its row and prompt, so that of changed answers alone new grades are asked for.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from unimoe.files.strict_json import parse_json

from ..errors import EvaluationError
from ..predictions import append_predictions, resume_file
from ..progress import track
from ..tasks import Judge, Sample
from .completion import RequestFailedError, complete
from .endpoint import JudgeConfig, read_key

_PAUSES = (1, 5, 20)
"""Between tries, s."""


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
        EvaluationError: If there is no key, or the endpoint cannot be reached, refuses, or answers something else.
    """
    key = read_key(config)
    prompts = dict(_named_prompt(judge, row, text) for row, text in zip(samples, predictions, strict=True))
    replies = resume_file(
        path, {"judge": config.model}, overwrite=overwrite, cure="Remove it to have all graded anew."
    )
    left = [name for name in prompts if name not in replies]
    batches = [left[start : start + config.workers] for start in range(0, len(left), config.workers)]
    for batch in track(batches, description, console=console):
        replies |= _ask_batch(config, key, {name: prompts[name] for name in batch}, path)
    grades = [read_grades(replies[name], judge.values) for name in prompts]
    values = {
        name: np.array([[found[name] if found else 0.0, 1.0] for found in grades], dtype=np.float64)
        for name in judge.values
    }
    return values, sum(found is None for found in grades)


def _named_prompt(judge: Judge, row: Sample, prediction: str) -> tuple[str, str]:
    """Write the prompt for an answer, under a name that only the same prompt for the same row has."""
    prompt = judge.render(row, prediction)
    digest = hashlib.sha256(prompt.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{row.id} {digest[:16]}", prompt


def _ask_batch(config: JudgeConfig, key: str | None, prompts: dict[str, str], path: Path) -> dict[str, str]:
    """Ask all prompts at a time, and add the replies to the file; an error is raised once the others are kept."""
    with ThreadPoolExecutor(config.workers) as pool:
        asked = {name: pool.submit(_ask, config, key, prompt) for name, prompt in prompts.items()}
        wait(asked.values())
    replies = {name: future.result() for name, future in asked.items() if future.exception() is None}
    append_predictions(path, ({"id": name, "prediction": text} for name, text in replies.items()))
    for future in asked.values():
        future.result()
    return replies


def read_grades(reply: str, limits: Mapping[str, float]) -> dict[str, float] | None:
    """Read a reply that is a JSON object with all grades, each a number from 0 to its limit; otherwise None."""
    try:
        found = parse_json(reply[reply.index("{") : reply.rindex("}") + 1], where="reply")
    except ValueError:  # no object, or one that `parse_json` refuses
        return None
    grades = {name: found.get(name) for name in limits}
    for name, grade in grades.items():
        if isinstance(grade, bool) or not isinstance(grade, int | float) or not 0 <= grade <= limits[name]:
            return None
    return {name: float(grade) for name, grade in grades.items()}


def _ask(config: JudgeConfig, key: str | None, prompt: str) -> str:
    """Ask the judge; a request that failed is tried again where that may help, and time is left."""
    deadline, problem = time.monotonic() + config.timeout, ""
    for pause in (*_PAUSES, None):
        try:
            return complete(config, key, prompt, deadline=deadline)
        except RequestFailedError as error:
            problem = str(error)
            if not error.passing or pause is None or time.monotonic() + pause > deadline:
                break
        time.sleep(pause)
    url = f"{config.base_url.rstrip('/')}/chat/completions"
    raise EvaluationError(f"judge: {url} failed: {problem}. Grades up to here are kept; run again.")


__all__ = ["JudgeConfig", "judge_rows", "read_grades", "read_key"]
