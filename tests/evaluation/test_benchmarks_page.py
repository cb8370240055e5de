from pathlib import Path

import pytest

from evaluation.tasks import BENCHMARKS
from evaluation.tasks.page import render_page

PAGE = Path(__file__).parents[2] / "docs/benchmarks.md"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_page_tells_every_fact_of_every_benchmark(name: str) -> None:
    benchmark, page = BENCHMARKS[name], PAGE.read_text(encoding="utf-8")
    section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    facts = ("title", "measures", "metric", "origin", "licence", "read_on", "note", "shares")
    for fact in (*(getattr(benchmark, key) for key in facts), *benchmark.tree.strip().splitlines()):
        assert fact in section, "run: python -m evaluation.tasks.page > docs/benchmarks.md"
    assert benchmark.prompt.replace("\n", "⏎") in section
    assert all((benchmark.measures, benchmark.origin, benchmark.licence, "2026-" in benchmark.read_on))


def test_a_table_at_the_top_has_a_line_for_each_benchmark() -> None:
    before, _, after = PAGE.read_text(encoding="utf-8").partition("| name |")
    lines = [line for line in after.partition("\n\n")[0].splitlines() if line.startswith("| [`")]
    assert len(before.splitlines()) < 15 and len(lines) == len(BENCHMARKS)
    for line, benchmark in zip(lines, BENCHMARKS.values(), strict=True):
        assert line.startswith(f"| [`{benchmark.name}`](#{benchmark.name}) |")
        assert benchmark.measures in line and f"`{benchmark.metric}`" in line


def test_the_page_is_what_the_benchmarks_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_page(BENCHMARKS.values())
