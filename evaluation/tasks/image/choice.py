"""Multiple choice about pictures: MMBench with CircularEval, and the image part of SEED-Bench."""

import base64
import binascii
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from ...errors import EvaluationError
from ..benchmark import LETTER, Benchmark, Hub
from ..choices import letter_of, options, options_in_columns
from ..fields import need_text, need_texts, need_whole, optional_text, unpack_medium
from ..sample import Sample, ask
from ..source import Row, Source

ROTATION = 1_000_000
"""Rows of MMBench whose indices are equal modulo this are rotations of the options of one question."""
LONGEST_REFERENCE = 64
"""A cell of no more characters is no picture but the index of the row that has it."""


def read_mmbench(source: Source, *names: str) -> Iterator[Sample]:
    """Rows of the first of these TSV files that is there.

    Raises:
        EvaluationError: If a row is not as expected; names row and cure.
    """
    rows = list(source.rows(source.first(*names)))
    pictures: dict[str, str] = {}
    for where, row in rows:
        if len(cell := need_text(row, where, "image")) > LONGEST_REFERENCE:
            pictures[str(need_whole(row, where, "index"))] = _unpack_picture(source, cell, where)
    for where, row in rows:
        index, cell = str(need_whole(row, where, "index")), need_text(row, where, "image")
        if index not in pictures and cell not in pictures:
            raise EvaluationError(f"{where}: 'image' names row {cell!r}, which has no picture")
        yield _mmbench(row, where, pictures.get(index) or pictures[cell])


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


def _unpack_picture(source: Source, cell: str, where: str) -> str:
    try:
        content = base64.b64decode(cell, validate=True)
    except binascii.Error as error:
        raise EvaluationError(f"{where}: 'image' is not base64: {error}") from error
    return unpack_medium(source, {"image": {"bytes": content}}, where, "image")


def _mmbench(row: Row, where: str, path: str) -> Sample:
    index = need_whole(row, where, "index")
    if not (answer := optional_text(row, "answer")):
        raise EvaluationError(
            f"{where}: no answer. The test split is scored by its publisher alone: use the dev split."
        )
    choices = options_in_columns(row, where)
    letter = letter_of(answer, choices, where)
    parts = (optional_text(row, "hint"), need_text(row, where, "question"), options(choices))
    return Sample(
        id=str(index),
        messages=ask({"type": "image", "path": path}, "\n".join(filter(None, parts))),
        reference=letter,
        answers=(letter,),
        cluster=path,
        where=where,
        choices=choices,
        group=str(index % ROTATION),
        categories={axis: need_text(row, where, axis) for axis in ("category", "l2-category")},
    )


def read_seedbench(source: Source) -> Iterator[Sample]:
    """Rows of the dimensions 1 to 9, whose `data_type` is image; those of videos are left out."""
    name = source.first("SEED-Bench.json")
    dimensions = _dimensions(source, name)
    for where, row in source.listed(name, "questions"):
        kind = need_text(row, where, "data_type")
        if kind not in ("image", "video"):
            raise EvaluationError(f"{where}: unknown data_type {kind!r}; there are image, video. Is it SEED-Bench 1?")
        if kind == "image":
            yield _seedbench(source, row, where, dimensions)


def _dimensions(source: Source, name: str) -> dict[int, str]:
    content = source.json(name)
    named = content.get("question_type") if isinstance(content, dict) else None
    if not isinstance(named, dict):
        raise EvaluationError(f"{source.root / name}: expected an object 'question_type' of the names of dimensions")
    return {number: dimension for dimension, number in named.items()}


def _seedbench(source: Source, row: Row, where: str, dimensions: dict[int, str]) -> Sample:
    number = need_whole(row, where, "question_type_id")
    if number not in dimensions:
        raise EvaluationError(f"{where}: 'question_type' does not name the dimension {number}")
    identity, question, answer, medium = need_texts(row, where, "question_id", "question", "answer", "data_id")
    choices = tuple(need_texts(row, where, "choice_a", "choice_b", "choice_c", "choice_d"))
    letter = letter_of(answer, choices, where)
    path = source.media(where, f"SEED-Bench-image/{medium}")
    return Sample(
        id=identity,
        messages=ask({"type": "image", "path": path}, f"{question}\n{options(choices)}"),
        reference=letter,
        answers=(letter,),
        cluster=path,
        where=where,
        choices=choices,
        categories={"dimension": dimensions[number]},
    )


def _mmbench_benchmark(name: str, version: str, *files: str, origin: str, read_on: str, hub: Hub | None) -> Benchmark:
    read: Callable[[Source], Iterator[Sample]] = lambda source: read_mmbench(source, *files)  # noqa: E731
    return Benchmark(
        name=name,
        title=f"MMBench {version}, English, dev",
        measures="Perception and reasoning as multiple choice; every rotation of the options must be answered right. "
        "Broken down by ability.",
        read=read,
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
    hub=Hub(
        "lmms-lab/MMBench_EN",
        "dev",
        lambda row, where, source: _mmbench(row, where, unpack_medium(source, row, where, "image")),
    ),
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
