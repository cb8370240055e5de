"""Clotho: captions of everyday sounds (Drossos et al. 2020), and questions about them (Lipping et al. 2022)."""

from collections.abc import Iterator
from pathlib import Path

from ...errors import EvaluationError
from ..benchmark import Benchmark, Hub
from ..fields import need_texts, unpack_medium
from ..sample import Sample, ask
from ..source import Row, Source

ANNOTATORS = 3
"""Of each question of ClothoAQA, a row each."""
CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))
REQUEST = "Describe the sound in one sentence."
"""Of all captions of sounds."""


def read_captions(source: Source) -> Iterator[Sample]:
    """Clips of the evaluation split with their five captions."""
    for where, row in source.rows("clotho_captions_evaluation.csv"):
        file_name, *captions = need_texts(row, where, "file_name", *CAPTIONS)
        item = {"type": "audio", "path": source.media(where, f"evaluation/{file_name}")}
        yield Sample(file_name, ask(item), captions[0], tuple(captions), file_name, where)


def read_questions(source: Source) -> Iterator[Sample]:
    """Questions on whose answer all three annotators agree."""
    for (file_name, question), answers in _answers(source, "clotho_aqa_test.csv").items():
        where = answers[0][0]
        if len(answers) % ANNOTATORS:
            raise EvaluationError(
                f"{where}: expected {ANNOTATORS} answers to {question!r} about {file_name}, one a row, found "
                f"{len(answers)}. Complete the file."
            )
        given = {answer.casefold() for _, answer in answers}
        if len(given) == 1:
            path = source.media(where, f"audio_files/{file_name}")
            yield _question(f"{file_name}: {question}", question, given.pop(), path, file_name, where)


def _answers(source: Source, name: str) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """(clip, question) -> (place, answer) of each annotator."""
    answers: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for where, row in source.rows(name):
        file_name, question, answer = need_texts(row, where, "file_name", "QuestionText", "answer")
        answers.setdefault((file_name, question), []).append((where, answer))
    return answers


def question_from_hub(row: Row, where: str, source: Source) -> Sample:
    """A question of lmms-eval's unanimous split, whose clip has no name but its content."""
    question, answer = need_texts(row, where, "question", "answer")
    path = unpack_medium(source, row, where, "audio", ending=".wav")
    clip = Path(path).stem
    return _question(f"{clip}: {question}", question, answer.casefold(), path, clip, where)


def _question(identity: str, question: str, answer: str, path: str, clip: str, where: str) -> Sample:
    kind = "yes or no" if answer in ("yes", "no") else "word"
    messages = ask({"type": "audio", "path": path}, question)
    return Sample(identity, messages, answer, (answer,), clip, where, categories={"answer": kind})


def _captions(version: str, record: str, measures: str, note: str) -> Benchmark:
    return Benchmark(
        name=f"clotho_{version}",
        title=f"Clotho {version} captions, evaluation split",
        measures=measures,
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
        read=read_questions,
        metric="exact_match",
        tree="clotho_aqa_test.csv      file_name,QuestionText,answer,confidence\n"
        "audio_files/FILE_NAME    of audio_files.zip",
        origin="https://zenodo.org/records/6473207",
        licence="sounds: the licence of each at Freesound; questions: LICENSE.txt of the record",
        read_on="from the description, 2026-11-28 (https://arxiv.org/abs/2204.09634; file and column names from "
        "public readers of https://zenodo.org/records/6473207)",
        prompt="\nAnswer the question using a single word only.",
        max_new_tokens=8,
        hub=Hub("lmms-lab-audio/ClothoAQA", "clotho_aqa_test_filtered", question_from_hub, "clotho_aqa"),
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
