"""Questions about pictures that are answered in a few words: VQAv2, OK-VQA, TextVQA, GQA."""

from collections import Counter
from collections.abc import Callable, Iterator

from ...errors import EvaluationError
from ..benchmark import SHORT_ANSWER, Benchmark, Hub
from ..fields import need_text, need_texts, need_whole, unpack_medium
from ..sample import Sample, ask
from ..source import Row, Source, as_row, need

COCO_LICENCE = "pictures of COCO under the terms of Flickr and of their authors"


def read_vqa(source: Source, *, questions: str, annotations: str, category: str) -> Iterator[Sample]:
    """Rows of VQA's layout: a file of questions and a file of annotations, told together by `question_id`.

    Args:
        source: Files of the benchmark.
        questions: Name of the file of questions.
        annotations: Name of the file of annotations.
        category: Key of an annotation that becomes a category.

    Raises:
        EvaluationError: If one of the two has a question that the other lacks; names file, row and cure.
    """
    annotated = _annotations(source, annotations)
    asked = set()
    for where, row in source.listed(questions, "questions"):
        (number,) = need(row, where, "question_id")
        if number not in annotated:
            raise EvaluationError(
                f"{where}: question {number} has no annotation in {source.root / annotations}. "
                "Both files must be of one split and release."
            )
        place, annotation = annotated[number]
        path = source.media(where, f"val2014/COCO_val2014_{need_whole(row, where, 'image_id'):012d}.jpg")
        answered = {**row, **{key: annotation[key] for key in ("answers", category) if key in annotation}}
        asked.add(number)
        yield open_question(answered, f"{where} with {place}", path, category=category)
    for number, (place, _) in annotated.items():
        if number not in asked:
            raise EvaluationError(
                f"{place}: annotates question {number}, which {source.root / questions} does not have. "
                "Both files must be of one split and release."
            )


def _annotations(source: Source, name: str) -> dict[object, tuple[str, Row]]:
    """Annotations by question, with the place of each."""
    found: dict[object, tuple[str, Row]] = {}
    for where, row in source.listed(name, "annotations"):
        (number,) = need(row, where, "question_id")
        if number in found:
            raise EvaluationError(f"{where}: annotates question {number} again, before at {found[number][0]}")
        found[number] = (where, row)
    return found


def open_question(row: Row, where: str, path: str, *, answers: str = "answers", category: str | None = None) -> Sample:
    """A question with the answers of annotators; the reference is that of most, of equally frequent ones the first.

    Args:
        row: With question_id, question and answers.
        where: Its place.
        path: Of the picture that it is about.
        answers: Key of the answers.
        category: Key of the row that becomes a category.

    Raises:
        EvaluationError: If the row is not as expected; names it.
    """
    identity, question = need_texts(row, where, "question_id", "question")
    given = _annotators(row, where, answers)
    return Sample(
        id=identity,
        messages=ask({"type": "image", "path": path}, question),
        reference=Counter(given).most_common(1)[0][0],
        answers=given,
        cluster=path,
        where=where,
        categories={category: need_text(row, where, category)} if category else {},
    )


def _annotators(row: Row, where: str, key: str) -> tuple[str, ...]:
    """Answers of annotators as they were given, each a text, which may be empty, or `{"answer": text}`."""
    (listed,) = need(row, where, key)
    given = listed if isinstance(listed, list) else []
    answers = [item.get("answer") if isinstance(item, dict) else item for item in given]
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise EvaluationError(
            f"{where}: {key!r} must list the annotators' answers, found {listed!r}. "
            "Compare the row with the publisher's file."
        )
    return tuple(map(str, answers))


def _of_hub(category: str | None) -> Callable[[Row, str, Source], Sample]:
    """A reader of rows of the Hub that carry question, answers and picture together."""
    return lambda row, where, source: open_question(
        row, where, unpack_medium(source, row, where, "image"), category=category
    )


def read_textvqa(source: Source) -> Iterator[Sample]:
    """Rows of `{"data": [...]}`, pictures named by `image_id`."""
    for where, row in source.listed("TextVQA_0.5.1_val.json", "data"):
        path = source.media(where, f"train_images/{need_text(row, where, 'image_id')}.jpg")
        yield _capitalised(row, where, path)


def _capitalised(row: Row, where: str, path: str) -> Sample:
    return open_question({**row, "question": need_text(row, where, "question").capitalize()}, where, path)


def read_gqa(source: Source) -> Iterator[Sample]:
    """Rows of `{"questionId": {...}}`, one answer each."""
    name = source.first("testdev_balanced_questions.json", "questions*/testdev_balanced_questions.json")
    for where, number, row in source.keyed(name):
        image, question, answer = need_texts(row, where, "imageId", "question", "answer")
        path = source.media(where, f"images/{image}.jpg")
        types = as_row(need(row, where, "types")[0], f"{where}: 'types'")
        yield Sample(
            id=number,
            messages=ask({"type": "image", "path": path}, question),
            reference=answer,
            answers=(answer,),
            cluster=path,
            where=where,
            categories={axis: need_text(types, where, axis) for axis in ("structural", "semantic")},
        )


VQAV2 = Benchmark(
    name="vqav2",
    title="VQA v2.0, validation",
    measures="Open questions about photographs, answered in a word or a few. Broken down by type of answer.",
    read=lambda source: read_vqa(
        source,
        questions="v2_OpenEnded_mscoco_val2014_questions.json",
        annotations="v2_mscoco_val2014_annotations.json",
        category="answer_type",
    ),
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
    hub=Hub("lmms-lab/VQAv2", "validation", _of_hub("answer_type")),
    note="214,354 questions, ten annotators each.",
)
OKVQA = Benchmark(
    name="okvqa",
    title="OK-VQA, validation",
    measures="Open questions about photographs that need knowledge of the world. Broken down by type of question.",
    read=lambda source: read_vqa(
        source,
        questions="OpenEnded_mscoco_val2014_questions.json",
        annotations="mscoco_val2014_annotations.json",
        category="question_type",
    ),
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
    hub=Hub("lmms-lab/OK-VQA", "val2014", _of_hub("question_type")),
    note="5,046 questions. lmms-eval adds to the prompt that unanswerable questions be answered 'Unanswerable'; this "
    "one does not, so its scores differ. The key `answer` of an annotator is compared, not `raw_answer`.",
)
TEXTVQA = Benchmark(
    name="textvqa",
    title="TextVQA 0.5.1, validation",
    measures="Open questions about the text that is to be read in a photograph.",
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
    hub=Hub(
        "lmms-lab/textvqa",
        "validation",
        lambda row, where, source: _capitalised(row, where, unpack_medium(source, row, where, "image")),
    ),
    note="5,000 questions. The first letter of a question is made a capital, all others small, as in lmms-eval. No "
    "OCR tokens are given to the model.",
)
GQA = Benchmark(
    name="gqa",
    title="GQA, balanced test-dev",
    measures="Questions about objects, properties and relations, made from scene graphs. Broken down by structure and "
    "meaning.",
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


__all__ = ["BENCHMARKS", "COCO_LICENCE", "open_question", "read_vqa"]
