"""The quickstart's data: easy-vqa and the demo media in, `messages` rows out. Nothing is downloaded.

A row is `{"id", "task", "messages"}`; its last assistant turn is the reference answer. Training questions about the
demo media come in several phrasings; a test file asks each question once, in the first phrasing.
"""

import json
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "test"]
Row = dict[str, Any]

MEDIA_FOLDER = Path(__file__).parent / "media"


@dataclass(frozen=True)
class DemoTask:
    """A set of the demo media: which modality its files are, and how one asks about them."""

    modality: Literal["image", "audio", "speech"]
    questions: tuple[str, ...]


DEMO_TASKS = {
    "image_kind": DemoTask(
        "image",
        (
            "what kind of thing is this?",
            "what kind of thing is in the picture?",
            "which kind of thing does the picture show?",
        ),
    ),
    "spoken_word": DemoTask(
        "speech",
        ("which word do you hear?", "what word is spoken?", "what did the voice say?"),
    ),
    "sound_kind": DemoTask(
        "audio",
        ("what makes this sound?", "what kind of sound is this?", "which instrument do you hear?"),
    ),
    "spoken_sentence": DemoTask("speech", ("write down what you hear.",)),
}
QUICKSTART_TASKS = ("image_kind", "spoken_word", "sound_kind")
"""Those of the demo tasks that the quickstart trains and measures."""

_SHAPES = ("circle", "rectangle", "triangle")
_OPPOSITES = (
    "hot cold,big small,up down,left right,yes no,stop go,open closed,black white,day night,old new,fast slow,"
    "high low,wet dry,full empty,good bad,light dark,near far,early late,hard soft,loud quiet,long short,rich poor,"
    "happy sad"
)
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_WORDS = (
    "circle rectangle triangle red green blue yellow teal brown black gray animal food plant building tool vehicle "
    "bell guitar bass drum house fish car hello open left right stop yes no up go picture sound word color shape"
)


def question_row(row_id: str, *, task: str, question: str, answer: str, media: dict[str, str] | None = None) -> Row:
    """Make one row: a question, with a medium before it or none, and its answer."""
    content = [*([media] if media else []), {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {"id": row_id, "task": task, "messages": messages}


def easy_vqa_folder() -> Path:
    """Find the data of the installed package `easy-vqa`.

    Raises:
        FileNotFoundError: If it is not installed.
    """
    spec = find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("The package easy-vqa is not installed. Run: pip install 'unimoe[quickstart]'")
    return Path(spec.submodule_search_locations[0]) / "data"


def vqa_rows(split: Split) -> Iterator[Row]:
    """Yield the questions of easy-vqa about 64 x 64 pictures of one coloured shape each."""
    folder = easy_vqa_folder() / split
    questions = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    for index, (question, answer, image) in enumerate(questions):
        media = {"type": "image", "path": str(folder / "images" / f"{image}.png")}
        yield question_row(f"vqa-{split}-{index}", task="vqa", question=question, answer=answer, media=media)


def conversations(rows: Iterable[Row], *, turns: int, seed: int = 0) -> Iterator[Row]:
    """Join single questions, shuffled, into conversations of like length, so that a batch is not mostly padding.

    Args:
        rows: Single questions.
        turns: Questions in a conversation, at most.
        seed: Seed of the order in which questions meet.
    """
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    for start in range(0, len(shuffled), turns):
        yield join(shuffled[start : start + turns])


def vqa_conversations(*, per_picture: int = 3, seed: int = 0) -> Iterator[Row]:
    """Yield conversations about one picture each, with a question of every kind that the picture has.

    The kinds are open or yes/no, about the shape or about the colour. More than half of the questions in easy-vqa are
    yes/no about a colour; here every kind counts about the same. A kind with few questions repeats them.

    Args:
        per_picture: Conversations about each picture.
        seed: Seed of the order of the questions.
    """
    generator = random.Random(seed)
    pictures: dict[str, dict[tuple[bool, bool], list[Row]]] = {}
    for row in vqa_rows("train"):
        picture = row["messages"][0]["content"][0]["path"]
        pictures.setdefault(picture, {}).setdefault(question_kind(row), []).append(row)
    for kinds in pictures.values():
        for questions in kinds.values():
            generator.shuffle(questions)
        for number in range(per_picture):
            chosen = [questions[number % len(questions)] for questions in kinds.values()]
            generator.shuffle(chosen)
            conversation = join(chosen)
            yield {**conversation, "id": f"{conversation['id']}-{number}"}


def question_kind(row: Row) -> tuple[bool, bool]:
    """Tell the kind of an easy-vqa question: whether it is a yes/no question, and whether it is about the shape."""
    question, answer = (message["content"] for message in row["messages"])
    yes_no = answer in ("yes", "no")
    return yes_no, any(shape in (question[-1]["text"] if yes_no else answer) for shape in _SHAPES)


def join(rows: list[Row]) -> Row:
    """Join rows into one conversation; a medium that the turn before already showed is not shown again."""
    messages: list[dict[str, Any]] = []
    shown = None
    for row in rows:
        question, answer = row["messages"]
        media = [item for item in question["content"] if item["type"] != "text"]
        content = question["content"] if media != shown else question["content"][len(media) :]
        messages += [{**question, "content": content}, answer]
        shown = media
    return {**rows[0], "messages": messages}


def demo_rows(task: str, split: Split, *, relative_to: Path) -> Iterator[Row]:
    """Yield the rows of one set of the demo media; their labels are the answers.

    Args:
        task: Of `DEMO_TASKS`.
        split: `train` asks about each file in every phrasing, `test` in the first.
        relative_to: Folder of the data file; media paths are relative to it.
    """
    demo = DEMO_TASKS[task]
    questions = demo.questions if split == "train" else demo.questions[:1]
    with open(MEDIA_FOLDER / f"{task}.jsonl", encoding="utf-8") as manifest:
        entries = [entry for entry in map(json.loads, manifest) if entry["split"] == split]
    for entry, (number, question) in product(entries, enumerate(questions)):
        path = os.path.relpath(MEDIA_FOLDER / entry["path"], relative_to)
        row_id = f"{task}-{Path(entry['path']).stem}-{number}"
        media = {"type": demo.modality, "path": path}
        yield question_row(row_id, task=task, question=question, answer=entry["label"], media=media)


def text_rows() -> Iterator[Row]:
    """Yield generated rows without media: opposites, neighbouring numbers, spelling and letters."""
    pairs = [pair.split() for pair in _OPPOSITES.split(",")]
    questions = [(f"what is the opposite of {a}?", b) for one, other in pairs for a, b in ((one, other), (other, one))]
    for before, after in pairwise(_NUMBERS):
        questions += [(f"which number comes after {before}?", after), (f"which number comes before {after}?", before)]
    for word in _WORDS.split():
        questions += [
            (f"spell the word {word}.", " ".join(word)),
            (f"which letter does {word} start with?", word[0]),
            (f"which letter does {word} end with?", word[-1]),
            (f"how many letters has {word}?", _NUMBERS[len(word)]),
            (f"repeat the word {word}.", word),
        ]
    for index, (question, answer) in enumerate(questions):
        yield question_row(f"text-train-{index}", task="text", question=question, answer=answer)


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Write rows as JSON Lines and return how many there were."""
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007 (the last count is the result)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return count


_CALIBRATION = 96
"""Conversations of each task on which operations look at a model."""


def write_data(folder: Path) -> dict[str, int]:
    """Write all data files of the quickstart.

    Args:
        folder: Where the files `{vqa,image_kind,spoken_word,sound_kind}_{train,test}.jsonl` and `text_train.jsonl` go,
            and for each training file one with its questions joined, `TASK_train_conversations.jsonl`; and
            `calibration.jsonl`, some of these conversations of each file.

    Returns:
        Rows of each file, by file name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base = folder.resolve()
    joined = {"text": list(conversations(text_rows(), turns=4)), "vqa": list(vqa_conversations())}
    for task in QUICKSTART_TASKS:
        joined[task] = list(conversations(demo_rows(task, "train", relative_to=base), turns=3))
    some = (row for rows in joined.values() for row in random.Random(0).sample(rows, min(len(rows), _CALIBRATION)))
    files: dict[str, Iterable[Row]] = {"text_train": text_rows(), "calibration": some}
    files |= {f"{task}_train_conversations": rows for task, rows in joined.items()}
    for split in ("train", "test"):
        files[f"vqa_{split}"] = vqa_rows(split)
        for task in QUICKSTART_TASKS:
            files[f"{task}_{split}"] = demo_rows(task, split, relative_to=base)
    return {f"{name}.jsonl": write_rows(folder / f"{name}.jsonl", rows) for name, rows in sorted(files.items())}
