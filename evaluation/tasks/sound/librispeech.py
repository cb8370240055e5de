"""LibriSpeech, read English (Panayotov et al. 2015): the words that are spoken, word error rate."""

from collections.abc import Iterator
from functools import partial

from ...errors import EvaluationError
from ..benchmark import Benchmark, Hub
from ..media import Medium
from ..row import Row, Text
from ..sample import Sample, ask
from ..source import Source

READ_ON = (
    "from the description, 2026-11-28 (README.TXT of the corpus, "
    "https://huggingface.co/datasets/Chinar/asr_processed/blob/main/LibriSpeechOther/README.TXT)"
)


class FileRow(Row):
    """A line of a transcript, and the file beside it."""

    id: Text
    text: Text
    file: str


class HubRow(Row):
    """A row of `openslr/librispeech_asr`."""

    id: Text
    text: Text
    audio: Medium


def rows(source: Source, *, part: str) -> Iterator[FileRow]:
    """Read a part such as `test-clean`: lines `SPEAKER-CHAPTER-NUMBER WORDS`, a FLAC file beside each transcript."""
    for name in source.all(f"LibriSpeech/{part}/*/*/*.trans.txt"):
        folder = name.rpartition("/")[0]
        for number, line in enumerate(source.text(name).splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{source.root / name}:{number}"
            utterance, _, words = line.strip().partition(" ")
            if not words.strip() or utterance.count("-") != 2:
                raise EvaluationError(
                    f"{where}: expected SPEAKER-CHAPTER-NUMBER and the words that are spoken, found {line!r}"
                )
            yield FileRow.parse({"id": utterance, "text": words, "file": f"{folder}/{utterance}.flac"}, where)


def read(row: FileRow | HubRow, source: Source) -> Sample:
    """Read an utterance; those of a speaker are a cluster."""
    if isinstance(row, HubRow):
        path = source.medium(row.audio, row.where, name=row.id, ending=".flac")
    else:
        path = source.media(row.where, row.file)
    asked = ask({"type": "speech", "path": path})
    return Sample(row.id, asked, row.text, cluster=row.id.partition("-")[0], where=row.where)


def _benchmark(part: str, config: str, utterances: str, measures: str) -> Benchmark:
    return Benchmark(
        name=f"librispeech_{part.replace('-', '_')}",
        title=f"LibriSpeech {part}",
        measures=measures,
        rows=partial(rows, part=part),
        read=read,
        metric="wer",
        tree=f"LibriSpeech/{part}/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt\n"
        f"LibriSpeech/{part}/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac",
        origin=f"https://www.openslr.org/12 ({part}.tar.gz)",
        licence="CC BY 4.0",
        read_on=READ_ON,
        prompt="Please recognize the speech and only output the recognized content:",
        max_new_tokens=256,
        hub=Hub("openslr/librispeech_asr", "test", HubRow, config),
        note=f"{utterances} utterances. Through the speech encoder. A cluster is a speaker. "
        "Prompt and length as in lmms-eval.",
    )


BENCHMARKS = (
    _benchmark(
        "test-clean", "clean", "2,620", "Read English of audio books, to be written down; easier to understand."
    ),
    _benchmark("test-other", "other", "2,939", "The same, of speakers that recognisers understand less well."),
)
"""Both test sets."""

__all__ = ["BENCHMARKS"]
