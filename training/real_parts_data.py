"""`python -m training.real_parts_data OUT`: the data of the recipe on real parts; nothing is downloaded.

From easy-vqa and the demo media: questions about pictures, kinds of pictures, spoken words and sentences, and text.
`*_held_back.jsonl` has rows that no stage trains on: other pictures, other sentences, other voices.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unimoe.errors.terminal import fail

from .quickstart.rows import Row, conversations, demo_rows, text_rows, vqa_conversations, vqa_rows, write_rows

VALIDATION_EVERY = 121
"""Every so-manieth of easy-vqa's test questions is for validation: 80."""


def files(folder: Path) -> dict[str, Iterable[Row]]:
    """Rows of each data file, by its name; media paths are relative to the folder."""
    train = {task: demo_rows(task, "train", relative_to=folder) for task in ("image_kind", "spoken_word")}
    tests = {
        task: demo_rows(task, "test", relative_to=folder) for task in ("image_kind", "spoken_word", "spoken_sentence")
    }
    return {
        "vqa_train": vqa_conversations(per_picture=1),
        "image_kind_train": conversations(train["image_kind"], turns=3),
        "spoken_word_train": conversations(train["spoken_word"], turns=3),
        "spoken_sentence_train": demo_rows("spoken_sentence", "train", relative_to=folder),
        "text_train": conversations(text_rows(), turns=4),
        "vqa_held_back": islice(vqa_rows("test"), 0, None, VALIDATION_EVERY),
        **{f"{task}_held_back": rows for task, rows in tests.items()},
    }


def write_data(folder: Path) -> dict[str, int]:
    """Write all data files into a folder, and return the rows of each by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: Iterator[tuple[str, Iterable[Row]]] = iter(files(folder.resolve()).items())
    return {f"{name}.jsonl": write_rows(folder / f"{name}.jsonl", iter(found)) for name, found in rows}


def main(out: Annotated[Path, typer.Argument(help="Folder for the data files.")]) -> None:
    """Write the data of configs/stages/real_parts.yaml; downloads nothing."""
    console = Console()
    try:
        with console.status("Writing data"):
            counts = write_data(out)
    except FileNotFoundError as error:
        fail(error)
    for name, rows in counts.items():
        console.print(f"{out / name}: {rows:,} rows")


if __name__ == "__main__":
    typer.run(main)
