"""Parameters of every preset, counted without weights, beside those that its release states: a table of the docs."""

import re

import pytest
import torch
from documents import ROOT

from unimoe import UniMoEForCausalLM
from unimoe.moe.counting import count_parameters
from unimoe.presets import PRESETS, text_config

NUMBER = r"[\d.]+"
ROW = re.compile(
    rf"^\| `(?P<name>[\w.-]+)` \| (?P<stated>{NUMBER}|none) \| (?P<stated_active>{NUMBER}|none) "
    rf"\| (?P<total>{NUMBER}) \| (?P<active>{NUMBER}) \| (?P<why>.*) \|$",
    re.MULTILINE,
)
SECTION = (ROOT / "docs" / "routing.md").read_text(encoding="utf-8").partition("## Published mixtures")[2]
ROWS = {row["name"]: row for row in ROW.finditer(SECTION)}


def test_the_table_has_every_preset() -> None:
    assert list(ROWS) == list(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_parameters_of_its_release_or_the_table_says_why_not(name: str) -> None:
    with torch.device("meta"):
        counts = count_parameters(UniMoEForCausalLM._from_config(text_config(name)))
    row = ROWS[name]
    assert (row["total"], row["active"]) == tuple(f"{counts[kind] / 1e9:.2f}" for kind in ("total", "active"))
    for stated, counted in ((row["stated"], counts["total"]), (row["stated_active"], counts["active"])):
        decimals = len(stated.partition(".")[2])
        assert stated == "none" or row["why"] or f"{counted / 1e9:.{decimals}f}" == stated
