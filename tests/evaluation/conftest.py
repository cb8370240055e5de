from pathlib import Path

import numpy as np
import pytest
from finished_runs import write_task
from PIL import Image
from task_rows import colour_row, write_rows

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}


@pytest.fixture
def colour_data(tmp_path: Path) -> Path:
    """A folder with colour_test.jsonl (8 rows, 8 pictures) and colour_train.jsonl (10 rows)."""
    folder = tmp_path / "data"
    (folder / "media").mkdir(parents=True)
    for name, colour in COLOURS.items():
        for shade in range(2):
            pixels = np.full((24, 24, 3), colour, dtype=np.uint8) - shade
            Image.fromarray(pixels).save(folder / "media" / f"{name}_{shade}.png")
    names = [*COLOURS, *COLOURS]
    write_rows(folder / "colour_test.jsonl", [colour_row(i + i // 4, name) for i, name in enumerate(names)])
    train = ["red"] * 4 + ["green"] * 3 + ["blue"] * 3
    questions = ["what colour is it?"] * 4 + ["which one?"] * 6
    rows = [colour_row(i, name, text) for i, (name, text) in enumerate(zip(train, questions, strict=True))]
    write_rows(folder / "colour_train.jsonl", rows)
    return folder


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Java, where captions are cut by the plain tokeniser and METEOR is left out."""
    monkeypatch.setattr("shutil.which", lambda name: None)


@pytest.fixture
def yes_data(tmp_path: Path) -> Path:
    """A task whose answer is always `yes`."""
    return write_task(tmp_path / "data")
