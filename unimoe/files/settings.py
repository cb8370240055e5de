"""Settings from YAML files: strict sections, `key.sub=value` overrides, and errors that name file, key and cure.

Training and evaluation describe their settings as `Section`s and read them with these four functions.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ..errors import ConfigError, without_passwords
from ..errors.suggest import did_you_mean
from ..media.limits import Limits
from ..media.naming import shown
from .strict_yaml import parse_yaml, read_yaml_file

_INDEX = re.compile(r"[0-9]{1,18}")
_SHOWN = 20
"""Problems of one file that are shown."""
_LONG = 200
"""Characters of a key that are shown."""


class Section(BaseModel):
    """A mapping of settings; unknown keys are errors that offer the nearest name."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict) and cls.model_config.get("extra") == "forbid":
            for key in values:
                if key not in cls.model_fields:
                    raise unknown_key(str(key)[:_LONG], cls.model_fields)
        return values


S = TypeVar("S", bound=Section)


def unknown_key(key: str, options: Iterable[str]) -> PydanticCustomError:
    """Make the refusal of a key, with the nearest known one."""
    return PydanticCustomError("unknown_key", "unknown key.{hint}", {"key": key, "hint": did_you_mean(key, options)})


def read_yaml(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, and set values in it.

    Args:
        path: The file.
        overrides: `key.sub=value` each, the value in YAML. A number as a key is an index into a list.

    Raises:
        ConfigError: If there is no such file, or it is not YAML, not a mapping or too large, or an override does not
            fit it.
    """
    limits = Limits.from_environment()
    values = read_yaml_file(path, limits)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, found {type(values).__name__}.")
    overrides = list(overrides)
    if len(overrides) > limits.call_options:
        raise ConfigError(
            str(path),
            f"there are {len(overrides):,} overrides, and the limit call_options is {limits.call_options}.",
            "Write them into a file, or set UNIMOE_LIMIT_CALL_OPTIONS in the environment.",
        )
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
    where = f"override {shown(without_passwords(override))}"
    if not equals or not all([*parents, last]):
        raise ConfigError(f"{where}: write key.sub=value, e.g. seed=1.")
    value = parse_yaml(text, where=where, depth=len(parents))
    target: Any = values
    for parent in parents:
        target = _step(target, parent, where)
    if isinstance(target, list):
        _step(target, last, where)
        target[int(last)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise ConfigError(f"{where}: {'.'.join(parents)} is {shown(target)}, which has no keys.")


def _step(target: Any, key: str, where: str) -> Any:
    """Return the value under one key of an override; an empty mapping is made where there is none."""
    if isinstance(target, list):
        if not _INDEX.fullmatch(key) or int(key) >= len(target):
            raise ConfigError(f"{where}: {shown(key)} is no index into a list of {len(target)}.")
        return target[int(key)]
    if not isinstance(target, dict):
        raise ConfigError(f"{where}: {shown(key)} leads into {shown(target)}, which has no keys.")
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
        problems = error.errors()
        lines = [_explain(problem, source) for problem in problems[:_SHOWN]]
        more = [f"{source}: and {len(problems) - _SHOWN:,} more problems."] if len(problems) > _SHOWN else []
        raise ConfigError("\n".join(lines + more)) from None


def _explain(problem: Any, source: str | Path) -> str:
    """Write one of pydantic's problems as `source: key: what is wrong`; our own refusals say all themselves."""
    where = [
        *(str(part)[:_LONG] for part in problem["loc"]),
        *([key] if (key := problem.get("ctx", {}).get("key")) else []),
    ]
    given = "" if problem["type"] in ("refused", "unknown_key", "missing") else f" (got {shown(problem['input'])})"
    return f"{source}: {'.'.join(where) or 'the file'}: {problem['msg']}{without_passwords(given)}"
