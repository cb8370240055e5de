"""Reads YAML files of stages: one stage, or a recipe of several; and applies `key.sub=value` overrides.

A recipe has `stages: {name: stage}`, and may have `output` (a stage's own output is OUTPUT/NAME), `seed`, `defaults`
(merged under each stage), `scale` (multiplies every stage's length) and `model` (for the quickstart's builder alone).
In every string of a recipe, `${output}` stands for its output folder, so that stages can refer to each other.
"""

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unimoe.suggest import did_you_mean

from .config import ConfigError, StageConfig, parse_stage

RECIPE_KEYS = ("output", "seed", "scale", "defaults", "model", "stages")


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 4e-5 as a number, as YAML 1.2 does, and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice[0]!r} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


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
    values = read_yaml(path)
    for override in overrides:
        apply_override(values, override)
    if "stages" not in values:
        stage = parse_stage(values, source=source)
        return Recipe({Path(path).stem: stage}, stage.output, stage.seed, {})
    for key in values:
        if key not in RECIPE_KEYS:
            raise ConfigError(f"{source}: {key}: unknown key.{did_you_mean(str(key), RECIPE_KEYS)}")
    values = substitute_output(values, values.get("output"))
    stages = {
        name: parse_stage(stage, source=f"{source}: stages.{name}") for name, stage in resolve_stages(values, source)
    }
    return Recipe(stages, values.get("output"), values.get("seed", 0), values.get("model") or {})


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: If there is no such file, or it is not YAML, or not a mapping.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping with `stages`, or with `start`, `train`, `data`, `output`.")
    return values


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one value in place, e.g. `stages.align.trainer.max_steps=5`.

    Raises:
        ConfigError: If it is not of the form key=value, or the key does not lead anywhere.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r}: write overrides as key.sub=value, e.g. scale=0.1.")
    *parents, last = key.split(".")
    target: Any = values
    for parent in parents:
        target = _step(target, parent, key)
    if isinstance(target, list):
        _step(target, last, key)
        target[int(last)] = yaml.load(text, _Loader)
    elif isinstance(target, dict):
        target[last] = yaml.load(text, _Loader)
    else:
        raise ConfigError(f"{key}: {'.'.join(parents)} is {target!r}, which has no keys.")


def _step(target: Any, key: str, whole: str) -> Any:
    """The value under one key of an override; an empty mapping is made where there is none."""
    if isinstance(target, list):
        if not key.isdigit() or int(key) >= len(target):
            raise ConfigError(f"{whole}: {key!r} is no index into a list of {len(target)}.")
        return target[int(key)]
    if not isinstance(target, dict):
        raise ConfigError(f"{whole}: {key!r} leads into {target!r}, which has no keys.")
    if target.get(key) is None:
        target[key] = {}
    return target[key]


def substitute_output(values: Any, output: str | None) -> Any:
    """Put the recipe's output folder in the place of `${output}` in all strings."""
    if isinstance(values, dict):
        return {key: substitute_output(value, output) for key, value in values.items()}
    if isinstance(values, list):
        return [substitute_output(value, output) for value in values]
    if isinstance(values, str) and "${output}" in values:
        if output is None:
            raise ConfigError(f"{values!r} needs the recipe to have an `output`.")
        return values.replace("${output}", output)
    return values


def resolve_stages(recipe: dict[str, Any], source: str) -> list[tuple[str, dict[str, Any]]]:
    """Merge a recipe's defaults, seed, output and scale into the values of each of its stages."""
    if not isinstance(recipe["stages"], dict) or not recipe["stages"]:
        raise ConfigError(f"{source}: stages: expected a mapping from names to stages.")
    resolved = []
    for name, stage in recipe["stages"].items():
        if not isinstance(stage, dict):
            raise ConfigError(f"{source}: stages.{name}: expected a mapping, got {stage!r}.")
        general = {"seed": recipe.get("seed", 0)}
        if recipe.get("output") is not None:
            general["output"] = f"{recipe['output']}/{name}"
        values = merge(merge(general, recipe.get("defaults") or {}), stage)
        resolved.append((name, scale_length(values, recipe.get("scale", 1), source)))
    return resolved


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
    if trainer.get("max_steps", -1) > 0:
        trainer["max_steps"] = max(1, round(trainer["max_steps"] * scale))
    else:
        trainer["num_train_epochs"] = trainer.get("num_train_epochs", 3.0) * scale
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
