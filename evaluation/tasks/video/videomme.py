"""Video-MME: multiple choice about videos of seconds to an hour (Fu et al. 2024), without subtitles."""

from collections.abc import Iterator

from ..benchmark import Benchmark, Hub
from ..choices import letter_of, without_labels
from ..fields import need_list, need_texts
from ..sample import Sample, ask
from ..source import Row, Source

REQUEST = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
"""The publisher's, without subtitles."""
ENDINGS = ("mp4", "MP4", "mkv")


def read(source: Source) -> Iterator[Sample]:
    """Rows of the table; options carry their letters."""
    for where, row in source.rows(source.first("videomme/test-*.parquet", "*.parquet")):
        yield _sample(row, where, source)


def _sample(row: Row, where: str, source: Source) -> Sample:
    identity, video, question, answer, duration, domain = need_texts(
        row, where, "question_id", "videoID", "question", "answer", "duration", "domain"
    )
    labelled = need_list(row, where, "options", at_least=2)
    choices = without_labels(labelled, where)
    letter = letter_of(answer, choices, where)
    path = source.media(where, *(f"data/{video}.{ending}" for ending in ENDINGS))
    return Sample(
        identity,
        ask({"type": "video", "path": path}, "\n".join((REQUEST, question, *labelled))),
        letter,
        (letter,),
        video,
        where,
        choices,
        categories={"duration": duration, "domain": domain},
    )


BENCHMARKS = (
    Benchmark(
        name="videomme",
        title="Video-MME without subtitles",
        measures="Multiple choice about videos of 11 s to an hour. Broken down by duration and domain.",
        read=read,
        metric="multiple_choice",
        tree="videomme/test-00000-of-00001.parquet\ndata/VIDEO_ID.mp4    or MP4, mkv",
        origin="https://huggingface.co/datasets/lmms-lab/Video-MME (https://github.com/BradyFU/Video-MME)",
        licence="academic research only, no redistribution (the publisher's README); videos: of their owners",
        read_on="from the description, 2026-11-28 (columns from the data card of "
        "https://huggingface.co/datasets/lmms-lab/Video-MME; prompt from https://github.com/BradyFU/Video-MME)",
        prompt="\nThe best answer is:",
        max_new_tokens=16,
        hub=Hub("lmms-lab/Video-MME", "test", _sample, "videomme"),
        note="2,700 questions about 900 videos. The publisher's prompt; lmms-eval names subtitles in it and ends with "
        "another sentence. Scores with subtitles are another benchmark. The Hub's rows have no videos: these are "
        "read from here. Sound is heard by models with video_sound: say beside the score whether it was.",
    ),
)
"""Without subtitles."""

__all__ = ["BENCHMARKS"]
