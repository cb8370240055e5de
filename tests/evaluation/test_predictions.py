"""Files of predictions: of several processes, made elsewhere, and what is wrong with them."""

import json

import pytest

from evaluation import predictions
from evaluation.errors import EvaluationError
from evaluation.predictions import (
    append_predictions,
    close_predictions,
    match_predictions,
    open_predictions,
    read_predictions,
    resume_file,
)
from evaluation.tasks import Sample, ask

HEADER = {"model": "abc"}
ROWS = [Sample(str(number), ask("?"), "yes", ("yes",), "") for number in range(4)]


def answer(path, *numbers):
    append_predictions(path, ({"id": str(number), "prediction": f"answer {number}"} for number in numbers))


def test_files_of_several_processes_become_one_in_the_order_of_the_rows(tmp_path, monkeypatch):
    path = tmp_path / "task.jsonl"
    for process, numbers in ((1, (3, 0)), (0, (2, 1))):
        monkeypatch.setattr(predictions, "rank", lambda process=process: process)
        open_predictions(path, HEADER)
        answer(path, *numbers)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["task.jsonl", "task.part-1.jsonl"]
    assert set(open_predictions(path, HEADER)) == {"0", "1", "2", "3"}, "one process goes on where two were stopped"
    assert close_predictions(path, HEADER, ROWS) == [f"answer {number}" for number in range(4)]
    assert [file.name for file in tmp_path.iterdir()] == ["task.jsonl"]
    ids = [json.loads(line)["id"] for line in path.read_text().splitlines()[1:]]
    assert ids == ["0", "1", "2", "3"]


def test_overwriting_removes_what_all_processes_wrote(tmp_path, monkeypatch):
    path = tmp_path / "task.jsonl"
    monkeypatch.setattr(predictions, "rank", lambda: 1)
    open_predictions(path, HEADER)
    answer(path, 0)
    monkeypatch.setattr(predictions, "rank", lambda: 0)
    assert open_predictions(path, {"model": "xyz"}, overwrite=True) == {}
    assert [file.name for file in tmp_path.iterdir()] == ["task.jsonl"]


def write_given(tmp_path, *lines):
    path = tmp_path / "given.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_given_predictions_are_matched_by_id(tmp_path):
    lines = [{"id": number, "prediction": f"p{number}"} for number in (2, 0, 3, 1)]
    path = write_given(tmp_path, {"header": {"model": "elsewhere"}}, *lines)
    assert match_predictions(path, ROWS) == ["p0", "p1", "p2", "p3"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"id": 0, "prediction": "a"}], r"no prediction for row '1' and 2 more\. The task has 4 rows"),
        (
            [{"id": number, "prediction": "a"} for number in range(5)],
            "a prediction for row '4', which the task does not have",
        ),
        ([{"id": 0, "prediction": "a"}] * 2, r":2: row '0' is answered a second time"),
        ([{"id": 0, "answer": "a"}], r":1: expected 'id' and 'prediction', a text; found id, answer"),
        ([{"id": 0, "prediction": None}], ":1: expected 'id' and 'prediction'"),
        (["[1]\n"], ":1: expected an object"),
        (['{"id": 0\n'], ":1: damaged"),
    ],
)
def test_given_predictions_that_do_not_fit_are_refused(tmp_path, lines, message):
    with pytest.raises(EvaluationError, match=message):
        match_predictions(write_given(tmp_path, *lines), ROWS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(EvaluationError, match=r"nowhere\.jsonl: predictions cannot be read \(No such file"):
        read_predictions(tmp_path / "nowhere.jsonl")


def test_answers_keep_separators_that_json_does_not_escape(tmp_path):
    path, said = tmp_path / "task.jsonl", "one\u2028two\u2029three\x85four\x0bfive"
    open_predictions(path, HEADER)
    append_predictions(path, ({"id": row.id, "prediction": said} for row in ROWS))
    assert set(open_predictions(path, HEADER).values()) == {said}
    assert close_predictions(path, HEADER, ROWS) == match_predictions(path, ROWS) == [said] * 4


def test_given_answers_to_other_data_are_refused(tmp_path):
    lines = [{"id": number, "prediction": "p"} for number in range(4)]
    path = write_given(tmp_path, {"header": {"data": "a" * 64}}, *lines)
    assert match_predictions(path, ROWS, "a" * 64) == match_predictions(path, ROWS) == ["p"] * 4
    with pytest.raises(
        EvaluationError, match=r"answers other data than those of the task \(SHA-256 a{12} then, b{12}"
    ):
        match_predictions(path, ROWS, "b" * 64)


def test_given_answers_that_are_no_utf_8_are_named(tmp_path):
    path = tmp_path / "given.jsonl"
    path.write_bytes('{"id": "0", "prediction": "caf\u00e9"}'.encode("latin-1"))
    with pytest.raises(EvaluationError, match=r"given\.jsonl: predictions cannot be read: not UTF-8"):
        read_predictions(path)


def test_a_line_that_was_cut_off_is_removed_and_another_header_says_the_cure(tmp_path):
    path = tmp_path / "task.jsonl"
    resume_file(path, HEADER)
    answer(path, 0)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": "1", "pred')
    assert resume_file(path, HEADER) == {"0": "answer 0"} and path.read_bytes() == whole
    with pytest.raises(EvaluationError, match=r"answers of another run \(different: model\)\. Remove it\."):
        resume_file(path, {"model": "xyz"}, cure="Remove it.")
    assert path.read_bytes() == whole
