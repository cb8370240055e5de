"""The defects that the mutation check plants still have their place in the code."""

from pathlib import Path

import pytest
from mutations import DEFECTS, planted

ROOT = Path(__file__).parents[1]
AREAS = {"model", "router", "loss", "data", "trainer", "checkpoint", "metric"}


@pytest.mark.parametrize("name", DEFECTS)
def test_the_text_of_each_defect_stands_in_its_file_once(name: str) -> None:
    path = ROOT / DEFECTS[name].file
    text = planted(name, path.read_text(encoding="utf-8"))
    compile(text, str(path), "exec")


def test_there_are_ten_defects_of_every_area() -> None:
    assert len(DEFECTS) == 10 and {defect.area for defect in DEFECTS.values()} == AREAS


@pytest.mark.parametrize("times", [0, 2])
def test_a_defect_whose_text_is_not_there_once_is_refused(times: int) -> None:
    with pytest.raises(ValueError, match=rf"'random-state'.*stands {times} times in training/trainer/trainer.py"):
        planted("random-state", DEFECTS["random-state"].old * times)
