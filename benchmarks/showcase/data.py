"""`python -m benchmarks.showcase.data OUT --packages DIR`: the showcase's data, as rows of `messages`; nothing is
downloaded, and nothing of the packages is stored elsewhere than in OUT.

Each task has a training file, `TASK_train.jsonl`, and validation files. `..._seen` asks for what was trained, by a
view or in a phrasing that was not: memory. `..._new` asks for what was not.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import soundfile
import torch
import typer
from rich.console import Console

from training.quickstart.rows import Row, demo_rows, question_row, write_rows
from unimoe.errors.terminal import fail, plain

from .instruments import play_notes
from .packages import MissingPackage, Noun, Stamp, one_shots, read_nouns, read_stamps, share_of
from .views import HELD_OUT_VIEW, SAMPLING_RATE, TRAINING_VIEWS, picture_view, sound_view

LANGUAGES = {
    "en": "English",
    "fr": "French",
    "es": "Spanish",
    "pt": "Portuguese",
    "it": "Italian",
    "gl": "Galician",
    "ca": "Catalan",
    "ro": "Romanian",
    "eu": "Basque",
    "nl": "Dutch",
    "de": "German",
    "da": "Danish",
    "sv": "Swedish",
    "is": "Icelandic",
    "fi": "Finnish",
    "hu": "Hungarian",
    "pl": "Polish",
    "cs": "Czech",
    "sl": "Slovenian",
    "ru": "Russian",
}
VOICES = ("es", "fr", "ca", "ro", "ru")
"""Languages with recordings of nearly all captions."""

LONGEST_CAPTION, LONGEST_GLOSS = 60, 50  # characters
LONGEST_VOICE = 6.0  # s
PICTURE_SIDE = 128  # pixels
GLOSSES, NEW_GLOSSES, SEEN_GLOSSES = 6_000, 500, 500
NEW_NAMES, SEEN_NAMES, NEW_VOICES = 0.04, 0.04, 0.08
"""Shares of the pairs of a picture and a language, and of the recordings, that are for validation."""
KEYS, NEW_KEY = (45, 50, 54, 60, 64, 69, 74), 57
"""MIDI keys that are trained, and the one between them that is not."""
PHRASES = ("define {word} ({kind})", "what does {word} ({kind}) mean?")

Files = dict[str, list[Row]]


def name_rows(stamps: Iterable[Stamp], out: Path) -> Files:
    """Ask for the caption of a picture in a language.

    Each pair of a stamp and a language is trained with one of the stamp's views. `names_seen` shows the held-out view
    of trained pairs, `names_new` that of pairs that are not trained, whose stamp is known in other languages.
    """
    files: Files = {"names_train": [], "names_seen": [], "names_new": []}
    for stamp in stamps:
        trained = trained_languages(stamp)
        for view in range(TRAINING_VIEWS + 1):
            write_picture(stamp, view, out)
        for code in known_languages(stamp):
            if code not in trained:
                files["names_new"].append(name_row(stamp, code, HELD_OUT_VIEW, out))
                continue
            view = int(share_of(f"view {stamp.name} {code}") * TRAINING_VIEWS)
            files["names_train"].append(name_row(stamp, code, view, out))
            if share_of(f"seen {stamp.name} {code}") < SEEN_NAMES:
                files["names_seen"].append(name_row(stamp, code, HELD_OUT_VIEW, out))
    return files


def known_languages(stamp: Stamp) -> list[str]:
    """Return the languages of the showcase in which a stamp has a caption."""
    return [code for code in LANGUAGES if code in stamp.captions]


def trained_languages(stamp: Stamp) -> set[str]:
    """Return those in which it is trained: alike for all stamps of one English caption, and at least one."""
    known = known_languages(stamp)
    return {code for code in known if share_of(f"new {stamp.thing} {code}") >= NEW_NAMES} or set(known)


def picture_path(stamp: Stamp, view: int, out: Path) -> Path:
    """Return the file of a view."""
    return out / "pictures" / f"{stamp.name.replace('/', '-')}-{view}.png"


def write_picture(stamp: Stamp, view: int, out: Path) -> None:
    """Write the file of a view."""
    picture = picture_view(stamp.picture, view, name=stamp.name, flip=stamp.may_be_flipped, side=PICTURE_SIDE)
    path = picture_path(stamp, view, out)
    path.parent.mkdir(exist_ok=True)
    picture.save(path)


def name_row(stamp: Stamp, code: str, view: int, out: Path) -> Row:
    """Make one row about a view of a stamp."""
    media = {"type": "image", "path": os.path.relpath(picture_path(stamp, view, out), out)}
    question, answer = f"name in {LANGUAGES[code]}?", stamp.captions[code]
    return question_row(f"name-{stamp.name}-{code}", task="names", question=question, answer=answer, media=media)


def spoken_name_rows(stamps: Iterable[Stamp], out: Path) -> Files:
    """Write down a caption that a human voice reads.

    A recording is held out together with those of its English caption in that language. What it says was trained as
    the name of a picture: minutes of speech in five languages do not teach one to write what was never read.
    """
    files: Files = {"spoken_names_train": [], "spoken_names_new": []}
    for stamp in stamps:
        for code in VOICES:
            voice = stamp.voices.get(code)
            if voice is None or code not in trained_languages(stamp):
                continue
            if soundfile.info(voice).duration > LONGEST_VOICE:
                continue
            media = {"type": "speech", "path": os.path.relpath(voice, out)}
            new = share_of(f"voice {stamp.thing} {code}") < NEW_VOICES
            files["spoken_names_new" if new else "spoken_names_train"].append(
                question_row(
                    f"voice-{stamp.name}-{code}",
                    task="spoken_names",
                    question=f"write down the {LANGUAGES[code]}.",
                    answer=stamp.captions[code],
                    media=media,
                )
            )
    return files


def gloss_rows(nouns: Iterable[Noun]) -> Files:
    """Ask for the gloss of a noun, in one of two phrasings; `glosses_seen` asks in the other one."""
    nouns = sorted(nouns, key=lambda noun: share_of(f"noun {noun.word}"))
    new, trained = nouns[:NEW_GLOSSES], nouns[NEW_GLOSSES : NEW_GLOSSES + GLOSSES]
    return {
        "glosses_train": [gloss_row(noun, phrasing_of(noun)) for noun in trained],
        "glosses_seen": [gloss_row(noun, 1 - phrasing_of(noun)) for noun in trained[:SEEN_GLOSSES]],
        "glosses_new": [gloss_row(noun, phrasing_of(noun)) for noun in new],
    }


def phrasing_of(noun: Noun) -> int:
    """Say in which phrasing a noun is trained."""
    return int(share_of(f"phrasing {noun.word}") * len(PHRASES))


def gloss_row(noun: Noun, phrasing: int) -> Row:
    """Make one row about a noun."""
    question = PHRASES[phrasing].format(word=noun.word, kind=noun.kind)
    return question_row(f"gloss-{noun.word}-{phrasing}", task="glosses", question=question, answer=noun.gloss)


def spoken_word_rows(out: Path) -> Files:
    """Write down a word that a synthetic voice says; `spoken_words_new` has voices that are not trained."""
    return {
        "spoken_words_train": list(demo_rows("spoken_word", "train", relative_to=out)),
        "spoken_words_new": list(demo_rows("spoken_word", "test", relative_to=out)),
    }


def one_shot_rows(paths: dict[str, Path], out: Path) -> Files:
    """Name a sample of a drum, a bass, a bell and so on; `one_shots_seen` plays the held-out view."""
    files: Files = {"one_shots_train": [], "one_shots_seen": []}
    for name, path in paths.items():
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        for view in range(TRAINING_VIEWS + 1):
            wave = sound_view(torch.from_numpy(samples.mean(axis=1)), rate, view, name=name)
            row = sound_row(f"one-shot-{name}-{view}", "one_shots", "which sample?", name, wave, out)
            files["one_shots_seen" if view == HELD_OUT_VIEW else "one_shots_train"].append(row)
    return files


def instrument_rows(notes: Iterable[tuple[str, int, torch.Tensor]], out: Path) -> Files:
    """Name the instrument that plays a note; `instruments_seen` plays the held-out key."""
    files: Files = {"instruments_train": [], "instruments_seen": []}
    for name, key, wave in notes:
        row = sound_row(f"note-{name}-{key}", "instruments", "which instrument?", name, wave, out)
        files["instruments_seen" if key == NEW_KEY else "instruments_train"].append(row)
    return files


def sound_row(row_id: str, task: str, question: str, answer: str, wave: torch.Tensor, out: Path) -> Row:
    """Write a sound, and make the row about it."""
    path = out / "sounds" / f"{''.join(letter if letter.isalnum() else '-' for letter in row_id)}.flac"
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, wave.numpy(), SAMPLING_RATE)
    media = {"type": "audio", "path": os.path.relpath(path, out)}
    return question_row(row_id, task=task, question=question, answer=answer, media=media)


def all_rows(packages: Path, out: Path) -> Iterator[Files]:
    """Make the rows of one task after the other, and their media."""
    stamps = list(read_stamps(packages, longest=LONGEST_CAPTION))
    yield name_rows(stamps, out)
    yield spoken_name_rows(stamps, out)
    yield gloss_rows(read_nouns(packages, longest=LONGEST_GLOSS))
    yield spoken_word_rows(out)
    yield one_shot_rows(one_shots(packages), out)
    yield instrument_rows(play_notes(packages, [*KEYS, NEW_KEY]), out)


def answer_of(row: Row) -> str:
    """Return the reference answer of a row."""
    return str(row["messages"][-1]["content"])


def describe(files: Files) -> Iterator[str]:
    """Say how many rows the files of a task have, and how often the most frequent answer is right."""
    (train, trained), *others = files.items()
    yield f"{train}: {len(trained):,} rows"
    most = Counter(map(answer_of, trained)).most_common(1)
    for name, rows in others:
        right = sum(answer_of(row) == most[0][0] for row in rows) if most else 0
        yield f"{name}: {len(rows):,} rows; the most frequent answer of training is right for {right}"


def main(
    out: Annotated[Path, typer.Argument(help="Folder for rows, pictures and sounds.")],
    packages: Annotated[Path, typer.Option(help="Folder where the packages of Debian were unpacked.")],
) -> None:
    """Write the showcase's data; see docs/showcase.md for the packages."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    try:
        for files in all_rows(packages.resolve(), out.resolve()):
            for name, rows in files.items():
                write_rows(out / f"{name}.jsonl", iter(rows))
            for line in describe(files):
                console.print(plain(line), highlight=False, soft_wrap=True)
    except MissingPackage as error:
        fail(error)


if __name__ == "__main__":
    typer.run(main)
