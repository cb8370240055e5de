"""Clotho: captions of everyday sounds (Drossos et al. 2020), and questions about them (Lipping et al. 2022)."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ...errors import EvaluationError
from ..benchmark import Benchmark, Hub
from ..media import Medium
from ..row import Row, Text
from ..sample import Sample, ask
from ..source import Source

ANNOTATORS = 3
"""Of each question of ClothoAQA, a row each."""
REQUEST = "Describe the sound in one sentence."
"""Of all captions of sounds."""


class Captions(Row):
    """A clip of the evaluation split with its five captions."""

    file_name: Text
    caption_1: Text
    caption_2: Text
    caption_3: Text
    caption_4: Text
    caption_5: Text


def read_captions(row: Captions, source: Source) -> Sample:
    """Read a clip with its captions."""
    sound = {"type": "audio", "path": source.media(row.where, f"evaluation/{row.file_name}")}
    captions = (row.caption_1, row.caption_2, row.caption_3, row.caption_4, row.caption_5)
    return Sample(row.file_name, ask(sound), captions[0], captions, row.file_name, row.where)


class Answer(Row):
    """A question of ClothoAQA with the answer of one annotator."""

    file_name: Text
    QuestionText: Text
    answer: Text


class FileRow(Row):
    """A question on whose answer all annotators agree."""

    question: Text
    answer: Text
    file_name: Text


class HubRow(Row):
    """A question of lmms-eval's unanimous split, whose clip has no name but its content."""

    question: Text
    answer: Text
    audio: Medium


def question_rows(source: Source) -> Iterator[FileRow]:
    """Read the questions on whose answer all three annotators agree."""
    questions: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for row in source.rows("clotho_aqa_test.csv", Answer):
        questions[row.file_name, row.QuestionText].append(row)
    for (file_name, question), found in questions.items():
        where = found[0].where
        if len(found) % ANNOTATORS:
            raise EvaluationError(
                f"{where}: expected {ANNOTATORS} answers to {question!r} about {file_name}, one a row, found "
                f"{len(found)}. Complete the file."
            )
        if len({row.answer.casefold() for row in found}) == 1:
            values = {"file_name": file_name, "question": question, "answer": found[0].answer}
            yield FileRow.parse(values, where)


def read_question(row: FileRow | HubRow, source: Source) -> Sample:
    """Read a question about a clip."""
    if isinstance(row, HubRow):
        path = source.medium(row.audio, row.where, ending=".wav")
        clip = Path(path).stem
    else:
        path, clip = source.media(row.where, f"audio_files/{row.file_name}"), row.file_name
    answer = row.answer.casefold()
    return Sample(
        f"{clip}: {row.question}",
        ask({"type": "audio", "path": path}, row.question),
        reference=answer,
        cluster=clip,
        where=row.where,
        categories={"answer": "yes or no" if answer in ("yes", "no") else "word"},
    )


def _captions(version: str, record: str, measures: str, note: str) -> Benchmark:
    return Benchmark(
        name=f"clotho_{version}",
        title=f"Clotho {version} captions, evaluation split",
        measures=measures,
        rows=lambda source: source.rows("clotho_captions_evaluation.csv", Captions),
        read=read_captions,
        metric="captions",
        tree="clotho_captions_evaluation.csv    file_name,caption_1,...,caption_5\n"
        "evaluation/FILE_NAME              of clotho_audio_evaluation.7z",
        origin=f"https://zenodo.org/records/{record}",
        licence="sounds: the licence of each at Freesound; captions: Tampere University's, see the record",
        read_on=f"from the description, 2026-11-28 (https://zenodo.org/records/{record}; column names from public "
        "readers of the file)",
        prompt=REQUEST,
        max_new_tokens=64,
        note=f"1,045 clips. {note} Greedy; Uni-MoE decodes with 5 beams. The wording of the request is this "
        "project's: publications differ in it.",
    )


BENCHMARKS = (
    Benchmark(
        name="clothoaqa",
        title="ClothoAQA test, unanimous questions",
        measures="Questions about everyday sounds, answered by yes, no or another word. Broken down by kind of "
        "answer.",
        rows=question_rows,
        read=read_question,
        metric="exact_match",
        tree="clotho_aqa_test.csv      file_name,QuestionText,answer,confidence\n"
        "audio_files/FILE_NAME    of audio_files.zip",
        origin="https://zenodo.org/records/6473207",
        licence="sounds: the licence of each at Freesound; questions: LICENSE.txt of the record",
        read_on="from the description, 2026-11-28 (https://arxiv.org/abs/2204.09634; file and column names from "
        "public readers of https://zenodo.org/records/6473207)",
        prompt="\nAnswer the question using a single word only.",
        max_new_tokens=8,
        hub=Hub("lmms-lab-audio/ClothoAQA", "clotho_aqa_test_filtered", HubRow, "clotho_aqa"),
        note="Questions on whose answer the three annotators differ are left out, as in lmms-eval; n says how many "
        "stay. The annotators' confidence is not used. Greedy; Uni-MoE decodes with 4 beams at temperature 0.9.",
    ),
    _captions(
        "v1",
        "3490684",
        "Captions of everyday sounds of 15 to 30 s.",
        "The captions are those of v2; some recordings were damaged and are repaired in v2.1.",
    ),
    _captions(
        "v2",
        "4783391",
        "The same with the recordings of version 2.",
        "The captions are those of v1: version 2 changed no evaluation clip, 2.1 repaired some.",
    ),
)
"""ClothoAQA, and the captions of both versions."""

__all__ = ["BENCHMARKS", "REQUEST"]
