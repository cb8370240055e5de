"""MM-Vet: open questions about pictures that need several capabilities at once."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from ..benchmark import Benchmark, Judge
from ..fields import need_list, need_texts
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


def read_mmvet(source: Source) -> Iterator[Sample]:
    """Rows of `{"v1_0": {...}}`.

    Each capability is an axis of its own with the categories `needed` and `not needed`, for a question needs several.

    Raises:
        EvaluationError: If a row is not as expected; names it.
    """
    name = source.first("mm-vet.json", "mm-vet/mm-vet.json")
    rows = [(where, number, row, need_list(row, where, "capability")) for where, number, row in source.keyed(name)]
    axes = sorted({capability for *_, capabilities in rows for capability in capabilities})
    for where, number, row, capabilities in rows:
        question, reference, image = need_texts(row, where, "question", "answer", "imagename")
        path = source.media(where, str(PurePosixPath(name).parent / "images" / image))
        yield Sample(
            id=number,
            messages=ask({"type": "image", "path": path}, question),
            reference=reference,
            answers=tuple(alternative.strip() for alternative in reference.split("<OR>")),
            cluster=path,
            where=where,
            categories={axis: "needed" if axis in capabilities else "not needed" for axis in axes},
        )


MMVET = Benchmark(
    name="mmvet",
    title="MM-Vet v1",
    measures="Open questions that need several capabilities at once. Broken down by capability.",
    read=read_mmvet,
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
