"""AudioCaps: captions of ten-second sounds of YouTube clips (Kim et al. 2019)."""

from collections.abc import Iterator

from ...errors import EvaluationError
from ..benchmark import Benchmark
from ..fields import need_texts
from ..sample import Sample, ask
from ..source import Source
from .clotho import REQUEST

CAPTIONS = 5
"""Of each clip of the test split, a row each."""
ENDINGS = ("wav", "flac", "mp3", "m4a", "ogg", "opus")


def read(source: Source) -> Iterator[Sample]:
    """Clips with their five captions, which stand anywhere in the file."""
    clips: dict[tuple[str, str], list[tuple[str, str]]] = {}
    captions: dict[str, str] = {}
    for where, row in source.rows("test.csv"):
        identity, youtube, start, caption = need_texts(
            row, where, "audiocap_id", "youtube_id", "start_time", "caption"
        )
        if identity in captions:
            raise EvaluationError(f"{where}: audiocap_id {identity} appears twice, before at {captions[identity]}")
        captions[identity] = where
        clips.setdefault((youtube, start), []).append((where, caption))
    for (youtube, start), rows in clips.items():
        where, clip = rows[0][0], f"{youtube}_{start}"
        if len(rows) != CAPTIONS:
            raise EvaluationError(
                f"{where}: expected {CAPTIONS} captions of clip {clip}, one a row, found {len(rows)}. Complete the "
                "file, or remove the clip's rows."
            )
        names = (f"audio/{stem}.{ending}" for stem in (clip, youtube, f"Y{youtube}") for ending in ENDINGS)
        item = {"type": "audio", "path": source.media(where, *names)}
        answers = tuple(caption for _, caption in rows)
        yield Sample(clip, ask(item), answers[0], answers, clip, where)


BENCHMARKS = (
    Benchmark(
        name="audiocaps",
        title="AudioCaps test",
        measures="Captions of ten-second sounds of YouTube clips.",
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
