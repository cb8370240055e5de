"""OmniBench: questions that need a picture and a sound together (Li et al. 2024)."""

from pydantic import Field

from ..benchmark import LETTER, Benchmark, Hub
from ..choices import letter_of_text, options
from ..media import Medium
from ..row import Options, Row, Text
from ..sample import Sample, ask
from ..source import Source

ROWS = ("dataset/batch-5_1142_20240817.jsonl", "dataset/*.jsonl")


class Question(Row):
    """What the publisher's rows and their copy on the Hub have."""

    index: Text
    question: Text
    options: Options
    answer: Text
    task: Text = Field(alias="task type")
    kind: Text = Field(alias="audio type")


class FileRow(Question):
    """A row of the publisher's JSONL file."""

    audio_path: Text
    image_path: Text


class HubRow(Question):
    """A row of the publisher's copy, which holds the media."""

    audio: Medium
    image: Medium


def read(row: FileRow | HubRow, source: Source) -> Sample:
    """Read a question about a sound and a picture."""
    if isinstance(row, HubRow):
        heard = source.medium(row.audio, row.where, name=f"audio_{row.index}", ending=".mp3")
        seen = source.medium(row.image, row.where, name=f"image_{row.index}", ending=".png")
    else:
        heard = source.media(row.where, f"mm_data/audio/{row.audio_path}")
        seen = source.media(row.where, f"mm_data/image/{row.image_path}")
    kind = row.kind.lower()
    sound = {"type": "speech" if kind == "speech" else "audio", "path": heard}
    text = f"Question:\n{row.question}\n\nOptions:\n{options(row.options)}\n"
    return Sample(
        row.index,
        ask(sound, {"type": "image", "path": seen}, text),
        reference=letter_of_text(row.answer, row.options, row.where),
        cluster=heard,
        where=row.where,
        choices=row.options,
        categories={"task": row.task, "audio": kind},
    )


BENCHMARKS = (
    Benchmark(
        name="omnibench",
        title="OmniBench",
        measures="Multiple choice about a picture and a sound that must be understood together. Broken down by task "
        "and kind of sound.",
        rows=lambda source: source.rows(source.first(*ROWS), FileRow),
        read=read,
        metric="multiple_choice",
        tree="dataset/batch-5_1142_20240817.jsonl\nmm_data/audio/...    as 'audio_path' of the rows says\n"
        "mm_data/image/...    as 'image_path' of the rows says",
        origin="https://github.com/multimodal-art-projection/OmniBench (git lfs pull for mm_data)",
        licence="not stated in the README; pictures and sounds: of the films and sets that they come from",
        read_on="from the beginning of the publisher's file, 2026-11-28 "
        "(https://github.com/multimodal-art-projection/OmniBench)",
        prompt=LETTER,
        max_new_tokens=128,
        hub=Hub("m-a-p/OmniBench", "train", HubRow),
        note="1,142 questions. Sound first, then picture, prompt and length as in lmms-eval. Sounds of type speech go "
        "through the speech encoder, events and music through that of sounds. lmms-eval reads another copy of the "
        "rows, lmms-lab-audio/Omni_Bench_fix.",
    ),
)
"""Picture and sound together."""

__all__ = ["BENCHMARKS"]
