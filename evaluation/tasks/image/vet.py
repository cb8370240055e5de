"""MM-Vet: open questions about pictures that need several capabilities at once."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from ..benchmark import Benchmark, Judge
from ..row import Row, Text, Texts
from ..sample import Sample, ask
from ..source import Source

JUDGE = Judge(
    """\
You grade an answer to a question about a picture that you do not see. Compare it with the reference.
In the reference, <AND> joins parts that must all be there, and <OR> joins alternatives of which one is enough.
Grade from 0.0 (wrong) to 1.0 (right) in steps of 0.1. An answer that has half of the parts gets 0.5.
Wording and length do not matter; what contradicts the reference does.

Examples:
Question: Which fruits are on the plate? Reference: apple <AND> pear. Answer: a banana. Grade: 0.0
Question: Which fruits are on the plate? Reference: apple <AND> pear. Answer: I see an apple. Grade: 0.5
Question: Which fruits are on the plate? Reference: apple <AND> pear. Answer: a pear beside an apple. Grade: 1.0
Question: What is it sat on? Reference: sofa <OR> couch. Answer: on the couch. Grade: 1.0

Question: {question}
Reference: {reference}
Answer: {prediction}""",
    {"grade": 1.0},
)
"""The publisher's protocol in this project's words; `evaluation.judge.judge` fills in the row."""


class Question(Row):
    """A row of `{"v1_0": {...}}`."""

    number: str
    folder: str
    imagename: Text
    question: Text
    answer: Text
    capability: Texts
    axes: tuple[str, ...] = ()


def rows(source: Source) -> Iterator[Question]:
    """Read the rows of the file, each with the capabilities of all."""
    name = source.first("mm-vet.json", "mm-vet/mm-vet.json")
    found = list(source.keyed(name, Question, "number", folder=str(PurePosixPath(name).parent / "images")))
    axes = tuple(sorted({capability for row in found for capability in row.capability}))
    return (row.model_copy(update={"axes": axes}) for row in found)


def read(row: Question, source: Source) -> Sample:
    """Read a question.

    Each capability is an axis of its own with the categories `needed` and `not needed`, for a question needs several.
    """
    path = source.media(row.where, f"{row.folder}/{row.imagename}")
    return Sample(
        row.number,
        ask({"type": "image", "path": path}, row.question),
        row.answer,
        answers=tuple(alternative.strip() for alternative in row.answer.split("<OR>")),
        cluster=path,
        where=row.where,
        categories={axis: "needed" if axis in row.capability else "not needed" for axis in row.axes},
    )


MMVET = Benchmark(
    name="mmvet",
    title="MM-Vet v1",
    measures="Open questions that need several capabilities at once. Broken down by capability.",
    rows=rows,
    read=read,
    metric="contains",
    tree="""
mm-vet.json (or mm-vet/mm-vet.json)
images/v1_0.png, ... (beside it)
""",
    origin="https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip",
    licence="non-commercial research and education only (LICENSE_DATASET of the publisher's repository)",
    read_on="from the description, 2026-11-28 (https://github.com/yuweihao/MM-Vet, README.md and mm-vet_evaluator.py)",
    max_new_tokens=512,
    judge=JUDGE,
    note="The question alone is asked. The published score is that of a judge (gpt-4-0613): `contains` is not "
    "comparable with it, nor are other judges or prompts. The judge's prompt is this project's own.",
)
BENCHMARKS = (MMVET,)


__all__ = ["BENCHMARKS"]
