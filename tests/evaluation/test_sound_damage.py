"""What is said of damaged benchmarks of speech, sound and video: what was wrong, in which row, and the cure."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_damage import Rows, complaint, damaged, write
from fixture_files import Row, write_json, write_sound

from evaluation.tasks import BENCHMARKS
from evaluation.tasks.sound import BENCHMARKS as SOUND
from evaluation.tasks.video import BENCHMARKS as VIDEO

NAMES = sorted(benchmark.name for benchmark in (*SOUND, *VIDEO))
OMNIBENCH = "dataset/batch-5_1142_20240817.jsonl"
VIDEOMME = "videomme/test-00000-of-00001.parquet"
TRANSCRIPT = "LibriSpeech/test-clean/61/70968/61-70968.trans.txt"
COLUMNS = {
    ("mmbench_audio", "mmbench_audio.json"): ("image", "voice", "answer"),
    ("race_audio", "race_audio.json"): ("voice", "options", "gt"),
    ("ehsl_long", "high_exam.json"): ("voice",),
    ("clothoaqa", "clotho_aqa_test.csv"): ("file_name", "QuestionText", "answer"),
    ("clotho_v1", "clotho_captions_evaluation.csv"): ("file_name", "caption_1", "caption_5"),
    ("audiocaps", "test.csv"): ("audiocap_id", "youtube_id", "start_time", "caption"),
    ("mmau", "mmau-test-mini.json"): ("id", "audio_id", "question", "choices", "answer", "task", "difficulty"),
    ("msvd_qa", "test_qa.json"): ("id", "video_id", "question", "answer"),
    ("activitynet_qa", "test_q.json"): ("question_id", "video_name", "question"),
    ("activitynet_qa", "test_a.json"): ("question_id", "answer", "type"),
    ("mvbench", "json/action_count.json"): ("video", "question", "candidates", "answer"),
    ("videomme", VIDEOMME): ("question_id", "videoID", "question", "options", "answer", "duration", "domain"),
    ("omnibench", OMNIBENCH): (
        *("index", "question", "options", "answer", "task type", "audio type", "audio_path", "image_path"),
    ),
}
CASES = [(name, file, column) for (name, file), columns in COLUMNS.items() for column in columns]
CHOICES = {
    "mmbench_audio": "mmbench_audio.json",
    "race_audio": "race_audio.json",
    "ehsl_short": "high_exam.json",
    "mmau": "mmau-test-mini.json",
    "mvbench": "json/state_change.json",
    "videomme": VIDEOMME,
    "omnibench": OMNIBENCH,
}
"""Benchmark of multiple choice -> file with the right answers."""


@pytest.mark.parametrize("name", NAMES)
def test_each_missing_file_is_named_with_the_row_that_needs_it(name: str, tmp_path: Path) -> None:
    write(name, tmp_path)
    source = BENCHMARKS[name].source(tmp_path)
    samples = BENCHMARKS[name].samples(source)
    for path in {Path(item["path"]) for sample in samples for item in sample.media}:
        content = path.read_bytes()
        path.unlink()
        said = complaint(name, tmp_path)
        assert "is missing" in said and BENCHMARKS[name].origin in said
        assert said.startswith(tuple(sample.where for sample in samples))
        path.write_bytes(content)
    for file in source.read:
        if name.startswith("librispeech"):  # chapters are those that are there
            continue
        content = (tmp_path / name / file).read_bytes()
        (tmp_path / name / file).unlink()
        assert Path(file).name in complaint(name, tmp_path)
        (tmp_path / name / file).write_bytes(content)


@pytest.mark.parametrize(("name", "file", "column"), CASES)
def test_a_missing_column_is_named_with_its_row(name: str, file: str, column: str, tmp_path: Path) -> None:
    said = damaged(name, tmp_path, Rows(file), lambda rows: [row.pop(column) for row in rows])
    assert file in said
    assert f"'{column}'" in said or (column == "options" and "no options found" in said)


@pytest.mark.parametrize(("name", "file", "column"), CASES)
def test_an_empty_value_is_named_with_its_row(name: str, file: str, column: str, tmp_path: Path) -> None:
    def empty(rows: list[Row]) -> None:
        rows[-1][column] = [] if isinstance(rows[-1][column], list) else ""

    said = damaged(name, tmp_path, Rows(file), empty)
    assert file in said
    assert column in said or "options" in said or "is missing" in said


@pytest.mark.parametrize(("name", "file"), [("mmau", "mmau-test-mini.json"), ("msvd_qa", "test_qa.json")])
@pytest.mark.parametrize("value", [True, {"text": "x"}, [1]])
def test_a_question_that_is_no_text_is_refused(name: str, file: str, value: Any, tmp_path: Path) -> None:
    said = damaged(name, tmp_path, Rows(file), lambda rows: rows[1].update(question=value))
    assert f"{file}[1]: 'question' must be a text" in said


@pytest.mark.parametrize("name", sorted(CHOICES))
@pytest.mark.parametrize("answer", ["Z", "a purple cow"])
def test_an_answer_that_is_no_option_is_named_with_the_options(name: str, answer: str, tmp_path: Path) -> None:
    def spoil(rows: list[Row]) -> None:
        rows[0]["gt" if "gt" in rows[0] else "answer"] = answer

    said = damaged(name, tmp_path, Rows(CHOICES[name]), spoil)
    assert f"the answer {answer!r} is none of" in said
    assert CHOICES[name] in said


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mmbench_audio", "mmbench_audio.json"),
        ("race_audio", "race_audio.json"),
        ("clotho_v2", "clotho_captions_evaluation.csv"),
        ("audiocaps", "test.csv"),
        ("mmau", "mmau-test-mini.json"),
        ("msvd_qa", "test_qa.json"),
        ("activitynet_qa", "test_q.json"),
        ("activitynet_qa", "test_a.json"),
        ("videomme", VIDEOMME),
        ("omnibench", OMNIBENCH),
    ],
)
def test_an_id_that_appears_twice_is_named(name: str, file: str, tmp_path: Path) -> None:
    said = damaged(name, tmp_path, Rows(file), lambda rows: rows.append(rows[0]))
    assert "appears twice, before at" in said and file in said


def test_a_line_of_a_transcript_without_words_or_number_is_named(tmp_path: Path) -> None:
    name = "librispeech_test_clean"
    write(name, tmp_path)
    for line in ("61-70968-0001", "61_70968 GO ON", "61-70968-0001  "):
        (tmp_path / name / TRANSCRIPT).write_text(f"61-70968-0000 HE BEGAN\n{line}\n")
        assert f"{TRANSCRIPT}:2: expected SPEAKER-CHAPTER-NUMBER" in complaint(name, tmp_path)


def test_a_line_of_a_transcript_that_appears_twice_is_named(tmp_path: Path) -> None:
    name = "librispeech_test_clean"
    write(name, tmp_path)
    with (tmp_path / name / TRANSCRIPT).open("a") as file:
        file.write("61-70968-0000 HE BEGAN\n")
    assert f"{TRANSCRIPT}:3: id '61-70968-0000' appears twice" in complaint(name, tmp_path)


def test_a_question_with_fewer_than_three_annotators_is_named(tmp_path: Path) -> None:
    said = damaged("clothoaqa", tmp_path, Rows("clotho_aqa_test.csv"), lambda rows: rows.pop())
    assert "clotho_aqa_test.csv:8: expected 3 answers to 'What rings?' about bell.wav" in said and "found 2" in said


def test_a_clip_with_fewer_than_five_captions_is_named(tmp_path: Path) -> None:
    said = damaged("audiocaps", tmp_path, Rows("test.csv"), lambda rows: rows.pop())
    assert "expected 5 captions of clip -6BJ455B1aA_0" in said and "found 4" in said


def test_an_answer_without_a_question_and_a_question_without_an_answer_are_named(tmp_path: Path) -> None:
    said = damaged("activitynet_qa", tmp_path / "a", Rows("test_q.json"), lambda rows: rows.pop())
    assert "test_a.json[0]: test_q.json has no question_id 'v_-9eniCub7u_2'" in said
    said = damaged("activitynet_qa", tmp_path / "b", Rows("test_a.json"), lambda rows: rows.pop())
    assert "test_q.json[0]: test_a.json has no question_id 'v_1QIUV7WYKXg_3'" in said


def test_an_unknown_type_of_activitynet_is_named(tmp_path: Path) -> None:
    said = damaged("activitynet_qa", tmp_path, Rows("test_a.json"), lambda rows: rows[0].update(type=9))
    assert "unknown type '9'" in said


def test_a_mapping_that_lacks_or_repeats_a_clip_is_named(tmp_path: Path) -> None:
    write("msvd_qa", tmp_path)
    mapping = tmp_path / "msvd_qa/youtube_mapping.txt"
    mapping.write_text("mv89psg6zh4_33_46 vid9\n")
    assert "test_qa.json[0]: youtube_mapping.txt has no vid1301" in complaint("msvd_qa", tmp_path)
    mapping.write_text("mv89psg6zh4_33_46 vid9\nother vid9\n")
    assert "youtube_mapping.txt:2: vid9 appears twice" in complaint("msvd_qa", tmp_path)
    mapping.write_text("mv89psg6zh4_33_46\n")
    assert "youtube_mapping.txt:1: expected the name of a file" in complaint("msvd_qa", tmp_path)


@pytest.mark.parametrize(("name", "file"), [("videomme", VIDEOMME)])
def test_options_out_of_order_are_named(name: str, file: str, tmp_path: Path) -> None:
    said = damaged(name, tmp_path, Rows(file), lambda rows: rows[0]["options"].reverse())
    assert "option 'D. The three kinds are equal.' should begin with 'A.'" in said


def spoil_worldsense(spoil: Callable[[Row], object], root: Path) -> str:
    """What is said after the first video of WorldSense was changed."""
    write("worldsense", root)
    path = root / "worldsense/worldsense_qa.json"
    content = json.loads(path.read_text())
    spoil(content["abcd"])
    write_json(path, content)
    return complaint("worldsense", root)


@pytest.mark.parametrize("column", ["question", "answer", "task_type", "candidates"])
def test_a_question_of_worldsense_that_lacks_something_is_named(column: str, tmp_path: Path) -> None:
    said = spoil_worldsense(lambda video: video["task1"].pop(column), tmp_path)
    assert f"worldsense_qa.json: 'abcd', 'task1': '{column}' is missing" in said


def test_a_video_of_worldsense_without_questions_domain_or_letter_is_named(tmp_path: Path) -> None:
    said = spoil_worldsense(lambda video: [video.pop("task0"), video.pop("task1")], tmp_path / "a")
    assert "worldsense_qa.json: 'abcd': no question" in said
    assert "'abcd': 'domain' is missing" in spoil_worldsense(lambda video: video.pop("domain"), tmp_path / "b")
    said = spoil_worldsense(lambda video: video["task0"].update(answer="E"), tmp_path / "c")
    assert "the answer 'E' is none of the letters A, B, C, D" in said
    said = spoil_worldsense(lambda video: video.update(task0="?"), tmp_path / "d")
    assert "'task0': expected an object, found str" in said


def test_worldsense_that_is_a_list_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "worldsense/worldsense_qa.json", [])
    assert "expected an object of rows by id, found list" in complaint("worldsense", tmp_path)


def test_a_level_or_length_that_cannot_be_told_is_asked_for_not_guessed(tmp_path: Path) -> None:
    def rename(folder: str, voice: str) -> Callable[[list[Row]], None]:
        write_sound(tmp_path / folder / voice)
        return lambda rows: rows[0].update(voice=[voice])

    said = damaged("race_audio", tmp_path, Rows("race_audio.json"), rename("race_audio", "audio/1.wav"))
    assert "race_audio.json[0]" in said and "Add 'category': 'middle' or 'high'" in said
    said = damaged("ehsl_long", tmp_path, Rows("high_exam.json"), rename("ehsl_long", "audio/first.wav"))
    assert "high_exam.json[0]" in said and "Add 'category': 'long' or 'short'" in said


@pytest.mark.parametrize("value", [[], [""], [3], 7])
def test_recordings_that_are_no_paths_are_refused(value: Any, tmp_path: Path) -> None:
    said = damaged("race_audio", tmp_path, Rows("race_audio.json"), lambda rows: rows[0].update(voice=value))
    assert "race_audio.json[0]: 'voice' must be the path of a recording" in said
