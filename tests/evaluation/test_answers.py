"""Distinct answers, the confusion table, and worst rows across the wanted answers."""

from typing import Any

import pytest

from evaluation.loading import LoadedTask
from evaluation.metrics import METRICS
from evaluation.report.answers import answer_cells, confusion_cells, distinct_answers
from evaluation.report.html import worst_answers
from evaluation.scores.answers import MOST_ANSWERS, MOST_CLASSES, confusion, count_answers
from evaluation.tasks import Sample


def task_of(metric: str, references: list[str], **fields: Any) -> LoadedTask:
    samples = [Sample(str(n), (), text, (text,), str(n), f"rows:{n}", **fields) for n, text in enumerate(references)]
    nothing: Any = {}
    return LoadedTask("t", nothing, metric, METRICS[metric], samples, [], "t.jsonl", "", None, {})


def reported(given: list[str | None], wanted: list[str]) -> dict[str, Any]:
    return {"n": len(wanted), "answers": count_answers(given, wanted)}


def test_answers_are_counted_as_the_metric_compares_them() -> None:
    task = task_of("exact_match", ["cat", "cat", "dog", "dog"])
    found = count_answers(*task.read(["The cat.", "CAT", "<think>dog</think> cat", " "]))
    assert (found["distinct_given"], found["distinct_wanted"], found["unparsed"]) == (1, 2, 1)
    assert found["counts"] == [
        {"answer": "cat", "given": 3, "wanted": 2},
        {"answer": "dog", "given": 0, "wanted": 2},
    ]
    yes_no = task_of("yes_no", ["Yes", "no"])
    assert yes_no.read(["There is not.", "who knows"]) == (["no", None], ["yes", "no"])
    words = task_of("multiple_choice", ["apple", "B"], choices=("apple", "pear"))
    assert words.read(["The Apple", "pear"]) == (["apple", "B"], ["apple", "B"])


def test_answers_that_are_not_listed_are_counted() -> None:
    given: list[str | None] = [f"g{n}" for n in range(MOST_ANSWERS + 7)]
    found = count_answers(given, ["x"] * len(given))
    assert len(found["counts"]) == MOST_ANSWERS
    listed = {key: sum(entry[key] for entry in found["counts"]) for key in ("given", "wanted")}
    assert found["rest"] == {
        "answers": 8,
        "given": len(given) - listed["given"],
        "wanted": len(given) - listed["wanted"],
    }
    cells = answer_cells({"n": len(given), "answers": found}, most=3)
    assert [line[0] for line in cells] == ["answer", "g0", "g1", "g10", f"({MOST_ANSWERS + 7 + 1 - 3} further)"]
    assert sum(int(line[1]) for line in cells[1:]) == len(given) == sum(int(line[3]) for line in cells[1:])


def test_each_wanted_answer_is_set_against_what_was_given() -> None:
    found = confusion(["a", "b", None, "a", "plum", "b"], ["a", "a", "a", "b", "b", "b"])
    assert found is not None and found["classes"] == ["a", "b"]
    assert found["counts"] == [[1, 1], [1, 1]]
    assert (found["no_class"], found["unparsed"], found["other_class"]) == ([0, 1], [1, 0], [0, 0])


def test_of_many_classes_those_wanted_most_are_shown_and_the_rest_counted() -> None:
    wanted = [f"c{n:02}" for n in range(MOST_CLASSES + 5) for _ in range(2)] + ["c24"]
    found = confusion(["c23"] * len(wanted), wanted)
    assert found is not None and found["classes"][:2] == ["c24", "c00"] and len(found["classes"]) == MOST_CLASSES
    assert found["rest"] == {"classes": 5, "rows": 10}
    rows = [sum(line) for line in found["counts"]]
    assert [shown + other for shown, other in zip(rows, found["other_class"], strict=True)] == [3] + [2] * 19
    laid_out = confusion_cells({"answers": {"confusion": found}})
    assert laid_out is not None and laid_out["titles"][-1] == "(class not listed)"
    assert laid_out["lines"][0]["name"] == "c24 (3)" and laid_out["lines"][0]["cells"][-1]["share"] == 100
    assert laid_out["rest"] == "5 further classes, wanted by 10 rows, have no line."


@pytest.mark.parametrize("wanted", [["a"] * 6, ["a", "b", "c"], list("abcde")])
def test_answers_that_are_no_closed_set_have_no_table(wanted: list[str]) -> None:
    assert confusion(["a"] * len(wanted), wanted) is None


def test_one_answer_to_everything_is_said_in_a_line() -> None:
    line = distinct_answers(reported(["red", "red", "red", None], ["red", "blue", "green", "red"]))
    assert line == ("1 distinct answer given, 3 wanted; most often 'red': 75% given, 50% wanted; 1 of 4 rows unparsed")


def test_worst_rows_are_drawn_across_the_wanted_answers() -> None:
    wanted = ["cat"] * 5 + ["dog"] * 3 + ["bird"] + ["cow"]
    predictions = ["cow"] * 10
    task = task_of("exact_match", wanted)
    worst = worst_answers(task, predictions, task.score(predictions), most=5)
    assert [answered.sample.reference for answered in worst] == ["cat", "dog", "bird", "cat", "dog"]
    assert [answered.sample.id for answered in worst] == ["0", "5", "8", "1", "6"]


def test_of_rows_with_one_wanted_answer_the_worst_come_first() -> None:
    task = task_of("wer", ["a b c d", "a b c d", "x y"])
    predictions = ["a b c z", "q r s t", "x z"]
    worst = worst_answers(task, predictions, task.score(predictions), most=9)
    assert [answered.sample.id for answered in worst] == ["1", "2", "0"]
