"""MMMU: questions of 30 subjects of a college, with pictures where the text has `<image 1>`."""

import re
from collections.abc import Iterator
from functools import partial

from ...errors import EvaluationError
from ..benchmark import LETTER, SHORT_ANSWER, Benchmark
from ..choices import letter_of, options
from ..fields import need_list, need_text, need_texts, unpack_medium
from ..sample import Message, Sample, ask
from ..source import Row, Source

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
_KINDS = ("multiple-choice", "open")


def read_mmmu(source: Source, kind: str) -> Iterator[Sample]:
    """Rows of one kind, `multiple-choice` or `open`, of the files of all subjects.

    Raises:
        EvaluationError: If a subject is missing or a row is not as expected; names it and the cure.
    """
    seen = set()
    for name in source.all("*/validation-*.parquet"):
        for where, row in source.rows(name):
            subject = _subject(row, where)
            seen.add(subject)
            found = need_text(row, where, "question_type")
            if found not in _KINDS:
                raise EvaluationError(f"{where}: unknown question_type {found!r}; there are {', '.join(_KINDS)}")
            if found == kind:
                yield (_choice if kind == "multiple-choice" else _open)(source, row, where, subject)
    if lacking := sorted(_DISCIPLINE.keys() - seen):
        raise EvaluationError(
            f"{source.root}: no rows of {len(lacking)} of {len(_DISCIPLINE)} subjects: {', '.join(lacking)}.\n"
            f"{source.help}"
        )


def _subject(row: Row, where: str) -> str:
    name = need_text(row, where, "id")
    subject = name.removeprefix("validation_").rpartition("_")[0]
    if subject not in _DISCIPLINE:
        raise EvaluationError(f"{where}: id {name!r} is not validation_SUBJECT_NUMBER with a subject of MMMU")
    return subject


def _choice(source: Source, row: Row, where: str, subject: str) -> Sample:
    question, answer = need_texts(row, where, "question", "answer")
    choices = need_list(row, where, "options", at_least=2, may_be_empty=True)  # asked as they are
    letter = letter_of(answer, choices, where)
    asked = f"{question}\n{options(choices)}"
    return _sample(source, row, where, subject, asked=asked, answers=(letter,), choices=choices)


def _open(source: Source, row: Row, where: str, subject: str) -> Sample:
    question, answer = need_texts(row, where, "question", "answer")
    answers = need_list(row, where, "answer") if answer.startswith("[") else (answer,)
    return _sample(source, row, where, subject, asked=question, answers=answers)


def _sample(
    source: Source,
    row: Row,
    where: str,
    subject: str,
    *,
    asked: str,
    answers: tuple[str, ...],
    choices: tuple[str, ...] = (),
) -> Sample:
    content = interleave(source, row, where, asked)
    pictures = [item["path"] for item in content if isinstance(item, dict)]
    identity = need_text(row, where, "id")
    return Sample(
        id=identity,
        messages=ask(*content),
        reference=answers[0],
        answers=answers,
        cluster=pictures[0] if pictures else identity,
        where=where,
        choices=choices,
        categories={"subject": subject, "discipline": _DISCIPLINE[subject]},
    )


def interleave(source: Source, row: Row, where: str, asked: str) -> list[Message | str]:
    """The text with the picture of the column `image_1` in place of each `<image 1>`, and so on.

    Raises:
        EvaluationError: If the row lacks a picture that the text names.
    """
    content: list[Message | str] = []
    for number, part in enumerate(_PLACE.split(asked)):
        if number % 2:  # what the group of the pattern caught
            content.append({"type": "image", "path": unpack_medium(source, row, where, f"image_{part}")})
        elif part.strip():
            content.append(part)
    return content


MMMU = Benchmark(
    name="mmmu",
    title="MMMU, validation, multiple choice",
    measures="Questions of a college exam that need a picture and knowledge of its subject. Broken down by subject "
    "and discipline.",
    read=partial(read_mmmu, kind="multiple-choice"),
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
    read=partial(read_mmmu, kind="open"),
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
