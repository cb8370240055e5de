"""Plain top-k costs no more operations than transformers' mixtures of the same sizes, and waits for nothing more."""

import pytest

from benchmarks.operations import PAIRS, count_task, decoding, training


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("task", "ratio"), [(decoding, 1.0), (training, 1.1)])
def test_our_operations_are_those_of_transformers(name: str, task, ratio: float) -> None:
    theirs, ours = (count_task(task, make) for make in PAIRS[name])
    assert ours["operations"] <= ratio * theirs["operations"] and ours["per layer"] <= ratio * theirs["per layer"]
    assert ours["waits"] <= theirs["waits"]
