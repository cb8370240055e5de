"""Media of rows: in one of several places, or inside of the row."""

from pathlib import Path
from typing import Any

import pytest
from fixture_files import picture_bytes, write_sound

from evaluation.errors import EvaluationError
from evaluation.tasks.media import Medium
from evaluation.tasks.row import Row
from evaluation.tasks.source import Source


class Clip(Row):
    audio: Medium


def unpack(source: Source, row: dict[str, Any], **naming: str) -> str:
    """Where the medium of a row is."""
    return source.medium(Clip.parse(row, "row 1").audio, "row 1", **naming)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source("any", tmp_path, "Get it.")


def test_a_path_of_another_machine_is_found_by_its_longest_end(source: Source) -> None:
    write_sound(source.root / "1.wav")
    write_sound(source.root / "exam/1.wav")
    assert source.tail("row 1", "/data/lab/exam/1.wav") == str((source.root / "exam/1.wav").resolve())
    assert source.tail("row 1", "../other/1.wav") == str((source.root / "1.wav").resolve())
    with pytest.raises(EvaluationError, match=r"row 1: .*data/lab/2\.wav is missing"):
        source.tail("row 1", "/data/lab/2.wav")


def test_media_of_rows_are_written_once_and_named_by_row_or_content(source: Source) -> None:
    clip = {"bytes": b"sound", "path": "x/a.mp3"}
    assert unpack(source, {"audio": clip}, name="7", ending=".wav").endswith("unpacked/7.mp3")
    row = {"audio": {**clip, "path": None}}
    first, again = (unpack(source, row, ending=".wav") for _ in range(2))
    assert first == again and first.endswith(".wav") and Path(first).read_bytes() == b"sound"


@pytest.mark.parametrize(("form", "ending"), [("PNG", ".png"), ("JPEG", ".jpg"), ("GIF", ".gif"), ("WEBP", ".webp")])
def test_pictures_are_named_by_what_they_are_so_that_equal_ones_are_one_file(
    form: str, ending: str, source: Source
) -> None:
    content = picture_bytes("red", form)
    paths = {unpack(source, {"audio": {"bytes": content, "path": name}}) for name in ("a.tif", None)}
    assert len(paths) == 1 and paths.pop().endswith(ending)


def test_a_sound_that_begins_like_a_webp_is_none(source: Source) -> None:
    write_sound(source.root / "a.wav")
    row = {"audio": {"bytes": (source.root / "a.wav").read_bytes()}}
    assert unpack(source, row, ending=".wav").endswith(".wav")


def test_media_without_bytes_are_read_where_their_path_says(source: Source) -> None:
    write_sound(source.root / "a.wav")
    row = {"audio": {"bytes": None, "path": str(source.root / "a.wav")}}
    assert unpack(source, row) == str((source.root / "a.wav").resolve())
    with pytest.raises(EvaluationError, match=r"row 1: .*b\.wav is missing"):
        unpack(source, {"audio": {"path": "b.wav"}})


@pytest.mark.parametrize("value", [[0.1, 0.2], {"array": [0.1], "sampling_rate": 16000}, {"bytes": None}, "a"])
def test_media_that_were_decoded_already_are_refused_with_the_cure(value: object, source: Source) -> None:
    with pytest.raises(EvaluationError, match=r"row 1: 'audio' must be a medium .*Audio\(decode=False\)"):
        unpack(source, {"audio": value})
