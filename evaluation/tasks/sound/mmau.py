"""MMAU test-mini: multiple choice about sounds, music and speech (Sakshi et al. 2024)."""

from collections.abc import Iterator

from ..benchmark import LETTER, Benchmark, Hub
from ..choices import letter_of_text, options
from ..fields import need_list, need_text, need_texts, unpack_medium
from ..sample import Sample, ask
from ..source import Row, Source


def read(source: Source) -> Iterator[Sample]:
    """Rows of the publisher's JSON file."""
    for where, row in source.rows("mmau-test-mini.json"):
        yield _sample(row, where, source.media(where, need_text(row, where, "audio_id")))


def from_hub(row: Row, where: str, source: Source) -> Sample:
    """A row of lmms-eval's copy, whose options are JSON in a text."""
    path = unpack_medium(source, row, where, "audio", name=need_text(row, where, "id"), ending=".wav")
    return _sample(row, where, path)


def _sample(row: Row, where: str, path: str) -> Sample:
    identity, question, answer, task, difficulty = need_texts(
        row, where, "id", "question", "answer", "task", "difficulty"
    )
    choices = need_list(row, where, "choices", at_least=2)
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
        measures="Multiple choice about sounds, music and speech that asks for knowledge and reasoning. Broken down "
        "by task and difficulty.",
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
