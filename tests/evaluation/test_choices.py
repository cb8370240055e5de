"""The options of a multiple choice, and the letter of the right one."""

import pytest

from evaluation.errors import EvaluationError
from evaluation.tasks.choices import (
    Lettered,
    letter_at,
    letter_of,
    letter_of_text,
    options,
    options_in,
    without_labels,
)


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
        with pytest.raises(EvaluationError, match=f"row 1: the answer {place} is none of the indices 0 to 1"):
            letter_at(place, ("red", "blue"), "row 1")


def test_options_are_written_with_their_letters() -> None:
    assert options(("red", "blue")) == "A. red\nB. blue"
    assert options(("{red}", "blue"), "({}) ") == "(A) {red}\n(B) blue"


def test_options_in_columns_are_filled_from_a_on() -> None:
    assert Lettered.parse({"A": "red", "B": 0, "C": "nan", "D": None}, "row 1").in_columns() == ("red", "0")
    for row in ({}, {"A": "red"}, {"A": "red", "B": "blue", "D": "green"}):
        with pytest.raises(EvaluationError, match="row 1: expected at least two options in the columns A to E"):
            Lettered.parse(row, "row 1").in_columns()


def test_labels_are_taken_off_and_must_be_in_order() -> None:
    assert without_labels(["A. red", "(B) blue", "C: A. B. Smith", "D)x"], "r") == ("red", "blue", "A. B. Smith", "x")
    with pytest.raises(EvaluationError, match=r"option 'C\. blue' should begin with 'B\.'"):
        without_labels(["A. red", "C. blue"], "row 1")


def test_options_are_found_in_a_question_only_if_they_are_lettered_from_a_on() -> None:
    assert options_in("Who?\nA. Ann\n  B) Bob \n(C) Eve") == ("Ann", "Bob", "Eve")
    assert options_in("Who?\nB. Bob\nC. Eve") == ()
    assert options_in("A. Ann was there. Who else?") == ()
