"""A-OKVQA: questions that need knowledge of the world, with ten direct answers and four options each."""

from collections.abc import Iterator

from ..benchmark import LETTER, SHORT_ANSWER, Benchmark, Hub
from ..choices import letter_at, options
from ..fields import need_list, need_texts, need_whole, unpack_medium
from ..sample import Sample, ask
from ..source import Row, Source, need
from .vqa import COCO_LICENCE, open_question

AOKVQA = "aokvqa_v1p0_val.json"


def _picture(source: Source, row: Row, where: str) -> str:
    return source.media(where, f"coco/val2017/{need_whole(row, where, 'image_id'):012d}.jpg")


def read_aokvqa(source: Source) -> Iterator[Sample]:
    """Questions with ten direct answers; those marked as hard to answer without options are left out."""
    for where, row in source.rows(AOKVQA):
        (hard,) = need(row, where, "difficult_direct_answer")
        if not hard:
            yield open_question(row, where, _picture(source, row, where), answers="direct_answers")


def read_aokvqa_choices(source: Source) -> Iterator[Sample]:
    """All questions with their four options."""
    for where, row in source.rows(AOKVQA):
        yield _choice(row, where, _picture(source, row, where))


def _choice(row: Row, where: str, path: str) -> Sample:
    identity, question = need_texts(row, where, "question_id", "question")
    choices = need_list(row, where, "choices", at_least=2)
    letter = letter_at(need_whole(row, where, "correct_choice_idx"), choices, where)
    return Sample(
        id=identity,
        messages=ask({"type": "image", "path": path}, f"{question}\n{options(choices)}"),
        reference=letter,
        answers=(letter,),
        cluster=path,
        where=where,
        choices=choices,
    )


A_OKVQA = Benchmark(
    name="aokvqa",
    title="A-OKVQA v1.0, validation, direct answer",
    measures="Open questions about photographs that need knowledge of the world and reasoning.",
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
    measures="The same questions and the hard ones, with four options each.",
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
        lambda row, where, source: _choice(row, where, unpack_medium(source, row, where, "image")),
    ),
    note="1,145 questions of four options.",
    shares="aokvqa",
)
BENCHMARKS = (A_OKVQA, A_OKVQA_CHOICES)


__all__ = ["BENCHMARKS"]
