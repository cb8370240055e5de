"""Small files for the fixtures of benchmarks: annotations in each form, and real pictures, sounds and films."""

import csv
import io
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile
from films import write_film
from PIL import Image

Row = dict[str, Any]
RATE = 16_000
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


def picture_bytes(colour: str, form: str = "PNG") -> bytes:
    """A small picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (24, 24), COLOURS[colour]).save(file, format=form)
    return file.getvalue()


def write_picture(path: Path, colour: str) -> None:
    """A picture in the form that its ending says; without one, a JPEG as in SEED-Bench."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_bytes(colour, "PNG" if path.suffix == ".png" else "JPEG"))


def write_json(path: Path, content: object) -> None:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_lines(path: Path, rows: list[Row]) -> None:
    """A file with a JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_table(path: Path, rows: list[Row]) -> None:
    """A file of cells with the columns of its first row, between tabs or, if it is called .csv, commas."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        delimiter = "," if path.suffix == ".csv" else "\t"
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[Row]) -> None:
    """A parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_sound(path: Path, pitch: int = 440, *, seconds: float = 0.3) -> None:
    """A tone, by the path's ending a WAV, FLAC or MP3 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(seconds * RATE)) / RATE
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * pitch * times), RATE)


def write_clip(path: Path, shade: int = 100, *, sound: bool = False) -> None:
    """A film of 4 frames, with or without a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_film(path.suffix, shade, sound))


@cache
def _film(suffix: str, shade: int, sound: bool) -> bytes:
    """Encoded once: hundreds of tests write the same films."""
    tone = 0.4 * np.sin(np.arange(RATE // 2) / 5) if sound else None
    with TemporaryDirectory() as folder:
        shades = [shade, shade + 20, shade + 40, shade + 60]
        return write_film(Path(folder) / f"film{suffix}", shades, sound=tone).read_bytes()
