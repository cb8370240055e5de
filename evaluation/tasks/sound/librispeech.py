"""LibriSpeech, read English (Panayotov et al. 2015): the words that are spoken, word error rate."""

from collections.abc import Iterator
from functools import partial

from ...errors import EvaluationError
from ..benchmark import Benchmark, Hub
from ..fields import need_texts, unpack_medium
from ..sample import Sample, ask
from ..source import Row, Source

READ_ON = (
    "from the description, 2026-11-28 (README.TXT of the corpus, "
    "https://huggingface.co/datasets/Chinar/asr_processed/blob/main/LibriSpeechOther/README.TXT)"
)


def read(source: Source, *, part: str) -> Iterator[Sample]:
    """Utterances of a part such as `test-clean`: lines `SPEAKER-CHAPTER-NUMBER WORDS`, a FLAC file beside each."""
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
            yield _sample(utterance, words.strip(), source.media(where, f"{folder}/{utterance}.flac"), where)


def from_hub(row: Row, where: str, source: Source) -> Sample:
    """An utterance of `openslr/librispeech_asr`."""
    utterance, words = need_texts(row, where, "id", "text")
    path = unpack_medium(source, row, where, "audio", name=utterance, ending=".flac")
    return _sample(utterance, words, path, where)


def _sample(utterance: str, words: str, path: str, where: str) -> Sample:
    speaker = utterance.partition("-")[0]
    return Sample(utterance, ask({"type": "speech", "path": path}), words, (words,), speaker, where)


def _benchmark(part: str, config: str, utterances: str, measures: str) -> Benchmark:
    return Benchmark(
        name=f"librispeech_{part.replace('-', '_')}",
        title=f"LibriSpeech {part}",
        measures=measures,
        read=partial(read, part=part),
        metric="wer",
        tree=f"LibriSpeech/{part}/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt\n"
        f"LibriSpeech/{part}/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac",
        origin=f"https://www.openslr.org/12 ({part}.tar.gz)",
        licence="CC BY 4.0",
        read_on=READ_ON,
        prompt="Please recognize the speech and only output the recognized content:",
        max_new_tokens=256,
        hub=Hub("openslr/librispeech_asr", "test", from_hub, config),
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
