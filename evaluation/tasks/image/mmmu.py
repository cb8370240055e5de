"""MMMU: questions of 30 subjects of a college, with pictures where the text has `<image 1>`."""

import re
from collections.abc import Iterator
from functools import cache, partial
from typing import Literal

from pydantic import create_model

from ...errors import EvaluationError
from ..benchmark import LETTER, SHORT_ANSWER, Benchmark
from ..choices import letter_of, options
from ..media import Medium
from ..row import BlankOptions, Row, Text, Texts
from ..sample import Message, Sample, ask
from ..source import Source

DISCIPLINES = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
"""Discipline -> subjects, as grouped in https://github.com/MMMU-Benchmark/MMMU (eval/data_utils.py)."""
_DISCIPLINE = {subject: discipline for discipline, subjects in DISCIPLINES.items() for subject in subjects}
_PLACE = re.compile(r"<image (\d+)>")


class Kind(Row):
    """What is read of rows of any kind."""

    id: Text
    question_type: Literal["multiple-choice", "open"]


class Question(Row):
    """A question of one kind."""

    id: Text
    question: Text
    answer: Text


class ChoiceQuestion(Question):
    """A question with options, which are asked as they are."""

    options: BlankOptions


class OpenAnswers(Row):
    """A question without options that has a list of right answers."""

    answer: Texts


def mmmu_rows(source: Source, *, kind: str, layout: type[Question]) -> Iterator[Question]:
    """Read the rows of one kind, `multiple-choice` or `open`, of the files of all subjects.

    Args:
        source: Of the benchmark.
        kind: Which rows.
        layout: Of these rows.

    Raises:
        EvaluationError: If a subject is missing or a row is not as expected; names it and the cure.
    """
    seen = set()
    for name in source.all("*/validation-*.parquet"):
        for row in source.rows(name, Kind):
            if _subject(row.id) not in _DISCIPLINE:
                raise EvaluationError(
                    f"{row.where}: id {row.id!r} is not validation_SUBJECT_NUMBER with a subject of MMMU"
                )
            seen.add(_subject(row.id))
            if row.question_type == kind:
                yield row.read_as(layout)
    if lacking := sorted(_DISCIPLINE.keys() - seen):
        raise EvaluationError(
            f"{source.root}: no rows of {len(lacking)} of {len(_DISCIPLINE)} subjects: {', '.join(lacking)}.\n"
            f"{source.help}"
        )


def _subject(identity: str) -> str:
    """Read the subject of `validation_SUBJECT_NUMBER`."""
    return identity.removeprefix("validation_").rpartition("_")[0]


def read_choice(row: ChoiceQuestion, source: Source) -> Sample:
    """Read a question with options."""
    asked = f"{row.question}\n{options(row.options)}"
    return _sample(row, source, asked, (letter_of(row.answer, row.options, row.where),), row.options)


def read_open(row: Question, source: Source) -> Sample:
    """Read a question without options, which has one right answer or a list of them."""
    answers = row.read_as(OpenAnswers).answer if row.answer.startswith("[") else (row.answer,)
    return _sample(row, source, row.question, answers)


def _sample(
    row: Question, source: Source, asked: str, answers: tuple[str, ...], choices: tuple[str, ...] = ()
) -> Sample:
    subject, content = _subject(row.id), interleave(row, source, asked)
    pictures = [item["path"] for item in content if isinstance(item, dict)]
    return Sample(
        row.id,
        ask(*content),
        answers[0],
        answers,
        cluster=pictures[0] if pictures else row.id,
        where=row.where,
        choices=choices,
        categories={"subject": subject, "discipline": _DISCIPLINE[subject]},
    )


@cache
def _layout_of(column: str) -> type[Row]:
    """Lay out a row by the picture in a column; pictures that no text names are not looked at."""
    return create_model("Picture", __base__=Row, **{column: (Medium, ...)})  # type: ignore[call-overload]


def interleave(row: Question, source: Source, asked: str) -> list[Message | str]:
    """Put the picture of the column `image_1` in place of each `<image 1>`, and so on.

    Raises:
        EvaluationError: If the row lacks a picture that the text names.
    """
    content: list[Message | str] = []
    for number, part in enumerate(_PLACE.split(asked)):
        if number % 2:  # what the group of the pattern caught
            column = f"image_{part}"
            picture = getattr(row.read_as(_layout_of(column)), column)
            content.append({"type": "image", "path": source.medium(picture, row.where)})
        elif part.strip():
            content.append(part)
    return content


MMMU = Benchmark(
    name="mmmu",
    title="MMMU, validation, multiple choice",
    measures="Questions of a college exam that need a picture and knowledge of its subject. Broken down by subject "
    "and discipline.",
    rows=partial(mmmu_rows, kind="multiple-choice", layout=ChoiceQuestion),
    read=read_choice,
    metric="multiple_choice",
    prompt=LETTER,
    tree="""
Accounting/validation-00000-of-00001.parquet
Agriculture/validation-00000-of-00001.parquet, ... (30 subjects)
""",
    origin="https://huggingface.co/datasets/MMMU/MMMU",
    licence="Apache 2.0",
    read_on="from the description, 2026-11-28 (https://huggingface.co/datasets/MMMU/MMMU; columns of "
    "https://huggingface.co/datasets/lmms-lab/MMMU)",
    note="The 900 questions of the split are scored in two parts: those with options here, the others as `mmmu_open`. "
    "The publisher's accuracy is over both, and picks an option at random where it reads none; here that is wrong. "
    "A picture stands in place of each mention, in options too.",
)
MMMU_OPEN = Benchmark(
    name="mmmu_open",
    title="MMMU, validation, open questions",
    measures="The questions of such exams that have no options. Broken down by subject and discipline.",
    rows=partial(mmmu_rows, kind="open", layout=Question),
    read=read_open,
    metric="contains",
    prompt=SHORT_ANSWER,
    tree=MMMU.tree,
    origin=MMMU.origin,
    licence=MMMU.licence,
    read_on=MMMU.read_on,
    note="The few questions without options, of which the answer must occur in the prediction. The publisher's script "
    "compares numbers by value.",
    shares="mmmu",
)
BENCHMARKS = (MMMU, MMMU_OPEN)


__all__ = ["BENCHMARKS", "DISCIPLINES", "interleave"]
