"""Settings from YAML files: strict sections, `key.sub=value` overrides, and errors that name file, key and cure.

Training and evaluation describe their settings as `Section`s and read them with these four functions.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from .errors import ConfigError
from .suggest import did_you_mean


class Section(BaseModel):
    """A mapping of settings; unknown keys are errors that offer the nearest name."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict) and cls.model_config.get("extra") == "forbid":
            for key in values:
                if key not in cls.model_fields:
                    raise unknown_key(str(key), cls.model_fields)
        return values


S = TypeVar("S", bound=Section)


def unknown_key(key: str, options: Iterable[str]) -> PydanticCustomError:
    """The refusal of a key, with the nearest known one."""
    return PydanticCustomError("unknown_key", "unknown key.{hint}", {"key": key, "hint": did_you_mean(key, options)})


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


def read_yaml(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, and set values in it.

    Args:
        path: The file.
        overrides: `key.sub=value` each, the value in YAML. A number as a key is an index into a list.

    Raises:
        ConfigError: If there is no such file, or it is not YAML, or not a mapping, or an override does not fit it.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_one_line(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, found {type(values).__name__}.")
    for override in overrides:
        apply_override(values, override)
    return values


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one value in place, e.g. `stages.align.trainer.max_steps=5`.

    Raises:
        ConfigError: If it is not of the form key=value, the key does not lead anywhere, or the value is not YAML.
    """
    key, equals, text = override.partition("=")
    *parents, last = key.split(".")
    override = _without_passwords(override)
    if not equals or not all([*parents, last]):
        raise ConfigError(f"override {override!r}: write key.sub=value, e.g. seed=1.")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML: {_one_line(error)}") from None
    target: Any = values
    for parent in parents:
        target = _step(target, parent, override)
    if isinstance(target, list):
        _step(target, last, override)
        target[int(last)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise ConfigError(f"override {override!r}: {'.'.join(parents)} is {target!r}, which has no keys.")


def _step(target: Any, key: str, override: str) -> Any:
    """The value under one key of an override; an empty mapping is made where there is none."""
    if isinstance(target, list):
        if not key.isdigit() or int(key) >= len(target):
            raise ConfigError(f"override {override!r}: {key!r} is no index into a list of {len(target)}.")
        return target[int(key)]
    if not isinstance(target, dict):
        raise ConfigError(f"override {override!r}: {key!r} leads into {target!r}, which has no keys.")
    if target.get(key) is None:
        target[key] = {}
    return target[key]


def validate(section: type[S], values: Any, *, source: str | Path) -> S:
    """Make a section of the values that YAML gave.

    Args:
        section: What the values shall become.
        values: From `read_yaml`.
        source: File (and place in it) for error messages.

    Raises:
        ConfigError: One line for each problem: source, key, problem, cure.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem, source) for problem in error.errors())) from None


def _explain(problem: Any, source: str | Path) -> str:
    """Write one of pydantic's problems as `source: key: what is wrong`; our own refusals say all themselves."""
    where = [*map(str, problem["loc"]), *([key] if (key := problem.get("ctx", {}).get("key")) else [])]
    given = "" if problem["type"] in ("refused", "unknown_key", "missing") else f" (got {problem['input']!r})"
    given = _without_passwords(given)
    return f"{source}: {'.'.join(where) or 'the file'}: {problem['msg']}{given}"


def _one_line(error: Exception) -> str:
    return _without_passwords(" ".join(str(error).split()))  # YAML's errors quote the line


def _without_passwords(text: str) -> str:
    """A text whose addresses have no user and password."""
    return re.sub(r"//[^/\s]*@", "//***@", text)
