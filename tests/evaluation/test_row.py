"""Rows of published files: what the types of their values take, and how what does not fit is named."""

import pytest

from evaluation.errors import EvaluationError
from evaluation.tasks.row import BlankOptions, Cell, Options, Row, Text, Whole, join, unique


class One(Row):
    a: Text


class Any(Row):
    a: Cell = ""


class Two(Row):
    a: Options


class Blank(Row):
    a: BlankOptions


class Number(Row):
    a: Whole


class Inner(Row):
    flag: bool
    inner: One


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    with pytest.raises(EvaluationError, match=r"^row 1: 'a' is missing; the row has b, c$"):
        One.parse({"b": 1, "c": None}, "row 1")
    with pytest.raises(EvaluationError, match=r"^row 1: 'inner': 'a' is missing; the row has b$"):
        Inner.parse({"flag": True, "inner": {"b": 1}}, "row 1")
    with pytest.raises(EvaluationError, match=r"^row 1: 'b' is missing; the row has a"):
        One.parse({"a": 1}, "row 1").need("b")


@pytest.mark.parametrize("value", [1, "true", 0.0])
def test_what_is_no_flag_is_not_made_one(value: object) -> None:
    with pytest.raises(EvaluationError, match=r"^row 1: 'flag': Input should be a valid boolean, found"):
        Inner.parse({"flag": value, "inner": {"a": 1}}, "row 1")


def test_a_row_that_is_no_object_is_refused() -> None:
    with pytest.raises(EvaluationError, match=r"^row 1: expected an object, found list"):
        One.parse([], "row 1")


def test_rows_of_two_files_are_joined_by_a_key_that_each_has_once() -> None:
    rows = [Number.parse({"a": number, "b": number}, f"first {number}") for number in (2, 1)]
    others = [Number.parse({"a": number, "b": 0, "c": number}, f"second {number}") for number in (1, 2)]
    files = ("q.json", "a.json")
    joined = list(join(rows, others, Number, key="a", files=files))
    assert [(row.where, row.values["b"], row.values["c"]) for row in joined] == [
        ("first 2 with second 2", 2, 2),
        ("first 1 with second 1", 1, 1),
    ]
    for first, second, said in ((rows[:1], others, "second 1: q.json"), (rows, others[:1], "first 2: a.json")):
        with pytest.raises(EvaluationError, match=rf"^{said} has no a "):
            list(join(first, second, Number, key="a", files=files))
    with pytest.raises(EvaluationError, match=r"^first 2: a 2 appears twice, before at first 2"):
        unique([rows[0], rows[0].model_copy()], "a")


@pytest.mark.parametrize(("value", "text"), [(" a b ", "a b"), (7, "7"), (0.5, "0.5")])
def test_texts_have_no_space_around_them_and_numbers_are_written_out(value: object, text: str) -> None:
    assert One.parse({"a": value}, "row 1").a == text


@pytest.mark.parametrize("value", [True, {"text": "x"}, ["x"], float("nan"), float("inf"), b"x"])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(EvaluationError, match="row 1: 'a' must be a text, found"):
        One.parse({"a": value}, "row 1")


@pytest.mark.parametrize(("value", "text"), [(None, ""), ("", ""), ("nan", ""), (float("nan"), ""), (0, "0")])
def test_an_optional_text_may_be_missing(value: object, text: str) -> None:
    assert Any.parse({"a": value}, "row 1").a == text


@pytest.mark.parametrize("value", [["a", 2], ("a", "2"), '["a", "2"]', "['a', 2]"])
def test_a_list_may_be_written_as_text(value: object) -> None:
    assert Two.parse({"a": value}, "row 1").a == ("a", "2")


@pytest.mark.parametrize("value", ["ab", "[", "7", {"a": 1}, ["a"], []])
def test_what_is_no_list_or_too_short_is_refused(value: object) -> None:
    with pytest.raises(EvaluationError, match=r"row 1: 'a' must be a list of at least 2 text\(s\), found"):
        Two.parse({"a": value}, "row 1")


def test_empty_texts_of_a_list_are_refused_unless_they_may_be_empty() -> None:
    with pytest.raises(EvaluationError, match="row 1: 'a' number 2 is empty"):
        Two.parse({"a": ["x", ""]}, "row 1")
    assert Blank.parse({"a": ["x", ""]}, "row 1").a == ("x", "")


@pytest.mark.parametrize("value", [42, "42", 42.0])
def test_a_whole_number_may_be_written_as_text(value: object) -> None:
    assert Number.parse({"a": value}, "row 1").a == 42


@pytest.mark.parametrize("value", [4.2, "x", True, [4], float("nan"), float("inf")])
def test_what_is_no_whole_number_is_refused_and_not_rounded(value: object) -> None:
    with pytest.raises(EvaluationError, match="row 1: 'a' must be a whole number, found"):
        Number.parse({"a": value}, "row 1")
