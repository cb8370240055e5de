"""Reports show what rows, folders and servers are called; nothing of it becomes a part of the page or the terminal."""

import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluation.compare.comparison import Comparison, Report
from evaluation.compare.paired import Difference
from evaluation.compare.table import comparison_table, render_markdown
from evaluation.report.html import Answered, write_page
from evaluation.report.markdown import write_markdown
from evaluation.report.terminal import print_report
from evaluation.scores.answers import count_answers
from evaluation.tasks import Sample, ask
from training.checkpoint.model_card import model_card

HOSTILE = (
    "![x](http://evil.example/p.png) <img src='http://evil.example/p.png' onerror=alert(1)> </td></table><script>"
    "alert(1)</script> | [red]cell[/red] `code\n\n# head\n- \x1b[31mansi\x1b]0;title\x07 \u202eback"
)


def results() -> dict[str, Any]:
    value = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 4}
    task = {
        **value,
        "metric": "exact_match",
        "answers": count_answers([HOSTILE, HOSTILE, None, "b"], [HOSTILE, "b", "b", HOSTILE]),
        "unparsed_rate": 0.0,
        "floor": None,
        "floors": {},
        "verdict": "no floor",
        "values": {"exact_match": value, HOSTILE: value},
        "judged": {"by": HOSTILE, "values": {HOSTILE: value}, "unread": 0},
        "categories": {HOSTILE: {HOSTILE: value}},
        "decoding": {HOSTILE: HOSTILE},
        "notes": [HOSTILE],
        "data": HOSTILE,
        "data_hash": "0" * 64,
        "normaliser": "none",
        "prompt": HOSTILE,
    }
    model = {"path": HOSTILE, "num_experts": 0, "parameters": 2, "active_parameters": 1}
    return {
        "tasks": {HOSTILE: task},
        "model": model,
        "baseline": model,
        "versions": {"torch": HOSTILE},
        "routing": None,
    }


def assert_plain(text: str) -> None:
    assert not any(mark in text for mark in ("\x1b", "\x07", "\u202e"))


def assert_markdown_makes_nothing(text: str) -> None:
    assert_plain(text)
    assert not any(mark in text for mark in ("![", "](", "<img", "<script", "</td", "http://"))
    assert not any(line.startswith(("- ", "# head", "> ")) for line in text.splitlines())


def test_a_markdown_report_is_made_of_its_own_marks_alone(tmp_path: Path) -> None:
    write_markdown(tmp_path / "report.md", results())
    text = (tmp_path / "report.md").read_text()
    assert_markdown_makes_nothing(text)
    tables = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} <= {4, 5, 6, 7, 8} and "evil.example" in text


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_a_page_is_made_of_its_own_tags_alone_and_loads_nothing(tmp_path: Path) -> None:
    items = [{"type": "image", "path": HOSTILE}, HOSTILE]
    sample = Sample(HOSTILE, ask(*items), HOSTILE, (HOSTILE,), HOSTILE)
    worst = {HOSTILE: [Answered(sample, HOSTILE, (0.0, 1.0), True)]}
    write_page(tmp_path / "report.html", results(), worst)
    text = (tmp_path / "report.html").read_text()
    assert_plain(text)
    tags = Tags()
    tags.feed(text)
    assert not {"script", "iframe", "object", "link"} & {tag for tag, _ in tags.found}
    for tag, attributes in tags.found:
        assert not any(name.startswith("on") for name in attributes)
        assert str(attributes.get("src", "data:")).startswith("data:") and "href" not in attributes, tag


def test_the_table_of_a_terminal_shows_names_and_obeys_none() -> None:
    stream = io.StringIO()
    print_report(results(), console=Console(file=stream, width=200, force_terminal=False))
    assert_plain(stream.getvalue())
    assert "[red]cell[/red]" in stream.getvalue()


def comparison() -> Report:
    difference = Difference(0.1, 0.0, 0.2, 0.01, 0.0, 0.2, 0.01, (0.1,))
    row = Comparison(HOSTILE, "exact_match", True, 3, 3, HOSTILE, HOSTILE, 0.5, 0.4, difference, 0.02, "better")
    return Report(HOSTILE, {HOSTILE: [HOSTILE]}, 1, 1000, [row], [HOSTILE])


def test_a_comparison_shows_names_and_obeys_none() -> None:
    report, stream = comparison(), io.StringIO()
    Console(file=stream, width=300).print(comparison_table(report))
    assert_plain(stream.getvalue())
    assert_markdown_makes_nothing(render_markdown(report))


def test_a_model_card_is_made_of_its_own_marks_alone() -> None:
    entry = {
        "stage": HOSTILE,
        "start": HOSTILE,
        "train": {"parts": [HOSTILE], "lora": None},
        "data": [{"path": HOSTILE, "rows": 3, "weight": 1.0}],
        "steps": 1,
        "samples": 1,
        "loss": 1.0,
        "seed": 0,
    }
    card = model_card(HOSTILE, [entry], None)
    assert_markdown_makes_nothing(card)
    assert {line.replace("\\|", "").count("|") for line in card.splitlines() if line.startswith("|")} <= {5, 8}
