"""Mutated configurations, stages and recipes: each is taken, or refused by an error that names what is wrong."""

import copy
import json
import random
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.config.recipe import load_recipe
from training.config.stage import StageConfig
from unimoe import UniMoEConfig
from unimoe.errors import UniMoEError
from unimoe.files.settings import validate
from unimoe.tiny import save_tiny_checkpoint

pytestmark = pytest.mark.slow
ROUNDS = 500
SECONDS, KILOBYTES = 5, 1_000_000
VALUES: list[Callable[[], Any]] = [
    lambda: None,
    lambda: "",
    lambda: "wide",
    lambda: "\u0000\ud83d\ude00" * 50,
    lambda: [],
    lambda: [None],
    lambda: [[[]]],
    lambda: {},
    lambda: {"a": {"b": None}},
    lambda: True,
    lambda: False,
    lambda: 0,
    lambda: 1,
    lambda: -1,
    lambda: 3,
    lambda: 7,
    lambda: 0.5,
    lambda: -0.0,
    lambda: 1e308,
    lambda: float("nan"),
    lambda: float("-inf"),
    lambda: 10**4,
    lambda: 10**6,
    lambda: 10**9,
    lambda: -(10**9),
    lambda: 10**12,
    lambda: 2**63,
    lambda: 10**300,
    lambda: list(range(100)),
    lambda: dict.fromkeys("abc", 1),
    lambda: "1",
    lambda: "unimoe",
    lambda: "../../etc/passwd",
    lambda: "org/kernel",
]


def places(values: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths to everything within nested values."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def mutate(values: Any, rng: random.Random) -> list[str]:
    """Change a few things in place; what was done."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        found = list(places(values))
        if not found:
            break
        *parents, last = rng.choice(found)
        target = values
        for parent in parents:
            target = target[parent]
        what = rng.choice(("drop", "replace", "replace", "replace", "add", "copy"))
        if what == "drop":
            del target[last]
        elif what == "replace":
            target[last] = rng.choice(VALUES)()
        elif what == "add" and isinstance(target, dict):
            target[rng.choice(("num_expert", "", "0", "_x", "auto_map", "é" * 40, f"{last}_"))] = rng.choice(VALUES)()
        elif isinstance(target, dict):  # a value of one key under another
            target[rng.choice(sorted(map(str, target)))] = copy.deepcopy(target[last])
        done.append(f"{what} {'.'.join(map(str, (*parents, last)))}")
    return done


def run(call: Callable[[], Any], seen: str) -> str:
    """Whether a call succeeds or is refused; anything else, time or memory fails."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        call()
        outcome = "taken"
    except UniMoEError as error:
        assert "\n" not in str(error) or "stage.yaml" in str(error), seen
        outcome = "refused"
    except Exception as error:
        pytest.fail(f"{seen}: {type(error).__name__}: {error}")
    assert time.perf_counter() - started < SECONDS, seen
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KILOBYTES, seen
    return outcome


def rounds(original: Any) -> Iterator[tuple[Any, str]]:
    rng = random.Random(19)
    for number in range(ROUNDS):
        values = copy.deepcopy(original)
        yield values, f"round {number}: {mutate(values, rng)}"


def test_mutated_configurations_are_taken_or_refused(tmp_path) -> None:
    """As a mapping and as a file."""
    folder = save_tiny_checkpoint(tmp_path)
    path = folder / "config.json"
    outcomes = set()
    for values, seen in rounds(json.loads(path.read_text())):
        outcomes.add(run(lambda values=values: UniMoEConfig.from_dict(copy.deepcopy(values)), seen))
        outcomes.add(run(lambda values=values: UniMoEConfig(**copy.deepcopy(values)), seen))
        path.write_text(json.dumps(values))
        run(lambda: UniMoEConfig.from_pretrained(folder), seen)
    assert outcomes == {"taken", "refused"}


STAGES = sorted(Path(__file__).parents[1].glob("configs/stages/uni_moe_*.yaml"))


def test_mutated_stages_are_taken_or_refused() -> None:
    recipes = [load_recipe(path) for path in STAGES]
    stages = [s.model_dump(mode="json", exclude_unset=True) for recipe in recipes for s in recipe.stages.values()]
    outcomes = set()
    for number in range(ROUNDS):
        rng = random.Random(number)
        values = copy.deepcopy(stages[number % len(stages)])
        seen = f"round {number}: {mutate(values, rng)}"
        outcomes.add(run(lambda values=values: validate(StageConfig, values, source="stage.yaml"), seen))
    assert outcomes == {"taken", "refused"}


def test_mutated_recipes_are_taken_or_refused(tmp_path) -> None:
    path = tmp_path / "stage.yaml"
    originals = [yaml.safe_load(recipe.read_text()) for recipe in STAGES]
    for number in range(ROUNDS // 5):
        rng = random.Random(number)
        values = copy.deepcopy(originals[number % len(originals)])
        seen = f"round {number}: {mutate(values, rng)}"
        path.write_text(yaml.safe_dump(values, allow_unicode=True))
        run(lambda: load_recipe(path), seen)
