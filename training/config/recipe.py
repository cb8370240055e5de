"""Reads YAML files of stages: one stage, or a recipe of several; and applies `key.sub=value` overrides.

A recipe has `stages: {name: stage}`, and may have `output` (a stage's own output is OUTPUT/NAME), `seed`, `defaults`
(merged under each stage), `scale` (multiplies every stage's length), `schedule` (stages that share one schedule of
learning rates), `variables` and `model` (for the quickstart's builder alone). In every string of a recipe `${output}`
stands for its output folder, so that stages can refer to each other, and `${name}` for the variable of that name, such
as the Hub id or local folder of a pretrained part.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from unimoe.errors import ConfigError, LimitError
from unimoe.errors.suggest import did_you_mean
from unimoe.files.settings import read_yaml, validate
from unimoe.media import Limits

from .stage import StageConfig

_KINDS = {
    "output": str,
    "seed": int,
    "scale": int | float,
    "schedule": list,
    "defaults": dict,
    "variables": dict,
    "model": dict,
}
RECIPE_KEYS = (*_KINDS, "stages")
_WORDS = {dict: "a mapping", str: "a folder", int: "a whole number", int | float: "a number", list: "a list of stages"}
_REFERENCE = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True)
class Recipe:
    """Stages in the order in which they run, by name, and the settings of the quickstart's model."""

    stages: dict[str, StageConfig]
    output: str | None
    seed: int
    model: dict[str, Any]


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a YAML file; a file with a single stage is a recipe of one, named like the file.

    Args:
        path: The file.
        overrides: `key.sub=value` each, the value in YAML. A number as a key is an index into a list.

    Raises:
        ConfigError: If the file, a key or a value does not fit; the message names it.
    """
    source = Path(path).name
    values = read_yaml(path, overrides)
    if "stages" not in values:
        stage = validate(StageConfig, values, source=source)
        return Recipe({Path(path).stem: stage}, stage.output, stage.seed, {})
    for key, kind in _KINDS.items():
        if (value := values.get(key)) is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            raise ConfigError(f"{source}: {key}: expected {_WORDS[kind]}, got {str(value)[:100]!r}.")
    for key in values:
        if key not in RECIPE_KEYS:
            raise ConfigError(f"{source}: {key}: unknown key.{did_you_mean(str(key), RECIPE_KEYS)}")
    variables = read_variables(values, source)
    check_length(values, variables, source)
    written, values = values, substitute(values, variables, source)
    check_used(written, source)
    stages = {
        name: validate(StageConfig, stage, source=f"{source}: stages.{name}")
        for name, stage in resolve_stages(values, source)
    }
    return Recipe(stages, values.get("output"), values.get("seed", 0), values.get("model") or {})


def read_variables(recipe: dict[str, Any], source: str) -> dict[str, str]:
    """Say what `${name}` stands for in a recipe: its variables, which may name the output, and its output folder.

    Raises:
        ConfigError: If a variable is no text, or names another one.
    """
    output = {} if recipe.get("output") is None else {"output": str(recipe["output"])}
    given = recipe.get("variables") or {}
    if not isinstance(given, dict) or not all(isinstance(value, str | int | float) for value in given.values()):
        raise ConfigError(f"{source}: variables: expected a mapping from names to texts, got {given!r}.")
    if "output" in given:
        raise ConfigError(f"{source}: variables.output: set the recipe's `output` instead.")
    return output | {name: substitute(str(value), output, source) for name, value in given.items()}


def check_used(recipe: dict[str, Any], source: str) -> None:
    """Refuse a variable that nothing in a recipe uses: its name is misspelled, or it should go.

    Raises:
        ConfigError: If there is one.
    """
    used = _references(recipe)
    for name in recipe.get("variables") or {}:
        if name not in used:
            raise ConfigError(f"{source}: variables.{name}: nothing in the recipe uses it.{did_you_mean(name, used)}")


def check_length(recipe: dict[str, Any], variables: dict[str, str], source: str) -> None:
    """Refuse a recipe that would become too long with its variables in their places.

    Raises:
        ConfigError: If it would.
    """
    length = sum(times * len(variables.get(name, "")) for name, times in _references(recipe).items())
    _check_size(
        "yaml_bytes", length, f"with its variables in their places, the recipe has {length:,} characters", source
    )


def _references(recipe: dict[str, Any]) -> Counter[str]:
    """How often a recipe refers to which variable."""
    rest = {key: value for key, value in recipe.items() if key != "variables"}
    return Counter(_REFERENCE.findall(json.dumps(rest, default=str)))


def _check_size(name: str, size: int, what: str, source: str) -> None:
    try:
        Limits.from_environment().check(name, size, what, where=source)
    except LimitError as error:
        raise ConfigError(error.where, error.problem, error.cure) from None


def substitute(values: Any, variables: dict[str, str], source: str) -> Any:
    """Put variables in the place of `${name}` in all strings.

    Raises:
        ConfigError: If there is no such variable.
    """
    if isinstance(values, dict):
        return {key: substitute(value, variables, source) for key, value in values.items()}
    if isinstance(values, list):
        return [substitute(value, variables, source) for value in values]
    if not isinstance(values, str):
        return values
    for name in _REFERENCE.findall(values):
        if name == "output" and name not in variables:
            raise ConfigError(f"{source}: {values!r} needs the recipe to have an `output`.")
        if name not in variables:
            raise ConfigError(f"{source}: {values!r}: no such variable.{did_you_mean(name, variables)}")
    return _REFERENCE.sub(lambda found: variables[found[1]], values)


def resolve_stages(recipe: dict[str, Any], source: str) -> list[tuple[str, dict[str, Any]]]:
    """Merge a recipe's defaults, seed, output, scale and schedule into the values of each of its stages."""
    if not isinstance(recipe["stages"], dict) or not recipe["stages"]:
        raise ConfigError(f"{source}: stages: expected a mapping from names to stages.")
    size = len(recipe["stages"]) * (1 + _count(recipe.get("defaults")))
    _check_size("yaml_keys", size, f"with its defaults in each stage, the recipe has {size:,} keys and values", source)
    resolved = {}
    for name, stage in recipe["stages"].items():
        if not isinstance(stage, dict):
            raise ConfigError(f"{source}: stages.{name}: expected a mapping, got {stage!r}.")
        general = {"seed": recipe.get("seed", 0)}
        if recipe.get("output") is not None:
            general["output"] = f"{recipe['output']}/{name}"
        values = merge(merge(general, recipe.get("defaults") or {}), stage)
        resolved[name] = scale_length(values, recipe.get("scale", 1), source)
    for name, span in share_schedule(recipe.get("schedule") or [], resolved, source).items():
        resolved[name] = merge({"train": {"schedule": span}}, resolved[name])
    return list(resolved.items())


def share_schedule(names: list[Any], stages: Mapping[str, dict[str, Any]], source: str) -> dict[str, dict[str, float]]:
    """Say which stretch of one learning-rate schedule each stage goes through, by the numbers of their steps.

    Args:
        names: Of stages, in order; a list among them has stages that stand side by side, such as specialists, which
            go through the same stretch.
        stages: The values of all stages by name, defaults and scale among them.
        source: Of the recipe, for errors.

    Raises:
        ConfigError: If a name is not that of a stage, comes twice, or its stage says no `trainer.max_steps`.
    """
    groups = [entry if isinstance(entry, list) else [entry] for entry in names]
    counts = Counter(str(name) for group in groups for name in group)
    steps: dict[str, int] = {}
    for name, count in counts.items():
        if name not in stages:
            raise ConfigError(f"{source}: schedule: there is no stage {name!r}.{did_you_mean(name, stages)}")
        if count > 1:
            raise ConfigError(f"{source}: schedule: stage {name!r} is named {count} times. Name it once.")
        trainer = stages[name].get("trainer")
        number = trainer.get("max_steps") if isinstance(trainer, dict) else None
        if not isinstance(number, int) or number < 1:
            raise ConfigError(
                f"{source}: schedule: stage {name!r} says no number of steps. Set stages.{name}.trainer.max_steps."
            )
        steps[name] = number
    ends = list(accumulate((sum(steps[name] for name in group) for group in groups), initial=0))
    return {
        name: {"begin": begin / ends[-1], "end": end / ends[-1]}
        for group, (begin, end) in zip(groups, pairwise(ends), strict=True)
        for name in group
    }


def _count(values: Any) -> int:
    """Keys, entries and values of mappings and lists within each other."""
    if isinstance(values, dict):
        return sum(1 + _count(value) for value in values.values())
    return 1 + (sum(map(_count, values)) if isinstance(values, list) else 0)


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge mappings into one; where both have a value that is not a mapping, `over` wins."""
    merged = copy.deepcopy(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def scale_length(stage: dict[str, Any], scale: float, source: str) -> dict[str, Any]:
    """Multiply a stage's `max_steps` (or, without it, `num_train_epochs`) by `scale`; at least one step remains."""
    if not isinstance(scale, int | float) or scale <= 0:
        raise ConfigError(f"{source}: scale: expected a positive number, got {scale!r}.")
    trainer = stage.get("trainer")
    if scale == 1 or not isinstance(trainer, dict | None):
        return stage
    trainer = dict(trainer or {})
    from transformers import TrainingArguments

    steps, epochs = (trainer.get(name, getattr(TrainingArguments, name)) for name in ("max_steps", "num_train_epochs"))
    if not isinstance(steps, int | float) or not isinstance(epochs, int | float):
        return stage  # which `validate` refuses
    if steps > 0:
        trainer["max_steps"] = max(1, round(steps * scale))
    else:
        trainer["num_train_epochs"] = epochs * scale
    return {**stage, "trainer": trainer}


def select_stages(recipe: Recipe, *, only: list[str], start: str | None) -> dict[str, StageConfig]:
    """Choose stages to run: those named, or all from `start` on.

    Raises:
        ConfigError: If a name is not a stage of the recipe.
    """
    for name in [*only, *([start] if start else [])]:
        if name not in recipe.stages:
            raise ConfigError(f"There is no stage {name!r}.{did_you_mean(name, recipe.stages)}")
    names = list(recipe.stages)
    chosen = names[names.index(start) :] if start else names
    return {name: recipe.stages[name] for name in chosen if not only or name in only}
