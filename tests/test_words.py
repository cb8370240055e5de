"""One word for one thing: words that docs/glossary.md replaced do not come back into code, documents or YAML."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("unimoe", "training", "evaluation", "benchmarks", "configs", "docs", "tests")
FILES = ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")
SUFFIXES = {".py", ".md", ".yaml", ".toml", ".j2", ""}

# What the glossary says instead -> what is written nowhere any more.
RETIRED = {
    "metadata, model card": r"write_papers|papers of (the|a) (stage|model)|\bPapers\(|\bpapers\.py|\.papers\b",
    "shard, unshard": r"\bShare\(|spread_experts|settle_experts|SpreadExperts|split_spread|\bspread experts\b",
    "stream": r"\blanes?\b|LaneBatches|split_lanes|\btake_turns\b",
    "expert group, local index": r"ExpertBanks|\bbanks of (two|other|different) width|find_places|\.places\b",
    "export, collect": r"\bharvest\w*",
    "encoder cache, cached": r"RestingEncoders|(?i:\bresting\b)|EncodedMedi\w+|\bencoded tokens\b",
    "assignment": r"make_slots|\bSlots\b",
    "attention_mask": r"context\.real\b|\breal_tokens\b",
    "file, folder, package": r"\brooms of\b",
    "sample index": r"\bPlace\(",
    "validation": r"\bheld[- ]back\b|HeldBack|\bheld_back\b(?!\")",
    "decision": r": Verdict\b|row\.verdict",
    "batch schedule, estimate": r"BatchPlan|plan_batches|PlannedRecipe|PlannedModel",
}
LEFT = {"tests/test_words.py", "docs/glossary.md"}


def lines() -> Iterator[tuple[str, str]]:
    """File and number of each line, and its text."""
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    for path in [*(ROOT / name for name in FILES), *sorted(inside)]:
        name = str(path.relative_to(ROOT))
        if path.is_file() and path.suffix in SUFFIXES and name not in LEFT:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                yield f"{name}:{number}", line


LINES = list(lines())


@pytest.mark.parametrize("word", RETIRED)
def test_retired_words_stay_away(word: str) -> None:
    pattern = re.compile(RETIRED[word])
    assert not [f"{where}: {line.strip()}" for where, line in LINES if pattern.search(line)]
