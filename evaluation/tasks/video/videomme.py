"""Video-MME: multiple choice about videos of seconds to an hour (Fu et al. 2024), without subtitles."""

from ..benchmark import Benchmark, Hub
from ..choices import letter_of, without_labels
from ..row import Options, Row, Text
from ..sample import Sample, ask
from ..source import Source

REQUEST = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
"""The publisher's, without subtitles."""
ENDINGS = ("mp4", "MP4", "mkv")


class Question(Row):
    """A row of the table, on the Hub too; options carry their letters."""

    question_id: Text
    videoID: Text
    question: Text
    options: Options
    answer: Text
    duration: Text
    domain: Text


def read(row: Question, source: Source) -> Sample:
    """Read a question about a video."""
    choices = without_labels(row.options, row.where)
    path = source.media(row.where, *(f"data/{row.videoID}.{ending}" for ending in ENDINGS))
    return Sample(
        row.question_id,
        ask({"type": "video", "path": path}, "\n".join((REQUEST, row.question, *row.options))),
        reference=letter_of(row.answer, choices, row.where),
        cluster=row.videoID,
        where=row.where,
        choices=choices,
        categories={"duration": row.duration, "domain": row.domain},
    )


BENCHMARKS = (
    Benchmark(
        name="videomme",
        title="Video-MME without subtitles",
        measures="Multiple choice about videos of 11 s to an hour. Broken down by duration and domain.",
        rows=lambda source: source.rows(source.first("videomme/test-*.parquet", "*.parquet"), Question),
        read=read,
        metric="multiple_choice",
        tree="videomme/test-00000-of-00001.parquet\ndata/VIDEO_ID.mp4    or MP4, mkv",
        origin="https://huggingface.co/datasets/lmms-lab/Video-MME (https://github.com/BradyFU/Video-MME)",
        licence="academic research only, no redistribution (the publisher's README); videos: of their owners",
        read_on="from the description, 2026-11-28 (columns from the data card of "
        "https://huggingface.co/datasets/lmms-lab/Video-MME; prompt from https://github.com/BradyFU/Video-MME)",
        prompt="\nThe best answer is:",
        max_new_tokens=16,
        hub=Hub("lmms-lab/Video-MME", "test", Question, "videomme"),
        note="2,700 questions about 900 videos. The publisher's prompt; lmms-eval names subtitles in it and ends with "
        "another sentence. Scores with subtitles are another benchmark. The Hub's rows have no videos: these are "
        "read from here. Sound is heard by models with video_sound: say beside the score whether it was.",
    ),
)
"""Without subtitles."""

__all__ = ["BENCHMARKS"]
