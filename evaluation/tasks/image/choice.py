"""Multiple choice about pictures: MMBench with CircularEval, and the image part of SEED-Bench."""

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

from pydantic import Field

from ...errors import EvaluationError
from ..benchmark import LETTER, Benchmark, Hub
from ..choices import Lettered, letter_of, options
from ..media import Medium, Packed
from ..row import Cell, Row, Text, Whole
from ..sample import Sample, ask
from ..source import Source

ROTATION = 1_000_000
"""Rows of MMBench whose indices are equal modulo this are rotations of the options of one question."""
LONGEST_REFERENCE = 64
"""A cell of no more characters is no picture but the index of the row that has it."""


class MMBenchQuestion(Lettered):
    """What MMBench's rows and their copy on the Hub have."""

    index: Whole
    hint: Cell = ""
    question: Text
    answer: Cell = ""
    category: Text
    ability: Text = Field(alias="l2-category")


class MMBenchFileRow(MMBenchQuestion):
    """A row of MMBench's TSV file: the picture in base64, or the index of the row that has it."""

    image: Text
    path: str = ""


class MMBenchHubRow(MMBenchQuestion):
    """A row of lmms-eval's copy."""

    image: Medium


def mmbench_rows(source: Source, *, names: tuple[str, ...]) -> Iterator[MMBenchFileRow]:
    """Read the rows of the first of these files that is there.

    Raises:
        EvaluationError: If a row is not as expected; names row and cure.
    """
    rows = list(source.rows(source.first(*names), MMBenchFileRow))
    pictures = {str(row.index): _unpack(row, source) for row in rows if len(row.image) > LONGEST_REFERENCE}
    for row in rows:
        path = pictures.get(str(row.index)) or pictures.get(row.image)
        if path is None:
            raise EvaluationError(f"{row.where}: 'image' names row {row.image!r}, which has no picture")
        yield row.model_copy(update={"path": path})


def _unpack(row: MMBenchFileRow, source: Source) -> str:
    try:
        content = base64.b64decode(row.image, validate=True)
    except binascii.Error as error:
        raise EvaluationError(f"{row.where}: 'image' is not base64: {error}") from error
    return source.medium(Packed(content), row.where)


def read_mmbench(row: MMBenchFileRow | MMBenchHubRow, source: Source) -> Sample:
    """Read a question of MMBench."""
    if not row.answer:
        raise EvaluationError(
            f"{row.where}: no answer. The test split is scored by its publisher alone: use the dev split."
        )
    choices = row.in_columns()
    path = source.medium(row.image, row.where) if isinstance(row, MMBenchHubRow) else row.path
    asked = "\n".join(filter(None, (row.hint, row.question, options(choices))))
    return Sample(
        str(row.index),
        ask({"type": "image", "path": path}, asked),
        reference=letter_of(row.answer, choices, row.where),
        cluster=path,
        where=row.where,
        choices=choices,
        group=str(row.index % ROTATION),
        categories={"category": row.category, "l2-category": row.ability},
    )


def check_rotations(samples: Sequence[Sample]) -> None:
    """See to it that each question has all rotations of its options.

    Raises:
        EvaluationError: If one lacks some; names it.
    """
    rotations: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        rotations[sample.group].append(sample)
    for group, found in rotations.items():
        expected = len(found[0].choices)
        if len(found) != expected:
            raise EvaluationError(
                f"{found[0].where}: question {group} has {len(found)} of {expected} rotations of its options. "
                f"CircularEval needs a row for each, with the indices {group}, {int(group) + ROTATION}, ...; get a "
                "file that holds them."
            )


class SeedKind(Row):
    """What a row of SEED-Bench is about: other columns of those about videos are not read."""

    data_type: Text


class SeedQuestion(Row):
    """A row of SEED-Bench about a picture."""

    question_id: Text
    question: Text
    choice_a: Text
    choice_b: Text
    choice_c: Text
    choice_d: Text
    answer: Text
    data_id: Text
    question_type_id: Whole
    dimension: str = ""


def seedbench_rows(source: Source) -> Iterator[SeedQuestion]:
    """Read the rows of the dimensions 1 to 9, whose `data_type` is image; those of videos are left out."""
    name = source.first("SEED-Bench.json")
    dimensions = _dimensions(source, name)
    for kind in source.listed(name, "questions", SeedKind):
        if kind.data_type not in ("image", "video"):
            raise EvaluationError(
                f"{kind.where}: unknown data_type {kind.data_type!r}; there are image, video. Is it SEED-Bench 1?"
            )
        if kind.data_type == "video":
            continue
        row = kind.read_as(SeedQuestion)
        if row.question_type_id not in dimensions:
            raise EvaluationError(f"{row.where}: 'question_type' does not name the dimension {row.question_type_id}")
        yield row.model_copy(update={"dimension": dimensions[row.question_type_id]})


def _dimensions(source: Source, name: str) -> dict[int, str]:
    content = source.json(name)
    named = content.get("question_type") if isinstance(content, dict) else None
    if not isinstance(named, dict):
        raise EvaluationError(f"{source.root / name}: expected an object 'question_type' of the names of dimensions")
    return {number: dimension for dimension, number in named.items()}


def read_seedbench(row: SeedQuestion, source: Source) -> Sample:
    """Read a question of SEED-Bench."""
    choices = (row.choice_a, row.choice_b, row.choice_c, row.choice_d)
    path = source.media(row.where, f"SEED-Bench-image/{row.data_id}")
    return Sample(
        row.question_id,
        ask({"type": "image", "path": path}, f"{row.question}\n{options(choices)}"),
        reference=letter_of(row.answer, choices, row.where),
        cluster=path,
        where=row.where,
        choices=choices,
        categories={"dimension": row.dimension},
    )


def _mmbench_benchmark(name: str, version: str, *files: str, origin: str, read_on: str, hub: Hub | None) -> Benchmark:
    return Benchmark(
        name=name,
        title=f"MMBench {version}, English, dev",
        measures="Perception and reasoning as multiple choice; every rotation of the options must be answered right. "
        "Broken down by ability.",
        rows=partial(mmbench_rows, names=files),
        read=read_mmbench,
        check=check_rotations,
        metric="circular",
        prompt=LETTER,
        tree="\nor ".join(files),
        origin=origin,
        licence="not found where the layout is described",
        read_on=read_on,
        hub=hub,
        note="A hint is a line before the question, as in LLaVA. A question counts if all rotations of its options "
        "are answered right; the plain accuracy of rows stands beside it. Letters are read by rules; the publisher "
        "asks ChatGPT where rules fail.",
    )


MMBENCH = _mmbench_benchmark(
    "mmbench",
    "1.0",
    "mmbench_dev_en_20231003.tsv",
    "mmbench_dev_20230712.tsv",
    "MMBench_DEV_EN.tsv",
    origin="https://download.openmmlab.com/mmclassification/datasets/mmbench/mmbench_dev_en_20231003.tsv",
    read_on="from the description, 2026-11-28 (https://github.com/open-compass/MMBench/blob/main/README.md; columns "
    "and 4,377 rows of https://huggingface.co/datasets/lmms-lab/MMBench_EN)",
    hub=Hub("lmms-lab/MMBench_EN", "dev", MMBenchHubRow),
)
MMBENCH_V11 = _mmbench_benchmark(
    "mmbench_v11",
    "1.1",
    "MMBench_DEV_EN_V11.tsv",
    origin="https://opencompass.openxlab.space/utils/benchmarks/MMBench/MMBench_DEV_EN_V11.tsv",
    read_on="from the description, 2026-11-28 (https://github.com/open-compass/VLMEvalKit, vlmeval/dataset)",
    hub=None,
)
SEEDBENCH = Benchmark(
    name="seedbench",
    title="SEED-Bench 1, image part",
    measures="Understanding of scenes, instances, relations and text, as multiple choice. Broken down by dimension.",
    rows=seedbench_rows,
    read=read_seedbench,
    metric="multiple_choice",
    prompt=LETTER,
    tree="""
SEED-Bench.json
SEED-Bench-image/1454426_2591111986, ... (no ending)
""",
    origin="https://huggingface.co/datasets/AILab-CVC/SEED-Bench (SEED-Bench.json, SEED-Bench-image.zip)",
    licence="CC BY-NC 4.0; pictures of CC3M",
    read_on="from the description, 2026-11-28 (https://github.com/AILab-CVC/SEED-Bench/blob/main/DATASET.md)",
    note="The dimensions 1 to 9. The dimensions 10 to 12, about videos, are left out: compare with `seed_image` of "
    "lmms-eval.",
)
BENCHMARKS = (MMBENCH, MMBENCH_V11, SEEDBENCH)


__all__ = ["BENCHMARKS", "ROTATION"]
