"""Letters of options, media in several places, and rows of the Hub that hold their media."""

import json
from pathlib import Path

import pytest
from sound_fixtures import FIXTURES, write_sound

from evaluation.errors import EvaluationError
from evaluation.tasks import Benchmark, Sample
from evaluation.tasks.choices import letter_of, letter_of_text, options_in, without_labels
from evaluation.tasks.fields import find_tail, unpack_medium
from evaluation.tasks.sound import BENCHMARKS as SOUND
from evaluation.tasks.source import Source
from evaluation.tasks.video import BENCHMARKS as VIDEO

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in (*SOUND, *VIDEO)}


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
    assert unpack_medium(source, "r", clip, "7", ending=".wav").endswith("unpacked/7.mp3")
    first, again = (unpack_medium(source, "r", {**clip, "path": None}, None, ending=".wav") for _ in range(2))
    assert first == again and first.endswith(".wav") and Path(first).read_bytes() == b"sound"


@pytest.mark.parametrize("value", [None, [0.1, 0.2], {"array": [0.1], "sampling_rate": 16000}, {"bytes": None}])
def test_media_that_were_decoded_already_are_refused_with_the_cure(value: object, source: Source) -> None:
    with pytest.raises(EvaluationError, match=r"row 1: .*Audio\(decode=False\)"):
        unpack_medium(source, "row 1", value, "7", ending=".wav")


def from_hub(name: str, root: Path, row: dict[str, object]) -> tuple[Sample, Sample]:
    """A row of the Hub, and the first of the files of the fixture."""
    benchmark = BENCHMARKS[name]
    assert benchmark.hub is not None
    FIXTURES[name](root / name)
    source = benchmark.source(root)
    return benchmark.hub.row(row, "hub[0]", source), benchmark.samples(source)[0]


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


def test_options_of_the_hub_that_are_no_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"hub\[0\]: 'choices' is not valid JSON"):
        from_hub("mmau", tmp_path, {**HUB_ROWS["mmau"], "choices": "[", "audio": {"bytes": b"x", "path": None}})


def test_every_benchmark_with_rows_on_the_hub_is_tested() -> None:
    assert {name for name, benchmark in BENCHMARKS.items() if benchmark.hub} == set(HUB_ROWS)
