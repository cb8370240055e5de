"""Rows of the Hub are read by the reader of the files."""

import json
from pathlib import Path

import pytest
from benchmark_damage import read_fixture, read_hub_row

from evaluation.errors import EvaluationError
from evaluation.tasks.sound import BENCHMARKS as SOUND
from evaluation.tasks.video import BENCHMARKS as VIDEO

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
    file = read_fixture(name, tmp_path)[0]
    hub = read_hub_row(name, {"audio": sound, **HUB_ROWS[name]}, tmp_path)
    assert (hub.question, hub.reference, hub.choices, hub.categories) == (
        *(file.question, file.reference, file.choices, file.categories),
    )
    assert [item["type"] for item in hub.media] == [item["type"] for item in file.media]
    assert hub.id == file.id or name == "clothoaqa"  # whose copy on the Hub names no clip


def test_options_of_the_hub_that_are_no_list_are_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"hub\[0\]: 'choices' must be a list"):
        row = {**HUB_ROWS["mmau"], "choices": "[", "audio": {"bytes": b"x", "path": None}}
        read_hub_row("mmau", row, tmp_path, where="hub[0]")


def test_every_benchmark_with_rows_on_the_hub_is_tested() -> None:
    assert {benchmark.name for benchmark in (*SOUND, *VIDEO) if benchmark.hub} == set(HUB_ROWS)
