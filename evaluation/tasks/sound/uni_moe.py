"""Uni-MoE's own sets of spoken questions and passages: MMBench-Audio, RACE-Audio, English High School Listening.

Their rows are Uni-MoE's JSON, read as its repository describes it; the files themselves could not be looked at:

    {"question_id": 1, "image": "images/1.jpg", "voice": ["audio/1.wav"], "text": "What is it?\\nA. red\\nB. blue",
     "gt": "B", "category": "..."}

`text` may be missing where `conversations` has the question, and `answer` stands for a missing `gt`. Options are a
list `options`, columns `A` to `E`, or lines `A. ...` of the question.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from ...errors import EvaluationError
from ..benchmark import LETTER, Benchmark
from ..choices import letter_of, letter_of_text, options, options_in, options_in_columns
from ..fields import find_tail, need_list, need_text, optional_text
from ..sample import Message, Sample, ask
from ..source import Row, Source, need

ROTATIONS = 1_000_000
"""Rows of MMBench whose numbers are equal modulo this are one question with its options rotated."""
SHORT_RECORDINGS = 5
"""The first so many recordings of a paper of EHSL are short dialogues, the others long."""
README = "https://github.com/HITsz-TMG/Uni-MoE/blob/master/Uni_MoE/README.md"

_TAG = re.compile(r"<(?:image|audio|voice|speech|video)>\s*")


def read_mmbench(source: Source) -> Iterator[Sample]:
    """Questions about a picture whose context is spoken; rotations of one question are a group."""
    for where, row in source.rows(source.first("mmbench_audio.json", "*.json")):
        picture = need_text(row, where, "image")
        identity = _identity(row, where)
        group = str(int(identity) % ROTATIONS) if identity.isdigit() else identity
        shown: list[Message] = [{"type": "image", "path": find_tail(source, where, picture)}]
        yield _sample(source, where, row, identity, shown=shown, cluster=group, group=group)


def read_race(source: Source) -> Iterator[Sample]:
    """Questions about a spoken passage, with the level of the school."""
    for where, row in source.rows(source.first("race_audio.json", "*.json")):
        categories = {"level": _category(row, where, ("middle", "high"), _level)}
        yield _sample(source, where, row, _identity(row, where), categories=categories)


def read_listening(source: Source, *, length: str) -> Iterator[Sample]:
    """Questions about a recording of an exam, `long` or `short`; both stand in one file."""
    for where, row in source.rows(source.first("high_exam.json", "*.json")):
        if _category(row, where, ("long", "short"), _length) == length:
            yield _sample(source, where, row, _identity(row, where))


def _sample(
    source: Source,
    where: str,
    row: Row,
    identity: str,
    *,
    shown: list[Message] | None = None,
    cluster: str = "",
    group: str = "",
    categories: dict[str, str] | None = None,
) -> Sample:
    question, choices = _question(row, where)
    letter = _right(row, choices, where)
    voices = _voices(row, where)
    spoken = [{"type": "speech", "path": find_tail(source, where, voice)} for voice in voices]
    messages = ask(*(shown or ()), *spoken, question)
    return Sample(
        identity, messages, letter, (letter,), cluster or voices[0], where, choices, group, categories=categories or {}
    )


def _identity(row: Row, where: str) -> str:
    """Its id, or else its number in the file."""
    for key in ("question_id", "id", "index"):
        if row.get(key) is not None:
            return str(row[key])
    return where.rpartition("[")[2].rstrip("]")


def _voices(row: Row, where: str) -> list[str]:
    (voices,) = need(row, where, "voice")
    voices = voices if isinstance(voices, list) else [voices]
    if not voices or not all(isinstance(voice, str) and voice for voice in voices):
        raise EvaluationError(f"{where}: 'voice' must be the path of a recording, or a list of them, found {voices!r}")
    return voices


def _question(row: Row, where: str) -> tuple[str, tuple[str, ...]]:
    """What is asked in writing, options included, and the texts of the options."""
    text = _TAG.sub("", optional_text(row, "text") or _first_turn(row)).strip()
    if written := options_in(text):
        return text, written
    if row.get("options"):
        choices = need_list(row, where, "options", at_least=2)
    elif optional_text(row, "A"):
        choices = options_in_columns(row, where)
    else:
        raise EvaluationError(
            f"{where}: no options found. Give a list 'options', columns A to E, or lines 'A. ...' in 'text'."
        )
    return f"{text}\n{options(choices)}".lstrip(), choices


def _first_turn(row: Row) -> str:
    turns = row.get("conversations")
    first = turns[0] if isinstance(turns, list) and turns else None
    return optional_text(first, "value") if isinstance(first, dict) else ""


def _right(row: Row, choices: tuple[str, ...], where: str) -> str:
    """The letter of the right option, given as a letter or as the option's text, alone or in a list of one."""
    given: Any = row.get("gt") or row.get("answer")
    if isinstance(given, list) and len(given) == 1:
        (given,) = given
    if not isinstance(given, str) or not given.strip():
        raise EvaluationError(f"{where}: 'gt' (or 'answer') must be the right letter, found {given!r}")
    try:
        return letter_of(given, choices, where)
    except EvaluationError:
        return letter_of_text(given, choices, where)


def _category(row: Row, where: str, names: tuple[str, str], infer: Callable[[PurePosixPath], str | None]) -> str:
    """What the row calls its category, or what the path of its recording says."""
    if row.get("category") in names:
        return str(row["category"])
    voice = _voices(row, where)[0]
    found = infer(PurePosixPath(voice))
    if found is None:
        raise EvaluationError(
            f"{where}: neither 'category' nor the recording {voice} says whether it is {names[0]} or {names[1]}. "
            f"Add 'category': '{names[0]}' or '{names[1]}'."
        )
    return found


def _level(path: PurePosixPath) -> str | None:
    found = [name for name in ("middle", "high") if any(part.startswith(name) for part in path.parts)]
    return found[0] if len(found) == 1 else None


def _length(path: PurePosixPath) -> str | None:
    number = re.fullmatch(r"\d{4}_(\d+)", path.stem)
    return None if number is None else ("short" if 1 <= int(number[1]) <= SHORT_RECORDINGS else "long")


def _listening(length: str, count: str, measures: str) -> Benchmark:
    return Benchmark(
        name=f"ehsl_{length}",
        title=f"English High School Listening, {length}",
        measures=measures,
        read=partial(read_listening, length=length),
        metric="multiple_choice",
        tree="high_exam.json\naudio/YEAR_NUMBER.wav",
        origin="https://huggingface.co/datasets/Uni-MoE/College-Entrance-English-Examination-Listening-Part",
        licence="Apache-2.0",
        read_on="from the description, 2026-11-28 (names of files and licence from the data set's page; rows from "
        f"Uni-MoE's format, {README})",
        prompt=LETTER,
        max_new_tokens=16,
        note=f"{count}. Through the speech encoder. Where rows have no category, recordings 1 to 5 of a paper are "
        "short and the others long: inferred from ten papers of 5 short and 15 long questions, not stated by the "
        "publisher.",
        shares="ehsl_long" if length == "short" else "",
    )


BENCHMARKS = (
    Benchmark(
        name="mmbench_audio",
        title="MMBench-Audio",
        measures="MMBench's questions about a picture, with synthetic speech beside it; every rotation must be "
        "answered right.",
        read=read_mmbench,
        metric="circular",
        tree="mmbench_audio.json\n"
        "images/...    as 'image' of the rows says\n"
        "audio/...     as 'voice' of the rows says",
        origin="Uni-MoE's authors (https://github.com/HITsz-TMG/Uni-MoE); their README links MMBench, not the speech",
        licence="research use only, as Uni-MoE's README states",
        read_on=f"from the description, 2026-11-28 (https://arxiv.org/abs/2405.11273 section 4.2; {README})",
        prompt=LETTER,
        max_new_tokens=16,
        note="Picture, synthetic speech through the speech encoder, then the written question with its options. The "
        "paper has the context (hint) spoken; what a row writes in 'text' is asked as it stands. Rows without "
        "rotations count as questions of one rotation.",
    ),
    Benchmark(
        name="race_audio",
        title="RACE-Audio",
        measures="RACE's questions about a passage of an English exam, which is heard instead of read. Broken down by "
        "level of school.",
        read=read_race,
        metric="multiple_choice",
        tree="race_audio.json\naudio/middle/...    as 'voice' of the rows says\naudio/high/...",
        origin="Uni-MoE's authors (https://github.com/HITsz-TMG/Uni-MoE); their README links RACE, not the speech",
        licence="research use only, as Uni-MoE's README states",
        read_on=f"from the description, 2026-11-28 (https://arxiv.org/abs/2405.11273 section 4.2; {README})",
        prompt=LETTER,
        max_new_tokens=16,
        note="A long passage as synthetic speech through the speech encoder; question and options in writing. Uni-MoE "
        "tells middle and high school apart.",
    ),
    _listening(
        "long",
        "150 questions, on average 109 s",
        "Questions about long recordings of the listening part of Chinese college entrance examinations.",
    ),
    _listening("short", "50 questions, on average 14 s", "Questions about short dialogues of the same examinations."),
)
"""Uni-MoE's sets."""

__all__ = ["BENCHMARKS"]
