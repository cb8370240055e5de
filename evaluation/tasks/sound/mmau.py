"""MMAU test-mini: multiple choice about sounds, music and speech (Sakshi et al. 2024)."""

import json
from collections.abc import Iterator
from typing import Any

from ...errors import EvaluationError
from ..benchmark import LETTER, Benchmark, Hub, options
from ..choices import letter_of_text
from ..fields import need_text, need_texts, unpack_medium
from ..sample import Sample, ask
from ..source import Row, Source


def read(source: Source) -> Iterator[Sample]:
    """Rows of the publisher's JSON file."""
    for where, row in source.rows("mmau-test-mini.json"):
        (name,) = need_text(row, where, "audio_id")
        yield _sample(row, where, source.media(name, where))


def from_hub(row: Row, where: str, source: Source) -> Sample:
    """A row of lmms-eval's copy, whose options are JSON in a text."""
    (identity,) = need_text(row, where, "id")
    path = unpack_medium(source, where, row.get("audio"), identity, ending=".wav")
    return _sample({**row, "choices": _listed(row.get("choices"), where)}, where, path)


def _listed(choices: Any, where: str) -> Any:
    try:
        return json.loads(choices) if isinstance(choices, str) else choices
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{where}: 'choices' is not valid JSON: {error.msg}") from error


def _sample(row: Row, where: str, path: str) -> Sample:
    identity, question, answer, task, difficulty = need_text(
        row, where, "id", "question", "answer", "task", "difficulty"
    )
    choices = need_texts(row, where, "choices", at_least=2)
    letter = letter_of_text(answer, choices, where)
    return Sample(
        identity,
        ask({"type": "speech" if task == "speech" else "audio", "path": path}, f"{question}\n{options(choices)}"),
        letter,
        (letter,),
        identity,
        where,
        choices,
        categories={"task": task, "difficulty": difficulty},
    )


BENCHMARKS = (
    Benchmark(
        name="mmau",
        title="MMAU test-mini",
        read=read,
        metric="multiple_choice",
        tree="mmau-test-mini.json\ntest-mini-audios/ID.wav",
        origin="https://github.com/Sakshi113/MMAU",
        licence="not stated in the README; the sounds come from sets with licences of their own",
        read_on="from the beginning of the publisher's file, 2026-11-28 "
        "(https://github.com/Sakshi113/MMAU/blob/main/mmau-test-mini.json)",
        prompt=LETTER,
        max_new_tokens=128,
        hub=Hub("lmms-lab-audio/mmau", "test_mini", from_hub),
        note="1,000 questions. Those of task speech go through the speech encoder, sound and music through that of "
        "sounds. A quarter of the questions was revised in version 05.15.25: say which file was read. Scored by the "
        "letter; the publisher's script looks for the words of the option.",
    ),
)
"""The part whose answers are public."""

__all__ = ["BENCHMARKS"]
