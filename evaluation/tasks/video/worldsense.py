"""WorldSense: multiple choice about videos that must be seen and heard (Hong et al. 2025)."""

from collections.abc import Iterator

from ...errors import EvaluationError
from ..benchmark import LETTER, Benchmark
from ..choices import letter_of, without_labels
from ..row import Options, Row, Text
from ..sample import Sample, ask
from ..source import Source

ANNOTATIONS = "worldsense_qa.json"


class Video(Row):
    """A video, whose questions are in columns `task0`, `task1`, ..."""

    video: str
    domain: Text


class Question(Row):
    """A question about a video."""

    video: str
    domain: str
    key: str
    question: Text
    candidates: Options
    answer: Text
    task_type: Text


def rows(source: Source) -> Iterator[Question]:
    """Read the questions of all videos."""
    for row in source.keyed(ANNOTATIONS, Video, "video"):
        keys = [key for key in row.values if key.startswith("task")]
        if not keys:
            raise EvaluationError(
                f"{row.where}: no question; expected 'task0'. Remove the video, or complete the file."
            )
        for key in keys:
            known = {"video": row.video, "domain": row.domain, "key": key}
            yield Question.parse(row.values[key], f"{row.where}, {key!r}", **known)


def read(row: Question, source: Source) -> Sample:
    """Read a question about a video; options carry their letters."""
    choices = without_labels(row.candidates, row.where)
    path = source.media(row.where, f"videos/{row.video}.mp4")
    return Sample(
        f"{row.video}/{row.key}",
        ask({"type": "video", "path": path}, "\n".join((row.question, *row.candidates))),
        reference=letter_of(row.answer, choices, row.where),
        cluster=row.video,
        where=row.where,
        choices=choices,
        categories={"domain": row.domain, "task": row.task_type},
    )


BENCHMARKS = (
    Benchmark(
        name="worldsense",
        title="WorldSense",
        measures="Multiple choice about videos that must be seen and heard. Broken down by domain and task.",
        rows=rows,
        read=read,
        metric="multiple_choice",
        tree=f"{ANNOTATIONS}\nvideos/VIDEO.mp4    of the archives",
        origin="https://huggingface.co/datasets/honglyhly/WorldSense",
        licence="not stated in the publisher's README; see the data card",
        read_on="from the description, 2026-11-28 (https://github.com/JaaackHongggg/WorldSense; keys of the file as "
        "VLMEvalKit, the publisher's evaluation, reads them)",
        prompt=LETTER,
        max_new_tokens=128,
        note="3,172 questions about 1,662 videos. The sound of a video is heard as the model is built to: through its "
        "option video_sound. A model without it sees frames alone, and its score is one without sound. VLMEvalKit and "
        "lmms-eval put longer instructions in front; lmms-eval allows 1,024 tokens, and takes A where no letter is "
        "found.",
    ),
)
"""Videos with their sound."""

__all__ = ["BENCHMARKS"]
