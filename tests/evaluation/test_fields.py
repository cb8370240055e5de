"""Letters of options, media in several places, and rows of the Hub that hold their media."""

import json
from pathlib import Path

import pytest
from benchmark_damage import read_fixture
from fixture_files import picture_bytes, write_sound

from evaluation.errors import EvaluationError
from evaluation.tasks import BENCHMARKS, Sample
from evaluation.tasks.choices import (
    letter_at,
    letter_of,
    letter_of_text,
    options,
    options_in,
    options_in_columns,
    without_labels,
)
from evaluation.tasks.fields import find_tail, need_list, need_text, need_whole, optional_text, unpack_medium
from evaluation.tasks.sound import BENCHMARKS as SOUND
from evaluation.tasks.source import Source
from evaluation.tasks.video import BENCHMARKS as VIDEO


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source("any", tmp_path, "Get it.")


@pytest.mark.parametrize("written", ["B", " B ", "(B)", "B.", "B)", "B:"])
def test_a_letter_is_read_however_it_is_written(written: str) -> None:
    assert letter_of(written, ("red", "blue"), "row 1") == "B"


@pytest.mark.parametrize("written", ["C", "b", "AB", "", "()"])
def test_what_is_no_letter_of_an_option_is_refused(written: str) -> None:
    with pytest.raises(EvaluationError, match=r"row 1: the answer .* is none of the letters A, B"):
        letter_of(written, ("red", "blue"), "row 1")


def test_the_letter_of_a_text_is_that_of_the_first_equal_option() -> None:
    assert letter_of_text("the  Man ", ("a dog", "The man", "the man"), "row 1") == "B"


def test_the_letter_of_a_place_counts_from_0() -> None:
    assert letter_at(1, ("red", "blue"), "row 1") == "B"
    for place in (-1, 2):
        with pytest.raises(EvaluationError, match=f"row 1: the answer {place} is none of the places 0 to 1"):
            letter_at(place, ("red", "blue"), "row 1")


def test_options_are_written_with_their_letters() -> None:
    assert options(("red", "blue")) == "A. red\nB. blue"
    assert options(("{red}", "blue"), "({}) ") == "(A) {red}\n(B) blue"


def test_options_in_columns_are_filled_from_a_on() -> None:
    assert options_in_columns({"A": "red", "B": 0, "C": "nan", "D": None}, "row 1") == ("red", "0")
    for row in ({}, {"A": "red"}, {"A": "red", "B": "blue", "D": "green"}):
        with pytest.raises(EvaluationError, match="row 1: expected at least two options in the columns A to E"):
            options_in_columns(row, "row 1")


def test_labels_are_taken_off_and_must_be_in_order() -> None:
    assert without_labels(["A. red", "(B) blue", "C: A. B. Smith", "D)x"], "r") == ("red", "blue", "A. B. Smith", "x")
    with pytest.raises(EvaluationError, match=r"option 'C\. blue' should begin with 'B\.'"):
        without_labels(["A. red", "C. blue"], "row 1")


def test_options_are_found_in_a_question_only_if_they_are_lettered_from_a_on() -> None:
    assert options_in("Who?\nA. Ann\n  B) Bob \n(C) Eve") == ("Ann", "Bob", "Eve")
    assert options_in("Who?\nB. Bob\nC. Eve") == ()
    assert options_in("A. Ann was there. Who else?") == ()


def test_a_path_of_another_machine_is_found_by_its_longest_end(source: Source) -> None:
    write_sound(source.root / "1.wav")
    write_sound(source.root / "exam/1.wav")
    assert find_tail(source, "row 1", "/data/lab/exam/1.wav") == str((source.root / "exam/1.wav").resolve())
    assert find_tail(source, "row 1", "../other/1.wav") == str((source.root / "1.wav").resolve())
    with pytest.raises(EvaluationError, match=r"row 1: .*data/lab/2\.wav is missing"):
        find_tail(source, "row 1", "/data/lab/2.wav")


def test_media_of_rows_are_written_once_and_named_by_row_or_content(source: Source) -> None:
    clip = {"bytes": b"sound", "path": "x/a.mp3"}
    assert unpack_medium(source, {"audio": clip}, "r", "audio", name="7", ending=".wav").endswith("unpacked/7.mp3")
    row = {"audio": {**clip, "path": None}}
    first, again = (unpack_medium(source, row, "r", "audio", ending=".wav") for _ in range(2))
    assert first == again and first.endswith(".wav") and Path(first).read_bytes() == b"sound"


@pytest.mark.parametrize(("form", "ending"), [("PNG", ".png"), ("JPEG", ".jpg"), ("GIF", ".gif"), ("WEBP", ".webp")])
def test_pictures_are_named_by_what_they_are_so_that_equal_ones_are_one_file(
    form: str, ending: str, source: Source
) -> None:
    content = picture_bytes("red", form)
    paths = {unpack_medium(source, {"i": {"bytes": content, "path": name}}, "r", "i") for name in ("a.tif", None)}
    assert len(paths) == 1 and paths.pop().endswith(ending)


def test_a_sound_that_begins_like_a_webp_is_none(source: Source) -> None:
    write_sound(source.root / "a.wav")
    row = {"audio": {"bytes": (source.root / "a.wav").read_bytes()}}
    assert unpack_medium(source, row, "r", "audio", ending=".wav").endswith(".wav")


def test_media_without_bytes_are_read_where_their_path_says(source: Source) -> None:
    write_sound(source.root / "a.wav")
    row = {"audio": {"bytes": None, "path": str(source.root / "a.wav")}}
    assert unpack_medium(source, row, "r", "audio") == str((source.root / "a.wav").resolve())
    with pytest.raises(EvaluationError, match=r"row 1: .*b\.wav is missing"):
        unpack_medium(source, {"audio": {"path": "b.wav"}}, "row 1", "audio")


@pytest.mark.parametrize("value", [[0.1, 0.2], {"array": [0.1], "sampling_rate": 16000}, {"bytes": None}, "a"])
def test_media_that_were_decoded_already_are_refused_with_the_cure(value: object, source: Source) -> None:
    with pytest.raises(EvaluationError, match=r"row 1: 'audio' must be a medium .*Audio\(decode=False\)"):
        unpack_medium(source, {"audio": value}, "row 1", "audio")


def test_a_medium_that_is_not_there_is_named_with_its_column(source: Source) -> None:
    with pytest.raises(EvaluationError, match=r"row 1: 'image_2' is missing; the row has image_1"):
        unpack_medium(source, {"image_1": None}, "row 1", "image_2")


@pytest.mark.parametrize(("value", "text"), [(" a b ", "a b"), (7, "7"), (0.5, "0.5")])
def test_texts_have_no_space_around_them_and_numbers_are_written_out(value: object, text: str) -> None:
    assert need_text({"a": value}, "row 1", "a") == text


@pytest.mark.parametrize("value", [True, {"text": "x"}, ["x"], float("nan"), float("inf"), b"x"])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(EvaluationError, match="row 1: 'a' must be a text, found"):
        need_text({"a": value}, "row 1", "a")


@pytest.mark.parametrize(("value", "text"), [(None, ""), ("", ""), ("nan", ""), (float("nan"), ""), (0, "0")])
def test_an_optional_text_may_be_missing(value: object, text: str) -> None:
    assert optional_text({"a": value}, "a") == text


@pytest.mark.parametrize("value", [["a", 2], ("a", "2"), '["a", "2"]', "['a', 2]"])
def test_a_list_may_be_written_as_text(value: object) -> None:
    assert need_list({"a": value}, "row 1", "a", at_least=2) == ("a", "2")


@pytest.mark.parametrize("value", ["ab", "[", "7", {"a": 1}, ["a"], []])
def test_what_is_no_list_or_too_short_is_refused(value: object) -> None:
    with pytest.raises(EvaluationError, match=r"row 1: 'a' must be a list of at least 2 text\(s\), found"):
        need_list({"a": value}, "row 1", "a", at_least=2)


def test_empty_texts_of_a_list_are_refused_unless_they_may_be_empty() -> None:
    with pytest.raises(EvaluationError, match="row 1: 'a' number 2 is empty"):
        need_list({"a": ["x", ""]}, "row 1", "a")
    assert need_list({"a": ["x", ""]}, "row 1", "a", may_be_empty=True) == ("x", "")


@pytest.mark.parametrize("value", [42, "42", 42.0])
def test_a_whole_number_may_be_written_as_text(value: object) -> None:
    assert need_whole({"a": value}, "row 1", "a") == 42


@pytest.mark.parametrize("value", [4.2, "x", True, [4], float("nan"), float("inf")])
def test_what_is_no_whole_number_is_refused_and_not_rounded(value: object) -> None:
    with pytest.raises(EvaluationError, match="row 1: 'a' must be a whole number, found"):
        need_whole({"a": value}, "row 1", "a")


def from_hub(name: str, root: Path, row: dict[str, object]) -> tuple[Sample, Sample]:
    """A row of the Hub, and the first of the files of the fixture."""
    benchmark = BENCHMARKS[name]
    assert benchmark.hub is not None
    first = read_fixture(name, root)[0]
    return benchmark.hub.row(row, "hub[0]", benchmark.source(root)), first


HUB_ROWS: dict[str, dict[str, object]] = {
    "librispeech_test_clean": {"id": "121-121726-0000", "text": "ALSO A MAN", "speaker_id": 121},
    "librispeech_test_other": {"id": "121-121726-0000", "text": "ALSO A MAN", "speaker_id": 121},
    "mmau": {
        "id": "3fe6",
        "question": "Who speaks?",
        "choices": json.dumps(["Man", "Woman", "Child", "Robot"]),
        "answer": "Man",
        "task": "speech",
        "difficulty": "easy",
    },
    "activitynet_qa": {
        "video_name": "1QIUV7WYKXg",
        "question_id": "v_1QIUV7WYKXg_3",
        "question": "is the athlete wearing trousers",
        "answer": "no",
        "type": "3",
    },
    "videomme": {
        "videoID": "fFjv93ACGo8",
        "question_id": "001-1",
        "duration": "short",
        "domain": "Knowledge",
        "question": "What is shown?",
        "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. The three kinds are equal."],
        "answer": "C",
    },
    "omnibench": {
        "index": 0,
        "task type": "Action and Activity",
        "audio type": "speech",
        "question": "What are they doing?",
        "answer": "Reading.",
        "options": ["Eating.", "Sleeping.", "Reading.", "Running."],
        "image": {"bytes": b"picture", "path": "a.png"},
    },
    "clothoaqa": {"question": "Is it raining?", "answer": "Yes"},
}


@pytest.mark.parametrize("name", sorted(HUB_ROWS))
def test_a_row_of_the_hub_is_asked_and_scored_like_that_of_the_files(name: str, tmp_path: Path) -> None:
    sound = {"bytes": b"a sound", "path": None}
    hub, file = from_hub(name, tmp_path, {"audio": sound, **HUB_ROWS[name]})
    assert (hub.question, hub.reference, hub.choices, hub.categories) == (
        *(file.question, file.reference, file.choices, file.categories),
    )
    assert [item["type"] for item in hub.media] == [item["type"] for item in file.media]
    assert hub.id == file.id or name == "clothoaqa"  # whose copy on the Hub names no clip


def test_options_of_the_hub_that_are_no_list_are_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"hub\[0\]: 'choices' must be a list"):
        from_hub("mmau", tmp_path, {**HUB_ROWS["mmau"], "choices": "[", "audio": {"bytes": b"x", "path": None}})


def test_every_benchmark_with_rows_on_the_hub_is_tested() -> None:
    assert {benchmark.name for benchmark in (*SOUND, *VIDEO) if benchmark.hub} == set(HUB_ROWS)
