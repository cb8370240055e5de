"""ActivityNet-QA: questions about long videos of people's doings (Yu et al. 2019)."""

from collections.abc import Iterator

from ...errors import EvaluationError
from ..benchmark import Benchmark, Hub
from ..fields import need_text, need_texts
from ..sample import Sample, ask
from ..source import Row, Source
from .judge import VIDEO_QA

TYPES = {
    "0": "motion",
    "1": "spatial relation",
    "2": "temporal relation",
    "3": "yes or no",
    "4": "colour",
    "5": "object",
    "6": "location",
    "7": "number",
    "8": "other",
}
"""The publisher's types of questions (0 to 2) and, for free ones, of answers."""
FOLDER = "all_test"
ENDINGS = ("mp4", "mkv", "webm")


def read(source: Source) -> Iterator[Sample]:
    """Questions of one file with their answers of the other."""
    answers: dict[str, tuple[str, Row]] = {}
    for where, row in source.rows("test_a.json"):
        identity, _, _ = need_texts(row, where, "question_id", "answer", "type")
        if identity in answers:
            raise EvaluationError(f"{where}: id {identity!r} appears twice, before at {answers[identity][0]}")
        answers[identity] = (where, row)
    asked = set()
    for where, row in source.rows("test_q.json"):
        identity = need_text(row, where, "question_id")
        if identity not in answers:
            raise EvaluationError(f"{where}: test_a.json has no answer to {identity!r}. Take both from one download.")
        asked.add(identity)
        yield _sample({**answers[identity][1], **row}, where, source)
    for identity, (where, _) in answers.items():
        if identity not in asked:
            raise EvaluationError(f"{where}: test_q.json has no question {identity!r}. Take both from one download.")


def _sample(row: Row, where: str, source: Source) -> Sample:
    """A row of both files together, which is what the Hub's copy has."""
    identity, video, question, answer, number = need_texts(
        row, where, "question_id", "video_name", "question", "answer", "type"
    )
    if number not in TYPES:
        raise EvaluationError(f"{where}: unknown type {number!r}; the types are {', '.join(TYPES)}")
    item = {
        "type": "video",
        "path": source.media(where, *(f"{FOLDER}/v_{video}.{ending}" for ending in ENDINGS)),
    }
    messages = ask(item, f"{question.capitalize()}?")
    return Sample(identity, messages, answer, (answer,), video, where, categories={"type": TYPES[number]})


BENCHMARKS = (
    Benchmark(
        name="activitynet_qa",
        title="ActivityNet-QA test",
        measures="Questions about long videos of what people do. Broken down by type of question or answer.",
        read=read,
        metric="exact_match",
        tree=f"test_q.json\ntest_a.json\n{FOLDER}/v_VIDEO_NAME.mp4    or mkv, webm",
        origin="https://github.com/MILVLG/activitynet-qa (questions), http://activity-net.org (videos)",
        licence="questions: MIT; videos: of their owners",
        read_on="from the beginnings of the publisher's files, 2026-11-28 "
        "(https://github.com/MILVLG/activitynet-qa/tree/master/dataset)",
        prompt=" Answer the question using a single word or phrase.",
        max_new_tokens=64,
        hub=Hub("lmms-lab/ActivityNetQA", "test", _sample),
        judge=VIDEO_QA,
        note="8,000 questions about 800 videos. Prompt and length as in lmms-eval. Exact match after normalisation; "
        "published numbers are mostly a judge's: compare those with the judge's alone. The Hub's copy has "
        "the questions only: the videos are read from here. Sound is heard by models with video_sound.",
    ),
)
"""The test split."""

__all__ = ["BENCHMARKS"]
