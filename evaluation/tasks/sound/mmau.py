"""MMAU test-mini: multiple choice about sounds, music and speech (Sakshi et al. 2024)."""

from ..benchmark import LETTER, Benchmark, Hub
from ..choices import letter_of_text, options
from ..media import Medium
from ..row import Options, Row, Text
from ..sample import Sample, ask
from ..source import Source


class Question(Row):
    """What the publisher's rows and their copy on the Hub have."""

    id: Text
    question: Text
    choices: Options
    answer: Text
    task: Text
    difficulty: Text


class FileRow(Question):
    """A row of the publisher's JSON file."""

    audio_id: Text


class HubRow(Question):
    """A row of lmms-eval's copy, whose options are JSON in a text."""

    audio: Medium


def read(row: FileRow | HubRow, source: Source) -> Sample:
    """Read a question about a sound, or about speech."""
    if isinstance(row, HubRow):
        path = source.medium(row.audio, row.where, name=row.id, ending=".wav")
    else:
        path = source.media(row.where, row.audio_id)
    sound = {"type": "speech" if row.task == "speech" else "audio", "path": path}
    return Sample(
        row.id,
        ask(sound, f"{row.question}\n{options(row.choices)}"),
        reference=letter_of_text(row.answer, row.choices, row.where),
        cluster=row.id,
        where=row.where,
        choices=row.choices,
        categories={"task": row.task, "difficulty": row.difficulty},
    )


BENCHMARKS = (
    Benchmark(
        name="mmau",
        title="MMAU test-mini",
        measures="Multiple choice about sounds, music and speech that asks for knowledge and reasoning. Broken down "
        "by task and difficulty.",
        rows=lambda source: source.rows("mmau-test-mini.json", FileRow),
        read=read,
        metric="multiple_choice",
        tree="mmau-test-mini.json\ntest-mini-audios/ID.wav",
        origin="https://github.com/Sakshi113/MMAU",
        licence="not stated in the README; the sounds come from sets with licences of their own",
        read_on="from the beginning of the publisher's file, 2026-11-28 "
        "(https://github.com/Sakshi113/MMAU/blob/main/mmau-test-mini.json)",
        prompt=LETTER,
        max_new_tokens=128,
        hub=Hub("lmms-lab-audio/mmau", "test_mini", HubRow),
        note="1,000 questions. Those of task speech go through the speech encoder, sound and music through that of "
        "sounds. A quarter of the questions was revised in version 05.15.25: say which file was read. Scored by the "
        "letter; the publisher's script looks for the words of the option.",
    ),
)
"""The part whose answers are public."""

__all__ = ["BENCHMARKS"]
