"""Uni-MoE's own sets of spoken questions and passages: MMBench-Audio, RACE-Audio, English High School Listening.

Their rows are Uni-MoE's JSON, read as its repository describes it; the files themselves could not be looked at:

    {"question_id": 1, "image": "images/1.jpg", "voice": ["audio/1.wav"], "text": "What is it?\\nA. red\\nB. blue",
     "gt": "B", "category": "..."}

`text` may be missing where `conversations` has the question, and `answer` stands for a missing `gt`. Options are a
list `options`, columns `A` to `E`, or lines `A. ...` of the question.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator

from ...errors import EvaluationError
from ..benchmark import LETTER, Benchmark
from ..choices import Lettered, letter_of, letter_of_text, options, options_in
from ..row import Cell, Options, Row, Text, misfit
from ..sample import Message, Sample, ask
from ..source import Source

ROTATIONS = 1_000_000
"""Rows of MMBench whose numbers are equal modulo this are one question with its options rotated."""
SHORT_RECORDINGS = 5
"""The first so many recordings of a paper of EHSL are short dialogues, the others long."""
README = "https://github.com/HITsz-TMG/Uni-MoE/blob/master/Uni_MoE/README.md"

_TAG = re.compile(r"<(?:image|audio|voice|speech|video)>\s*")


def _voices(value: Any) -> list[str]:
    voices = value if isinstance(value, list) else [value]
    if not voices or not all(isinstance(voice, str) and voice for voice in voices):
        raise misfit(f"must be the path of a recording, or a list of them, found {voices!r}")
    return voices


class Question(Lettered):
    """A row of Uni-MoE's JSON; options may also be a list, or lines of the text."""

    question_id: Any = None
    id: Any = None
    index: Any = None
    voice: Annotated[list[str], BeforeValidator(_voices)]
    text: Cell = ""
    conversations: Any = None
    gt: Any = None
    answer: Any = None
    category: Any = None

    @property
    def identity(self) -> str:
        """Its id, or else its number in the file."""
        ids = (value for value in (self.question_id, self.id, self.index) if value is not None)
        return str(next(ids, self.where.rpartition("[")[2].rstrip("]")))

    def ask(self) -> tuple[str, tuple[str, ...]]:
        """Write what is asked, options included, and return the texts of the options too."""
        text = _TAG.sub("", self.text or _first_turn(self.conversations)).strip()
        if written := options_in(text):
            return text, written
        if self.values.get("options"):
            choices = self.read_as(Listed).options
        elif self.A:
            choices = self.in_columns()
        else:
            raise EvaluationError(
                f"{self.where}: no options found. Give a list 'options', columns A to E, or lines 'A. ...' in 'text'."
            )
        return f"{text}\n{options(choices)}".lstrip(), choices

    def right(self, choices: tuple[str, ...]) -> str:
        """Read the right option's letter, given as a letter or as the option's text, alone or in a list of one."""
        given = self.gt or self.answer
        if isinstance(given, list) and len(given) == 1:
            (given,) = given
        if not isinstance(given, str) or not given.strip():
            raise EvaluationError(f"{self.where}: 'gt' (or 'answer') must be the right letter, found {given!r}")
        try:
            return letter_of(given, choices, self.where)
        except EvaluationError:
            return letter_of_text(given, choices, self.where)

    def one_of(self, names: tuple[str, str], infer: Callable[[PurePosixPath], str | None]) -> str:
        """Read its category, or else what the path of its recording says."""
        if self.category in names:
            return str(self.category)
        found = infer(PurePosixPath(self.voice[0]))
        if found is None:
            raise EvaluationError(
                f"{self.where}: neither 'category' nor the recording {self.voice[0]} says whether it is {names[0]} or "
                f"{names[1]}. Add 'category': '{names[0]}' or '{names[1]}'."
            )
        return found


class Listed(Row):
    """A row whose options are a list."""

    options: Options


class Pictured(Question):
    """A row of MMBench-Audio."""

    image: Text


def _first_turn(turns: Any) -> str:
    first = turns[0] if isinstance(turns, list) and turns else None
    value = first.get("value") if isinstance(first, dict) else None
    return "" if value is None else str(value).strip()


def read_mmbench(row: Pictured, source: Source) -> Sample:
    """Read a question about a picture whose context is spoken; rotations of one question are a group."""
    group = str(int(row.identity) % ROTATIONS) if row.identity.isdigit() else row.identity
    picture: Message = {"type": "image", "path": source.tail(row.where, row.image)}
    return _sample(row, source, picture, cluster=group, group=group)


def read_race(row: Question, source: Source) -> Sample:
    """Read a question about a spoken passage, with the level of the school."""
    return _sample(row, source, cluster=row.voice[0], categories={"level": row.one_of(("middle", "high"), _level)})


def read_listening(row: Question, source: Source, *, length: str) -> Sample | None:
    """Read a question about a recording of an exam, `long` or `short`; both stand in one file."""
    same = row.one_of(("long", "short"), _length) == length
    return _sample(row, source, cluster=row.voice[0]) if same else None


def _sample(row: Question, source: Source, *shown: Message, **further: Any) -> Sample:
    question, choices = row.ask()
    letter = row.right(choices)
    spoken = [{"type": "speech", "path": source.tail(row.where, voice)} for voice in row.voice]
    return Sample(row.identity, ask(*shown, *spoken, question), letter, where=row.where, choices=choices, **further)


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
        rows=lambda source: source.rows(source.first("high_exam.json", "*.json"), Question),
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
        rows=lambda source: source.rows(source.first("mmbench_audio.json", "*.json"), Pictured),
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
        rows=lambda source: source.rows(source.first("race_audio.json", "*.json"), Question),
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
