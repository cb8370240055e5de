"""MSVD-QA: short questions about short clips, answered in a word (Xu et al. 2017)."""

from collections.abc import Iterator

from ...errors import EvaluationError
from ..benchmark import SHORT_ANSWER, Benchmark
from ..row import Row, Text
from ..sample import Sample, ask
from ..source import Source
from .judge import VIDEO_QA

MAPPING = "youtube_mapping.txt"
KINDS = ("what", "who", "how", "when", "where")
"""First words by which the publisher tells questions apart."""


class Question(Row):
    """A question of the test split; the mapping says which file a clip's number is."""

    id: Text
    video_id: Text
    question: Text
    answer: Text
    file: str = ""

    @property
    def clip(self) -> str:
        """What the mapping calls the clip."""
        return f"vid{self.video_id}"


def rows(source: Source) -> Iterator[Question]:
    """Read the questions, each with the file of its clip."""
    files = _files(source)
    for row in source.rows("test_qa.json", Question):
        if row.clip not in files:
            raise EvaluationError(f"{row.where}: {MAPPING} has no {row.clip}. Take both files from one download.")
        yield row.model_copy(update={"file": files[row.clip]})


def _files(source: Source) -> dict[str, str]:
    """Read `vid1` -> name of the file without ending, from lines `NAME vid1`."""
    files: dict[str, str] = {}
    for number, line in enumerate(source.text(MAPPING).splitlines(), start=1):
        where, cells = f"{source.root / MAPPING}:{number}", line.split()
        if cells and len(cells) != 2:
            raise EvaluationError(f"{where}: expected the name of a file and the number of a clip, found {line!r}")
        if cells and cells[1] in files:
            raise EvaluationError(f"{where}: {cells[1]} appears twice")
        if cells:
            files[cells[1]] = cells[0]
    return files


def read(row: Question, source: Source) -> Sample:
    """Read a question about a clip."""
    clip = {"type": "video", "path": source.media(row.where, f"YouTubeClips/{row.file}.avi")}
    first = row.question.split()[0].lower()
    categories = {"question": first if first in KINDS else "other"}
    asked = ask(clip, row.question)
    return Sample(row.id, asked, row.answer, cluster=row.clip, where=row.where, categories=categories)


BENCHMARKS = (
    Benchmark(
        name="msvd_qa",
        title="MSVD-QA test",
        measures="Short questions about short clips, made from captions. Broken down by the question's first word.",
        rows=rows,
        read=read,
        metric="exact_match",
        tree=f"test_qa.json\n{MAPPING}     lines: FILE_NAME vidNUMBER\nYouTubeClips/FILE_NAME.avi",
        origin="https://github.com/xudejing/video-question-answering (questions); "
        "http://www.cs.utexas.edu/users/ml/clamp/videoDescription/ (YouTubeClips.tar)",
        licence="not stated in the publisher's README; clips: of their owners",
        read_on="from the description, 2026-11-28 (README and reader of "
        "https://github.com/xudejing/video-question-answering)",
        prompt=SHORT_ANSWER,
        max_new_tokens=64,
        judge=VIDEO_QA,
        note="13,157 questions about 504 clips. Exact match after normalisation; published numbers are mostly a "
        "judge's: compare those with the judge's alone. Length as in lmms-eval's ActivityNet-QA.",
    ),
)
"""The test split."""

__all__ = ["BENCHMARKS"]
