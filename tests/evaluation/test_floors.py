from pathlib import Path

import pytest

from evaluation.metrics import METRICS
from evaluation.scores.floors import best_floor, compute_floors, majority_answers, question_only_answers
from evaluation.tasks import Sample, read_task


def sample(question: str, answer: str) -> Sample:
    messages = ({"role": "user", "content": [{"type": "text", "text": question}]},)
    return Sample(id=question + answer, messages=messages, reference=answer, answers=(answer,), cluster="")


TRAIN = [sample("colour?", "red")] * 3 + [sample("shape?", "circle")] * 2 + [sample("shape?", "red")]


def test_question_only_answers_by_question_and_backs_off_to_the_majority() -> None:
    test = [sample("shape?", "circle"), sample("colour?", "blue"), sample("size?", "big")]
    assert majority_answers(TRAIN, test) == ["red"] * 3
    assert question_only_answers(TRAIN, test) == ["circle", "red", "red"]


def test_floors_are_scored_with_the_tasks_metric() -> None:
    test = [sample("shape?", "Circle."), sample("colour?", "red")]
    assert compute_floors(TRAIN, test, METRICS["exact_match"]) == {"majority": 0.5, "question_only": 1.0}


def test_of_equally_frequent_answers_the_first_in_the_file_is_taken() -> None:
    train = [sample("?", "b"), sample("?", "a")]
    assert majority_answers(train, train) == ["b", "b"]


def test_the_best_floor_is_the_lowest_error_rate() -> None:
    floors = {"majority": 0.4, "question_only": 0.6}
    assert best_floor(floors, METRICS["exact_match"]) == 0.6
    assert best_floor(floors, METRICS["wer"]) == 0.4
    assert best_floor({}, METRICS["wer"]) is None


def test_floors_of_files(colour_data: Path) -> None:
    train, test = (read_task(colour_data / f"colour_{split}.jsonl") for split in ("train", "test"))
    assert compute_floors(train, test, METRICS["exact_match"]) == pytest.approx(
        {"majority": 0.25, "question_only": 0.25}
    )
