"""AudioCaps: captions of ten-second sounds of YouTube clips (Kim et al. 2019)."""

from collections import defaultdict
from collections.abc import Iterator

from ...errors import EvaluationError
from ..benchmark import Benchmark
from ..row import Row, Text, Texts, unique
from ..sample import Sample, ask
from ..source import Source
from .clotho import REQUEST

CAPTIONS = 5
"""Of each clip of the test split, a row each."""
ENDINGS = ("wav", "flac", "mp3", "m4a", "ogg", "opus")


class Caption(Row):
    """A row of the publisher's file."""

    audiocap_id: Text
    youtube_id: Text
    start_time: Text
    caption: Text


class Clip(Row):
    """All captions of a clip."""

    clip: Text
    youtube_id: Text
    captions: Texts


def rows(source: Source) -> Iterator[Clip]:
    """Read clips with their five captions, which stand anywhere in the file."""
    clips: dict[tuple[str, str], list[Caption]] = defaultdict(list)
    for row in unique(source.rows("test.csv", Caption), "audiocap_id").values():
        clips[row.youtube_id, row.start_time].append(row)
    for (youtube, start), found in clips.items():
        where, clip = found[0].where, f"{youtube}_{start}"
        if len(found) != CAPTIONS:
            raise EvaluationError(
                f"{where}: expected {CAPTIONS} captions of clip {clip}, one a row, found {len(found)}. Complete the "
                "file, or remove the clip's rows."
            )
        captions = [row.caption for row in found]
        yield Clip.parse({"clip": clip, "youtube_id": youtube, "captions": captions}, where)


def read(row: Clip, source: Source) -> Sample:
    """Read a clip with its captions."""
    stems = (row.clip, row.youtube_id, f"Y{row.youtube_id}")
    path = source.media(row.where, *(f"audio/{stem}.{ending}" for stem in stems for ending in ENDINGS))
    answers = row.captions
    return Sample(row.clip, ask({"type": "audio", "path": path}), answers[0], answers, row.clip, row.where)


BENCHMARKS = (
    Benchmark(
        name="audiocaps",
        title="AudioCaps test",
        measures="Captions of ten-second sounds of YouTube clips.",
        rows=rows,
        read=read,
        metric="captions",
        tree="test.csv                            audiocap_id,youtube_id,start_time,caption\n"
        "audio/YOUTUBE_ID_START_TIME.wav     or YOUTUBE_ID.wav, or YYOUTUBE_ID.wav; flac, mp3, m4a, ogg, opus too",
        origin="https://github.com/cdjkim/audiocaps (dataset/test.csv or dataset2.0/test.csv); the sounds are ten "
        "seconds from start_time of each clip, to be fetched from YouTube",
        licence="captions: MIT, for academic purposes only; sounds: of their owners",
        read_on="from the beginning of the publisher's dataset2.0/test.csv, 2026-11-28 "
        "(https://github.com/cdjkim/audiocaps); names of sounds are this project's",
        prompt=REQUEST,
        max_new_tokens=64,
        note="975 clips, 4,875 captions. Clips vanish from YouTube: remove the rows of those that are gone; n says "
        "how many stay, and CIDEr-D of a part is not comparable with that of the whole. Say which version of the "
        "captions was read. The wording of the request is this project's.",
    ),
)
"""The test split."""

__all__ = ["BENCHMARKS"]
