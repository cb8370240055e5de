"""A-OKVQA: questions that need knowledge of the world, with ten direct answers and four options each."""

from typing import Any

from pydantic import Field

from ..benchmark import LETTER, SHORT_ANSWER, Benchmark, Hub
from ..choices import letter_at, options
from ..media import Medium
from ..row import Options, Row, Text, Whole
from ..sample import Sample, ask
from ..source import Source
from .vqa import COCO_LICENCE, Annotators, OpenQuestion, open_question

AOKVQA = "aokvqa_v1p0_val.json"


def _picture(row: "DirectRow | FileRow", source: Source) -> str:
    return source.media(row.where, f"coco/val2017/{row.image_id:012d}.jpg")


class DirectRow(OpenQuestion):
    """A row of the publisher's file with its direct answers."""

    image_id: Whole
    answers: Annotators = Field(alias="direct_answers")
    difficult_direct_answer: Any


class Question(Row):
    """A question with its options."""

    question_id: Text
    question: Text
    choices: Options
    correct_choice_idx: Whole


class FileRow(Question):
    """A row of the publisher's file."""

    image_id: Whole


class HubRow(Question):
    """A row of the Hub's copy, which holds the picture."""

    image: Medium


def read_direct(row: DirectRow, source: Source) -> Sample | None:
    """Read a question with ten direct answers; those marked as hard to answer without options are left out."""
    return None if row.difficult_direct_answer else open_question(row, _picture(row, source))


def read_choice(row: FileRow | HubRow, source: Source) -> Sample:
    """Read a question with its options."""
    path = source.medium(row.image, row.where) if isinstance(row, HubRow) else _picture(row, source)
    return Sample(
        row.question_id,
        ask({"type": "image", "path": path}, f"{row.question}\n{options(row.choices)}"),
        reference=letter_at(row.correct_choice_idx, row.choices, row.where),
        cluster=path,
        where=row.where,
        choices=row.choices,
    )


A_OKVQA = Benchmark(
    name="aokvqa",
    title="A-OKVQA v1.0, validation, direct answer",
    measures="Open questions about photographs that need knowledge of the world and reasoning.",
    rows=lambda source: source.rows(AOKVQA, DirectRow),
    read=read_direct,
    metric="vqa_accuracy",
    prompt=SHORT_ANSWER,
    tree="""
aokvqa_v1p0_val.json
coco/val2017/000000000042.jpg, ...
""",
    origin="https://prior-datasets.s3.us-east-2.amazonaws.com/aokvqa/aokvqa_v1p0.tar.gz and "
    "http://images.cocodataset.org/zips/val2017.zip",
    licence=f"of the annotations not found where the layout is described, {COCO_LICENCE}",
    read_on="from the description, 2026-11-28 (https://github.com/allenai/aokvqa/blob/main/README.md)",
    note="Questions with `difficult_direct_answer` are left out. The publisher's script counts min(matches / 3, 1) of "
    "exactly equal texts; this one leaves each annotator out in turn and normalises, as for VQAv2.",
)
A_OKVQA_CHOICES = Benchmark(
    name="aokvqa_mc",
    title="A-OKVQA v1.0, validation, multiple choice",
    measures="The same questions and the hard ones, with four options each.",
    rows=lambda source: source.rows(AOKVQA, FileRow),
    read=read_choice,
    metric="multiple_choice",
    prompt=LETTER,
    tree=A_OKVQA.tree,
    origin=A_OKVQA.origin,
    licence=A_OKVQA.licence,
    read_on=A_OKVQA.read_on,
    hub=Hub("HuggingFaceM4/A-OKVQA", "validation", HubRow),
    note="1,145 questions of four options.",
    shares="aokvqa",
)
BENCHMARKS = (A_OKVQA, A_OKVQA_CHOICES)


__all__ = ["BENCHMARKS"]
