"""Questions about pictures that are answered by yes or no: POPE and MME."""

from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ...errors import EvaluationError
from ..benchmark import SHORT_ANSWER, Average, Benchmark, Hub
from ..media import Medium
from ..row import COMPARE, Row, Text, misfit
from ..sample import Sample, ask
from ..source import Source
from .vqa import COCO_LICENCE

POPE_CATEGORIES = ("random", "popular", "adversarial")
"""How the objects that are not in the picture were drawn."""
PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def _yes_or_no(value: Any) -> str:
    answer = str(value).strip().lower()
    if answer not in ("yes", "no"):
        raise misfit(f"must be yes or no, found {value!r}. {COMPARE}")
    return answer


YesOrNo = Annotated[str, BeforeValidator(_yes_or_no)]
"""An answer, in small letters."""


class PopeFileRow(Row):
    """A row of one of POPE's three files."""

    category: str
    question_id: Text
    question: Text = Field(alias="text")
    answer: YesOrNo = Field(alias="label")
    image: Text


class PopeHubRow(Row):
    """A row of lmms-eval's copy."""

    category: Text
    question_id: Text
    question: Text
    answer: YesOrNo
    image: Medium


def pope_rows(source: Source) -> Iterator[PopeFileRow]:
    """Read the rows of the three files, a JSON object a line although they are called .json."""
    for category in POPE_CATEGORIES:
        yield from source.lines(f"coco_pope_{category}.json", PopeFileRow, category=category)


def read_pope(row: PopeFileRow | PopeHubRow, source: Source) -> Sample:
    """Read a question of POPE."""
    if row.category not in POPE_CATEGORIES:
        raise EvaluationError(
            f"{row.where}: unknown category {row.category!r}; there are {', '.join(POPE_CATEGORIES)}"
        )
    if isinstance(row, PopeHubRow):
        path = source.medium(row.image, row.where)
    else:
        path = source.media(row.where, f"val2014/{row.image}")
    return Sample(
        f"{row.category}/{row.question_id}",
        ask({"type": "image", "path": path}, row.question),
        row.answer,
        cluster=path,
        where=row.where,
        categories={"category": row.category},
    )


class MmeRow(Row):
    """A line of a text of MME: one of the two questions about a picture."""

    subtask: str
    group: str
    number: int
    picture: str
    question: Text
    answer: YesOrNo


def mme_rows(source: Source, *, subtasks: tuple[str, ...]) -> Iterator[MmeRow]:
    """Read two questions about each picture of the folders of these subtasks."""
    for subtask in subtasks:
        folder = _mme_folder(source, subtask)
        texts = source.first(f"{folder}/*.txt", f"{folder}/questions_answers_YN/*.txt")
        questions = PurePosixPath(texts).parent
        pictures = questions.parent / "images" if questions.name == "questions_answers_YN" else questions
        yield from _mme_subtask(source, subtask, questions, pictures)


def _mme_folder(source: Source, subtask: str) -> str:
    release = "MME_Benchmark_release_version"
    return source.first(
        subtask, f"MME_Benchmark/{subtask}", f"{release}/{subtask}", f"{release}/MME_Benchmark/{subtask}"
    )


def _mme_subtask(source: Source, subtask: str, questions: PurePosixPath, pictures: PurePosixPath) -> Iterator[MmeRow]:
    images = {path.stem: path for path in map(PurePosixPath, source.all(f"{pictures}/*")) if path.suffix != ".txt"}
    names = source.all(f"{questions}/*.txt")
    if silent := images.keys() - {PurePosixPath(name).stem for name in names}:
        alone = images[min(silent)]
        raise EvaluationError(
            f"{source.root / alone}: nothing is asked about it: {questions / alone.stem}.txt is missing.\n"
            f"{source.help}"
        )
    for name in names:
        stem = PurePosixPath(name).stem
        path = source.media(str(source.root / name), str(images.get(stem, pictures / f"{stem}.jpg")))
        yield from _mme_pair(source, name, subtask=subtask, group=f"{subtask}/{stem}", picture=path)


def _mme_pair(source: Source, name: str, **known: str) -> Iterator[MmeRow]:
    path = source.root / name
    lines = [line for line in source.text(name).splitlines() if line.strip()]
    if len(lines) != 2:
        raise EvaluationError(f"{path}: expected two questions, a line each, found {len(lines)} line(s)")
    for number, line in enumerate(lines, start=1):
        question, tab, answer = line.partition("\t")
        if not tab or not question.strip():
            raise EvaluationError(f"{path}:{number}: expected a question, a tab and Yes or No, found {line!r}")
        yield MmeRow.parse({**known, "number": number, "question": question, "answer": answer}, f"{path}:{number}")


def read_mme(row: MmeRow, _: Source) -> Sample:
    """Read a question of MME; both about a picture are a group."""
    ability = "perception" if row.subtask in PERCEPTION else "cognition"
    return Sample(
        f"{row.group}/{row.number}",
        ask({"type": "image", "path": row.picture}, row.question),
        row.answer,
        cluster=row.group,
        where=row.where,
        group=row.group,
        categories={"subtask": row.subtask, "ability": ability},
    )


POPE = Benchmark(
    name="pope",
    title="POPE on COCO",
    measures="Whether a model sees objects that are not in the picture. Broken down by how these were drawn.",
    rows=pope_rows,
    read=read_pope,
    metric="yes_no",
    average=Average(over="mean", axis="category"),
    prompt=SHORT_ANSWER,
    tree="""
coco_pope_random.json
coco_pope_popular.json
coco_pope_adversarial.json
val2014/COCO_val2014_000000000042.jpg, ...
""",
    origin="https://github.com/AoiDragon/POPE/tree/main/output/coco and "
    "http://images.cocodataset.org/zips/val2014.zip",
    licence=f"annotations MIT, {COCO_LICENCE}",
    read_on="from the first rows of the publisher's file, 2026-11-28 "
    "(https://github.com/AoiDragon/POPE/blob/main/output/coco/coco_pope_random.json)",
    hub=Hub("lmms-lab/POPE", "test", PopeHubRow),
    note="Papers report the mean of `f1` over the three categories. The random file had 2,910 rows in an earlier "
    "release and 3,000 later. An answer that is neither yes nor no is wrong; the publisher's script takes it for yes.",
)
MME_TREE = """
existence/000000006040.jpg, existence/000000006040.txt, ...
artwork/images/10002.jpg, ... and artwork/questions_answers_YN/10002.txt, ...
(each subtask in one of the two forms; the folders may lie in MME_Benchmark_release_version/ or MME_Benchmark/)
"""


def _mme(name: str, subtasks: tuple[str, ...], title: str, measures: str, note: str) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        measures=measures,
        rows=partial(mme_rows, subtasks=subtasks),
        read=read_mme,
        metric="mme",
        average=Average(over="sum", axis="subtask"),
        prompt=SHORT_ANSWER,
        tree=MME_TREE,
        origin="https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation",
        licence="not found where the layout is described",
        read_on="from the description, 2026-11-28 (https://github.com/haotian-liu/LLaVA/blob/main/docs/Evaluation.md; "
        "both forms of folders as public readers of the release describe them)",
        note=note,
        shares="" if name == "mme" else "mme",
    )


MME = _mme(
    "mme",
    PERCEPTION + COGNITION,
    "MME, all 14 subtasks",
    "Two questions about each picture, one that is answered by yes and one by no. Broken down by subtask and ability.",
    "The value is the sum of all subtasks, at most 2,800. Papers report perception and cognition apart: run "
    "`mme_perception` and `mme_cognition` for these. Each question already ends with 'Please answer yes or no.'",
)
MME_PERCEPTION = _mme(
    "mme_perception",
    PERCEPTION,
    "MME, perception",
    "MME's questions about what is to be seen or recognised: objects, counts, colours, people, places, text.",
    "The sum of the ten subtasks of perception, at most 2,000.",
)
MME_COGNITION = _mme(
    "mme_cognition",
    COGNITION,
    "MME, cognition",
    "MME's questions about what follows from a picture: common sense, sums, translation, code.",
    "The sum of the four subtasks of cognition, at most 800.",
)
BENCHMARKS = (POPE, MME, MME_PERCEPTION, MME_COGNITION)


__all__ = ["BENCHMARKS", "COGNITION", "PERCEPTION", "POPE_CATEGORIES"]
