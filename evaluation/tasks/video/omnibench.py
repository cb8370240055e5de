"""OmniBench: questions that need a picture and a sound together (Li et al. 2024)."""

from collections.abc import Iterator

from ..benchmark import LETTER, Benchmark, Hub
from ..choices import letter_of_text, options
from ..fields import need_list, need_text, need_texts, unpack_medium
from ..sample import Sample, ask
from ..source import Row, Source


def read(source: Source) -> Iterator[Sample]:
    """Rows of the publisher's JSONL file."""
    for where, row in source.rows(source.first("dataset/batch-5_1142_20240817.jsonl", "dataset/*.jsonl")):
        sound, picture = need_texts(row, where, "audio_path", "image_path")
        heard, seen = source.media(where, f"mm_data/audio/{sound}"), source.media(where, f"mm_data/image/{picture}")
        yield _sample(row, where, heard, seen)


def from_hub(row: Row, where: str, source: Source) -> Sample:
    """A row of the publisher's copy, which holds the media."""
    identity = need_text(row, where, "index")
    heard = unpack_medium(source, row, where, "audio", name=f"audio_{identity}", ending=".mp3")
    seen = unpack_medium(source, row, where, "image", name=f"image_{identity}", ending=".png")
    return _sample(row, where, heard, seen)


def _sample(row: Row, where: str, heard: str, seen: str) -> Sample:
    identity, question, answer, task, kind = need_texts(
        row, where, "index", "question", "answer", "task type", "audio type"
    )
    choices = need_list(row, where, "options", at_least=2)
    letter = letter_of_text(answer, choices, where)
    sound = {"type": "speech" if kind.lower() == "speech" else "audio", "path": heard}
    text = f"Question:\n{question}\n\nOptions:\n{options(choices)}\n"
    return Sample(
        identity,
        ask(sound, {"type": "image", "path": seen}, text),
        letter,
        (letter,),
        heard,
        where,
        choices,
        categories={"task": task, "audio": kind.lower()},
    )


BENCHMARKS = (
    Benchmark(
        name="omnibench",
        title="OmniBench",
        measures="Multiple choice about a picture and a sound that must be understood together. Broken down by task "
        "and kind of sound.",
        read=read,
        metric="multiple_choice",
        tree="dataset/batch-5_1142_20240817.jsonl\nmm_data/audio/...    as 'audio_path' of the rows says\n"
        "mm_data/image/...    as 'image_path' of the rows says",
        origin="https://github.com/multimodal-art-projection/OmniBench (git lfs pull for mm_data)",
        licence="not stated in the README; pictures and sounds: of the films and sets that they come from",
        read_on="from the beginning of the publisher's file, 2026-11-28 "
        "(https://github.com/multimodal-art-projection/OmniBench)",
        prompt=LETTER,
        max_new_tokens=128,
        hub=Hub("m-a-p/OmniBench", "train", from_hub),
        note="1,142 questions. Sound first, then picture, prompt and length as in lmms-eval. Sounds of type speech go "
        "through the speech encoder, events and music through that of sounds. lmms-eval reads another copy of the "
        "rows, lmms-lab-audio/Omni_Bench_fix.",
    ),
)
"""Picture and sound together."""

__all__ = ["BENCHMARKS"]
