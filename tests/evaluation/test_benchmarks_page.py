from pathlib import Path

import pytest

from evaluation.tasks import BENCHMARKS
from evaluation.tasks.page import render_page, render_section

PAGE = Path(__file__).parents[2] / "docs/benchmarks.md"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_page_tells_tree_origin_licence_and_prompt_of_every_benchmark(name: str) -> None:
    benchmark, section = BENCHMARKS[name], render_section(BENCHMARKS[name])
    for fact in (benchmark.tree.strip(), benchmark.origin, benchmark.licence, benchmark.read_on, benchmark.metric):
        assert fact and fact in section
    assert section in PAGE.read_text(encoding="utf-8"), "run: python -m evaluation.tasks.page > docs/benchmarks.md"


def test_the_page_is_what_the_benchmarks_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_page(BENCHMARKS.values())
