"""Questions about pictures that are answered in a few words: VQAv2, OK-VQA, TextVQA, GQA."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator

from ..benchmark import SHORT_ANSWER, Benchmark, Hub
from ..media import Medium
from ..row import COMPARE, Row, Text, Whole, join, misfit
from ..sample import Sample, ask
from ..source import Source

COCO_LICENCE = "pictures of COCO under the terms of Flickr and of their authors"


def _annotators(value: Any) -> tuple[str, ...]:
    given = value if isinstance(value, list) else []
    answers = [item.get("answer") if isinstance(item, dict) else item for item in given]
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise misfit(f"must list the annotators' answers, found {value!r}. {COMPARE}")
    return tuple(map(str, answers))


Annotators = Annotated[tuple[str, ...], BeforeValidator(_annotators)]
"""Answers of annotators as they were given, each a text, which may be empty, or `{"answer": text}`."""


class Question(Row):
    """A row of VQA's file of questions."""

    question_id: Text
    question: Text
    image_id: Whole


class Annotation(Row):
    """A row of VQA's file of annotations, some columns of which are read later."""

    question_id: Text
    answers: Annotators


class OpenQuestion(Row):
    """A question with the answers of annotators; VQAv2 has a type of answers, OK-VQA one of questions."""

    question_id: Text
    question: Text
    answers: Annotators
    answer_type: Text | None = None
    question_type: Text | None = None


class CocoRow(OpenQuestion):
    """A question and its annotation, about a picture of COCO."""

    image_id: Whole


class TextVQARow(OpenQuestion):
    """A row of TextVQA's file."""

    image_id: Text


class HubRow(OpenQuestion):
    """A row of lmms-eval's copies, with question, answers and picture together."""

    image: Medium


def vqa_rows(source: Source, *, prefix: str = "") -> Iterator[CocoRow]:
    """Read the rows of VQA's layout: a file of questions and one of annotations, joined by `question_id`."""
    names = (f"{prefix}OpenEnded_mscoco_val2014_questions.json", f"{prefix}mscoco_val2014_annotations.json")
    questions = source.listed(names[0], "questions", Question)
    annotations = source.listed(names[1], "annotations", Annotation)
    files = (source.root / names[0], source.root / names[1])
    return join(questions, annotations, CocoRow, key="question_id", files=files)


def read_open(row: CocoRow | HubRow, source: Source, *, category: str) -> Sample:
    """Read a question of VQAv2 or OK-VQA.

    Args:
        row: The question.
        source: Of the benchmark.
        category: Name of the column that becomes a category.
    """
    if isinstance(row, HubRow):
        path = source.medium(row.image, row.where)
    else:
        path = source.media(row.where, f"val2014/COCO_val2014_{row.image_id:012d}.jpg")
    return open_question(row, path, categories={category: row.need(category)})


def open_question(row: OpenQuestion, path: str, **further: Any) -> Sample:
    """Ask about a picture; the reference is the answer of most annotators, of equally frequent ones the first."""
    reference = Counter(row.answers).most_common(1)[0][0]
    picture = {"type": "image", "path": path}
    return Sample(
        row.question_id, ask(picture, row.question), reference, row.answers, cluster=path, where=row.where, **further
    )


def read_textvqa(row: TextVQARow | HubRow, source: Source) -> Sample:
    """Read a question of TextVQA, with a capital."""
    if isinstance(row, HubRow):
        path = source.medium(row.image, row.where)
    else:
        path = source.media(row.where, f"train_images/{row.image_id}.jpg")
    return open_question(row.model_copy(update={"question": row.question.capitalize()}), path)


class Types(Row):
    """Types of a question of GQA."""

    structural: Text
    semantic: Text


class GQARow(Row):
    """A row of `{"questionId": {...}}`, with one answer."""

    number: str
    imageId: Text
    question: Text
    answer: Text
    types: Types


def gqa_rows(source: Source) -> Iterator[GQARow]:
    """Read the rows of the file, which may lie in a folder of its release."""
    names = ("testdev_balanced_questions.json", "questions*/testdev_balanced_questions.json")
    return source.keyed(source.first(*names), GQARow, "number")


def read_gqa(row: GQARow, source: Source) -> Sample:
    """Read a question of GQA."""
    path = source.media(row.where, f"images/{row.imageId}.jpg")
    asked = ask({"type": "image", "path": path}, row.question)
    return Sample(row.number, asked, row.answer, cluster=path, where=row.where, categories=row.types.model_dump())


VQAV2 = Benchmark(
    name="vqav2",
    title="VQA v2.0, validation",
    measures="Open questions about photographs, answered in a word or a few. Broken down by type of answer.",
    rows=partial(vqa_rows, prefix="v2_"),
    read=partial(read_open, category="answer_type"),
    metric="vqa_accuracy",
    prompt=SHORT_ANSWER,
    tree="""
v2_OpenEnded_mscoco_val2014_questions.json
v2_mscoco_val2014_annotations.json
val2014/COCO_val2014_000000000042.jpg, ...
""",
    origin="https://visualqa.org/download.html and http://images.cocodataset.org/zips/val2014.zip",
    licence=f"annotations CC BY 4.0, {COCO_LICENCE}",
    read_on="from the description, 2026-11-28 (https://visualqa.org/download.html)",
    hub=Hub("lmms-lab/VQAv2", "validation", HubRow),
    note="214,354 questions, ten annotators each.",
)
OKVQA = Benchmark(
    name="okvqa",
    title="OK-VQA, validation",
    measures="Open questions about photographs that need knowledge of the world. Broken down by type of question.",
    rows=vqa_rows,
    read=partial(read_open, category="question_type"),
    metric="vqa_accuracy",
    prompt=SHORT_ANSWER,
    tree="""
OpenEnded_mscoco_val2014_questions.json
mscoco_val2014_annotations.json
val2014/COCO_val2014_000000000042.jpg, ...
""",
    origin="https://okvqa.allenai.org/download.html (v1.1) and http://images.cocodataset.org/zips/val2014.zip",
    licence=f"of the annotations not found where the layout is described, {COCO_LICENCE}",
    read_on="from the description, 2026-11-28 (VQA's layout, https://visualqa.org/download.html; columns of "
    "https://huggingface.co/datasets/lmms-lab/OK-VQA)",
    hub=Hub("lmms-lab/OK-VQA", "val2014", HubRow),
    note="5,046 questions. lmms-eval adds to the prompt that unanswerable questions be answered 'Unanswerable'; this "
    "one does not, so its scores differ. The key `answer` of an annotator is compared, not `raw_answer`.",
)
TEXTVQA = Benchmark(
    name="textvqa",
    title="TextVQA 0.5.1, validation",
    measures="Open questions about the text that is to be read in a photograph.",
    rows=lambda source: source.listed("TextVQA_0.5.1_val.json", "data", TextVQARow),
    read=read_textvqa,
    metric="vqa_accuracy",
    prompt=SHORT_ANSWER,
    tree="""
TextVQA_0.5.1_val.json
train_images/003a8ae2ef43b901.jpg, ...
""",
    origin="https://dl.fbaipublicfiles.com/textvqa/data/TextVQA_0.5.1_val.json and "
    "https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip (its folder is called train_images)",
    licence="annotations CC BY 4.0, pictures of Open Images under the licences of their authors",
    read_on="from the description, 2026-11-28 (https://huggingface.co/datasets/facebook/textvqa and "
    "https://github.com/haotian-liu/LLaVA/blob/main/docs/Evaluation.md)",
    hub=Hub("lmms-lab/textvqa", "validation", HubRow),
    note="5,000 questions. The first letter of a question is made a capital, all others small, as in lmms-eval. No "
    "OCR tokens are given to the model.",
)
GQA = Benchmark(
    name="gqa",
    title="GQA, balanced test-dev",
    measures="Questions about objects, properties and relations, made from scene graphs. Broken down by structure and "
    "meaning.",
    rows=gqa_rows,
    read=read_gqa,
    metric="exact_match",
    prompt=SHORT_ANSWER,
    tree="""
testdev_balanced_questions.json (or in questions1.2/)
images/n161313.jpg, ...
""",
    origin="https://cs.stanford.edu/people/dorarad/gqa/download.html",
    licence="of the annotations not found where the layout is described, pictures of Visual Genome",
    read_on="from the description, 2026-11-28 (https://cs.stanford.edu/people/dorarad/gqa/download.html)",
    note="12,578 questions. Compared after normalisation; the publisher's script compares texts as they are.",
)
BENCHMARKS = (VQAV2, OKVQA, TEXTVQA, GQA)


__all__ = ["BENCHMARKS", "COCO_LICENCE", "Annotators", "OpenQuestion", "open_question"]
