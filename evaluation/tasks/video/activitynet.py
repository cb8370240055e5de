"""ActivityNet-QA: questions about long videos of people's doings (Yu et al. 2019)."""

from collections.abc import Iterator

from ...errors import EvaluationError
from ..benchmark import Benchmark, Hub
from ..row import Row, Text, join
from ..sample import Sample, ask
from ..source import Source
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


class Question(Row):
    """A row of the file of questions."""

    question_id: Text
    video_name: Text
    question: Text


class Answer(Row):
    """A row of the file of answers."""

    question_id: Text
    answer: Text
    type: Text


class Answered(Question, Answer):
    """A row of both files together, which is what the Hub's copy has."""


def rows(source: Source) -> Iterator[Answered]:
    """Read the questions of one file with their answers of the other."""
    questions, answers = source.rows("test_q.json", Question), source.rows("test_a.json", Answer)
    return join(questions, answers, Answered, key="question_id", files=("test_q.json", "test_a.json"))


def read(row: Answered, source: Source) -> Sample:
    """Read a question about a video."""
    if row.type not in TYPES:
        raise EvaluationError(f"{row.where}: unknown type {row.type!r}; the types are {', '.join(TYPES)}")
    path = source.media(row.where, *(f"{FOLDER}/v_{row.video_name}.{ending}" for ending in ENDINGS))
    return Sample(
        row.question_id,
        ask({"type": "video", "path": path}, f"{row.question.capitalize()}?"),
        row.answer,
        cluster=row.video_name,
        where=row.where,
        categories={"type": TYPES[row.type]},
    )


BENCHMARKS = (
    Benchmark(
        name="activitynet_qa",
        title="ActivityNet-QA test",
        measures="Questions about long videos of what people do. Broken down by type of question or answer.",
        rows=rows,
        read=read,
        metric="exact_match",
        tree=f"test_q.json\ntest_a.json\n{FOLDER}/v_VIDEO_NAME.mp4    or mkv, webm",
        origin="https://github.com/MILVLG/activitynet-qa (questions), http://activity-net.org (videos)",
        licence="questions: MIT; videos: of their owners",
        read_on="from the beginnings of the publisher's files, 2026-11-28 "
        "(https://github.com/MILVLG/activitynet-qa/tree/master/dataset)",
        prompt=" Answer the question using a single word or phrase.",
        max_new_tokens=64,
        hub=Hub("lmms-lab/ActivityNetQA", "test", Answered),
        judge=VIDEO_QA,
        note="8,000 questions about 800 videos. Prompt and length as in lmms-eval. Exact match after normalisation; "
        "published numbers are mostly a judge's: compare those with the judge's alone. The Hub's copy has "
        "the questions only: the videos are read from here. Sound is heard by models with video_sound.",
    ),
)
"""The test split."""

__all__ = ["BENCHMARKS"]
