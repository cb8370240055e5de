"""The showcase's data, from made-up packages: splits do not overlap, views differ, and nothing is left to chance."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image, ImageDraw
from typer import Typer
from typer.testing import CliRunner

from benchmarks.showcase import data as showcase
from benchmarks.showcase.data import KEYS, NEW_KEY, main
from benchmarks.showcase.packages import MissingPackage, read_nouns, read_stamps
from benchmarks.showcase.views import HELD_OUT_VIEW, SAMPLING_RATE, picture_view, sound_view
from training.data.schema import read_rows

app = Typer()
app.command()(main)
STAMPS = 12
CODES = ("fr", "es", "ca", "ro", "ru", "de")


def tone(seconds: float, rate: int = SAMPLING_RATE) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def write_stamp(folder: Path, number: int, *, caption: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGBA", (90, 60))
    ImageDraw.Draw(picture).polygon([(5, 5), (60 + number, 20), (20, 50)], fill=(20 * number, 90, 200, 255))
    picture.save(folder / f"thing{number}.png")
    lines = [caption, *(f"{code}.utf8={caption} ({code})" for code in CODES), f"it.utf8={'x' * 100}", "no caption"]
    (folder / f"thing{number}.txt").write_text("\n".join(lines), encoding="utf-8")
    for code in ("fr", "ru"):
        soundfile.write(folder / f"thing{number}_desc_{code}.ogg", tone(0.3), SAMPLING_RATE)


def noun_line(word: str, gloss: str, kind: int = 5) -> str:
    return f'00001740 {kind:02d} n 01 {word} 0 001 ~ 00001930 n 0000 | {gloss}; "an example"  \n'


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    share = folder / "usr" / "share"
    for number in range(STAMPS):
        write_stamp(share / "tuxpaint/stamps/animals", number, caption=f"A thing {number // 2}.")
    (share / "tuxpaint/stamps/animals/drawing.txt").write_text("Only an SVG.")
    (share / "wordnet").mkdir()
    words = [noun_line(f"word{'abcdefghijkl'[n]}", f"the gloss of number {n}") for n in range(12)]
    refused = [noun_line("two_words", "short"), noun_line("Name", "short"), noun_line("wordy", "long " * 20)]
    twice = [noun_line("worda", "another sense")]
    (share / "wordnet/data.noun").write_text("".join(["  1 a licence\n", *words, *refused, *twice]))
    (share / "sonic-pi/samples").mkdir(parents=True)
    for name in ("drum_low", "elec_bell", "loop_long"):
        soundfile.write(share / f"sonic-pi/samples/{name}.flac", np.stack([tone(0.3, 44100)] * 2, axis=1), 44100)
    return folder


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """Splits that a few rows fill, and notes that no synthesizer plays."""
    notes = [(name, key, torch.from_numpy(tone(0.2))) for name in ("flute", "harp") for key in (*KEYS, NEW_KEY)]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NEW_NAMES", "SEEN_NAMES", "NEW_VOICES"):
            patch.setattr(showcase, name, 0.3)
        for name in ("NEW_GLOSSES", "SEEN_GLOSSES"):
            patch.setattr(showcase, name, 3)
        patch.setattr(showcase, "play_notes", lambda packages, keys: iter(notes))
        yield


@pytest.fixture(scope="module")
def written(packages: Path, tmp_path_factory: pytest.TempPathFactory, small: None) -> Path:
    folder = tmp_path_factory.mktemp("written") / "data"
    done = CliRunner().invoke(app, [str(folder), "--packages", str(packages)])
    assert done.exit_code == 0, done.output
    assert "names_train" in done.output and "most frequent answer" in done.output
    return folder


def rows_of(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def question(row: dict) -> str:
    return row["messages"][0]["content"][-1]["text"]


def medium(row: dict) -> str:
    return row["messages"][0]["content"][0]["path"]


def pairs(rows: list[dict]) -> set[tuple[str, str]]:
    """Thing and language of rows about stamps; the made-up captions have both."""
    return {(row["messages"][1]["content"].split(" (")[0], row["id"].rpartition("-")[2]) for row in rows}


def test_every_file_has_rows_that_training_accepts_and_media_that_are_there(written: Path) -> None:
    files = sorted(written.glob("*.jsonl"))
    assert len(files) == 14
    for file in files:
        rows = read_rows(file)
        assert rows and len({row.id for row in rows}) == len(rows)
        for row in rows_of(written, file.stem):
            assert len(row["messages"][0]["content"]) == 1 or (written / medium(row)).is_file()


def test_new_names_are_of_things_known_in_other_languages_and_in_no_training_row(written: Path) -> None:
    trained, new = (pairs(rows_of(written, name)) for name in ("names_train", "names_new"))
    assert new and not new & trained
    assert {thing for thing, _ in new} <= {thing for thing, _ in trained}
    assert not new & pairs(rows_of(written, "spoken_names_train")) | new & pairs(rows_of(written, "spoken_names_new"))


def test_seen_names_are_trained_and_shown_in_a_view_that_is_not(written: Path) -> None:
    train, seen = (rows_of(written, name) for name in ("names_train", "names_seen"))
    assert seen and pairs(seen) <= pairs(train)
    assert {medium(row) for row in seen}.isdisjoint(medium(row) for row in train)
    assert all(f"-{HELD_OUT_VIEW}.png" in medium(row) for row in seen)


def test_voices_are_held_out_together_and_say_what_pictures_taught(written: Path) -> None:
    train, new = (pairs(rows_of(written, f"spoken_names_{part}")) for part in ("train", "new"))
    assert train and new and not train & new
    assert new <= pairs(rows_of(written, "names_train"))


def test_seen_glosses_are_asked_in_the_other_phrasing_and_new_ones_are_not_trained(written: Path) -> None:
    train, seen, new = (rows_of(written, f"glosses_{part}") for part in ("train", "seen", "new"))
    answers = [{row["messages"][1]["content"] for row in rows} for rows in (train, seen, new)]
    assert answers[1] <= answers[0] and not answers[0] & answers[2]
    assert {question(row) for row in seen}.isdisjoint(question(row) for row in train)
    assert len(train) == 9 and len(seen) == len(new) == 3


def test_sounds_are_held_out_by_view_and_by_key(written: Path) -> None:
    for task, answers in (("one_shots", {"drum low", "elec bell"}), ("instruments", {"flute", "harp"})):
        train, seen = rows_of(written, f"{task}_train"), rows_of(written, f"{task}_seen")
        assert {row["messages"][1]["content"] for row in train} == answers
        assert {row["messages"][1]["content"] for row in seen} == answers
        assert {medium(row) for row in train}.isdisjoint(medium(row) for row in seen)


def test_the_same_packages_give_the_same_rows_and_media(
    written: Path, packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    again = tmp_path_factory.mktemp("again") / "data"
    assert CliRunner().invoke(app, [str(again), "--packages", str(packages)]).exit_code == 0
    names = [path.relative_to(written) for path in written.rglob("*") if path.is_file()]
    assert len(names) > 80
    for name in names:
        assert (written / name).read_bytes() == (again / name).read_bytes(), name


def test_stamps_without_a_picture_and_captions_that_are_too_long_are_left_out(packages: Path) -> None:
    stamps = list(read_stamps(packages, longest=60))
    assert len(stamps) == STAMPS
    assert all(set(stamp.captions) == {"en", *CODES} and set(stamp.voices) == {"fr", "ru"} for stamp in stamps)


def test_nouns_are_single_words_in_their_first_sense_with_a_short_gloss(packages: Path) -> None:
    nouns = list(read_nouns(packages, longest=50))
    assert [noun.word for noun in nouns] == [f"word{letter}" for letter in "abcdefghijkl"]
    assert nouns[0].gloss == "the gloss of number 0" and nouns[0].kind == "animal"


def test_views_of_a_picture_differ_and_letters_are_never_in_a_mirror(packages: Path) -> None:
    path = packages / "usr/share/tuxpaint/stamps/animals/thing3.png"
    views = defaultdict(set)
    for flip in (True, False):
        for view in range(6):
            picture = picture_view(path, view, name="thing3", flip=flip, side=32)
            assert picture.size == (32, 32) and picture.mode == "RGB"
            views[flip].add(picture.tobytes())
    assert len(views[True]) == len(views[False]) == 6
    assert views[True] != views[False]


def test_views_of_a_sound_differ_in_length_and_loudness() -> None:
    wave = torch.from_numpy(tone(0.5))
    views = [sound_view(wave, SAMPLING_RATE, view, name="drum") for view in range(4)]
    assert len({len(view) for view in views}) == 4
    assert len({round(float(view.abs().max()), 3) for view in views}) == 4
    assert len(sound_view(torch.zeros(20 * SAMPLING_RATE), SAMPLING_RATE, 0, name="long")) == 2 * SAMPLING_RATE


def test_a_package_that_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(MissingPackage, match="apt-get download wordnet-base && dpkg -x"):
        next(read_nouns(tmp_path, longest=10))
    done = CliRunner().invoke(app, [str(tmp_path / "out"), "--packages", str(tmp_path)])
    assert done.exit_code == 2 and "tuxpaint-stamps-default" in done.output
