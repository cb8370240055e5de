"""MSVD-QA: short questions about short clips, answered in a word (Xu et al. 2017)."""

from collections.abc import Iterator

from ...errors import EvaluationError
from ..benchmark import SHORT_ANSWER, Benchmark
from ..fields import need_texts
from ..sample import Sample, ask
from ..source import Source
from .judge import VIDEO_QA

MAPPING = "youtube_mapping.txt"
KINDS = ("what", "who", "how", "when", "where")
"""First words by which the publisher tells questions apart."""


def read(source: Source) -> Iterator[Sample]:
    """Questions of the test split; the mapping says which file a clip's number is."""
    files = _files(source)
    for where, row in source.rows("test_qa.json"):
        identity, number, question, answer = need_texts(row, where, "id", "video_id", "question", "answer")
        clip = f"vid{number}"
        if clip not in files:
            raise EvaluationError(f"{where}: {MAPPING} has no {clip}. Take both files from one download.")
        item = {"type": "video", "path": source.media(where, f"YouTubeClips/{files[clip]}.avi")}
        first = question.split()[0].lower()
        categories = {"question": first if first in KINDS else "other"}
        yield Sample(identity, ask(item, question), answer, (answer,), clip, where, categories=categories)


def _files(source: Source) -> dict[str, str]:
    """`vid1` -> name of the file without ending, from lines `NAME vid1`."""
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


BENCHMARKS = (
    Benchmark(
        name="msvd_qa",
        title="MSVD-QA test",
        measures="Short questions about short clips, made from captions. Broken down by the question's first word.",
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
