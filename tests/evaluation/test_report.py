import io
from typing import Any

import pytest
from rich.console import Console

from evaluation.report.terminal import print_report
from evaluation.results import verdict
from evaluation.scores.answers import count_answers


def task(**changes: Any) -> dict[str, Any]:
    scores = {"metric": "exact_match", "value": 0.912, "low": 0.89, "high": 0.93, "n": 2500, "unparsed_rate": 0.004}
    scores |= {"values": {"exact_match": {"value": 0.912}}, "notes": []}
    scores |= {"answers": count_answers(["yes"] * 2400 + ["no"] * 100, ["yes"] * 1500 + ["no"] * 1000)}
    controls = {"floors": {"majority": 0.373, "question_only": 0.67}, "floor": 0.67, "verdict": "not above floor"}
    return {**scores, **controls, "shuffled": {"value": 0.611}, "baseline": {"value": 0.905}, **changes}


def report(width: int, names: list[str], **changes: Any) -> str:
    model = {
        "path": "m",
        "num_experts": 4,
        "num_experts_per_tok": 1,
        "parameters": 1234567,
        "active_parameters": 834567,
    }
    used = {"text": {"mean_experts_used": 2.34}, "speech": {"mean_experts_used": 1.21}}
    results = {
        "tasks": {name: task() for name in names},
        "model": model,
        "baseline": {**model, "path": "d", "num_experts": 0},
        "routing": {"tasks": dict.fromkeys(names, used)},
        **changes,
    }
    stream = io.StringIO()
    print_report(results, console=Console(file=stream, width=width))
    return stream.getvalue()


def test_the_quickstarts_four_tasks_fit_80_columns_uncut() -> None:
    text = report(80, ["vqa", "image_kind", "spoken_word", "sound_kind"])
    table = [line for line in text.splitlines() if line.startswith(("│", "┃", "├"))]
    assert "…" not in text
    assert max(map(len, text.splitlines()[: len(table)])) <= 80
    for cell in ("spoken_word", "0.912", "0.890-0.930", "2,500", "0.373", "0.670", "0.611", "0.905", "0.4%", "1.2"):
        assert cell in text
    assert "834,567 active of 1,234,567 parameters" in text


def test_more_tasks_than_fit_go_to_further_tables() -> None:
    text = report(80, [f"task{number}" for number in range(9)])
    assert text.count("95 % interval") == 3
    assert all(f"task{number}" in text for number in range(9))


def test_further_values_and_notes_are_told() -> None:
    values = {"accuracy": {"value": 0.912}, "f1": {"value": 0.834}, "precision": {"value": None}}
    text = report(80, [], tasks={"pope": task(values=values), "vqa": task(notes=["said so"])})
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if line.startswith("│")}
    assert "0.834" in lines["f1"] and "accuracy" not in lines
    assert lines["precision"].split("│")[2].strip() == "-"
    assert "vqa: said so" in text


def test_the_answer_that_is_given_most_often_is_told_for_each_task() -> None:
    text = report(120, ["vqa"])
    assert "vqa: 2 distinct answers given, 2 wanted; most often 'yes': 96% given, 60% wanted" in text


def test_controls_that_were_not_asked_for_have_no_line() -> None:
    plain = {name: value for name, value in task(floors={}).items() if name not in ("shuffled", "baseline")}
    text = report(80, [], tasks={"vqa": plain}, baseline=None, routing=None)
    assert "shuffled" not in text and "baseline" not in text and "experts used" not in text


@pytest.mark.parametrize(
    ("low", "high", "floor", "higher", "said"),
    [
        (0.5, 0.6, 0.4, True, "above floor"),
        (0.4, 0.6, 0.4, True, "not above floor"),
        (0.1, 0.2, 0.3, False, "above floor"),
        (0.1, 0.4, 0.3, False, "not above floor"),
        (0.1, 0.4, None, True, "no floor"),
    ],
)
def test_the_verdict_asks_the_whole_interval(
    low: float, high: float, floor: float | None, higher: bool, said: str
) -> None:
    assert verdict({"low": low, "high": high}, floor, higher_is_better=higher) == said
