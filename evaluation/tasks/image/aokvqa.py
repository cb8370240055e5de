"""A-OKVQA: questions that need knowledge of the world, with ten direct answers and four options each."""

from collections.abc import Iterator

from ..benchmark import LETTER, LETTERS, SHORT_ANSWER, Benchmark, Hub, check_letter, options
from ..sample import Message, Sample, ask
from ..source import Row, Source, need
from .rows import column, picture, text, texts, whole
from .vqa import COCO_LICENCE, open_question

AOKVQA = "aokvqa_v1p0_val.json"


def _aokvqa_picture(source: Source, row: Row, where: str) -> Message:
    return picture(source, f"coco/val2017/{whole(row, where, 'image_id'):012d}.jpg", where)


def read_aokvqa(source: Source) -> Iterator[Sample]:
    """Questions with ten direct answers; those marked as hard to answer without options are left out."""
    for where, row in source.rows(AOKVQA):
        (hard,) = need(row, where, "difficult_direct_answer")
        if not hard:
            answers = texts(row, where, "direct_answers")
            yield open_question({**row, "answers": answers}, where, _aokvqa_picture(source, row, where))


def read_aokvqa_choices(source: Source) -> Iterator[Sample]:
    """All questions with their four options."""
    for where, row in source.rows(AOKVQA):
        yield _choice(row, where, _aokvqa_picture(source, row, where))


def _choice(row: Row, where: str, image: Message) -> Sample:
    question, right = text(row, where, "question"), whole(row, where, "correct_choice_idx")
    choices = texts(row, where, "choices")
    letter = check_letter(LETTERS[right] if 0 <= right < len(LETTERS) else right, choices, where)
    return Sample(
        id=text(row, where, "question_id"),
        messages=ask(image, f"{question}\n{options(choices)}"),
        reference=letter,
        answers=(letter,),
        cluster=image["path"],
        where=where,
        choices=tuple(choices),
    )


A_OKVQA = Benchmark(
    name="aokvqa",
    title="A-OKVQA v1.0, validation, direct answer",
    read=read_aokvqa,
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
    read=read_aokvqa_choices,
    metric="multiple_choice",
    prompt=LETTER,
    tree=A_OKVQA.tree,
    origin=A_OKVQA.origin,
    licence=A_OKVQA.licence,
    read_on=A_OKVQA.read_on,
    hub=Hub(
        "HuggingFaceM4/A-OKVQA",
        "validation",
        lambda row, where, source: _choice(row, where, column(source, row, where)),
    ),
    note="1,145 questions of four options.",
    shares="aokvqa",
)
BENCHMARKS = (A_OKVQA, A_OKVQA_CHOICES)


__all__ = ["BENCHMARKS"]
