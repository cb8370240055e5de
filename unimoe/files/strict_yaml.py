"""YAML as people write it, read without losing or guessing anything, and bounded: one reader for files of settings
and overrides."""

import re
import stat
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, LimitError, without_passwords
from ..media.limits import Limits, limits_or_default

_Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEPEST = 1_000
"""Lists and mappings within each other that libyaml reads."""
_NUMBER = re.compile(r"[-+]?[\d.][\w.:+-]*")


def read_yaml_file(path: str | Path, limits: Limits | None = None) -> Any:
    """Read one YAML value from an ordinary file.

    Args:
        path: The file.
        limits: Of size and depth. None: those of the environment.

    Raises:
        ConfigError: If it cannot be read, is not UTF-8 or not YAML, or is larger than the limits allow.
    """
    limits = limits_or_default(limits)
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(str(path), "is no ordinary file.", "Name a YAML file.")
        _check(limits, "yaml_bytes", found.st_size, f"the file has {found.st_size:,} bytes", str(path))
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        byte = f"the byte 0x{error.object[error.start]:02x} at position {error.start}"
        raise ConfigError(str(path), f"not UTF-8: {byte}.", "Save the file as UTF-8.") from None
    return parse_yaml(text, where=str(path), limits=limits)


def parse_yaml(text: str, *, where: str, limits: Limits | None = None, depth: int = 0) -> Any:
    """Parse one YAML value; its size is counted first, without building anything.

    Args:
        text: YAML. 4e-5 is a number, as in YAML 1.2.
        where: File, or override, for errors.
        limits: Of size and depth. None: those of the environment.
        depth: How deep the value will stand.

    Raises:
        ConfigError: If it is not YAML, a key is given twice, or it is larger or deeper than the limits allow, anchors
            counted wherever they are used.
    """
    limits = limits_or_default(limits)
    _check(limits, "yaml_bytes", len(text), f"the text has {len(text):,} characters", where)
    try:
        _Size(where, limits, depth).count(yaml.parse(text, Loader=_Fast))
        return _unshared(yaml.load(text, _Loader))
    except yaml.YAMLError as error:
        if "nesting depth" in str(error):  # libyaml looks ahead, and has a limit of its own
            _check(limits, "json_depth", _DEEPEST, f"lists and mappings stand {_DEEPEST} deep or more", where)
        told = without_passwords(" ".join(str(error).split()))  # YAML's errors quote the line
        raise ConfigError(where, f"not valid YAML: {told[:1000]}") from None
    except RecursionError:
        raise ConfigError(where, "lists and mappings stand too deep within each other.", "Flatten them.") from None


def _unshared(value: Any) -> Any:
    """Return the value with a copy for each alias, so that what is set in one place does not change in another."""
    if isinstance(value, dict):
        return {key: _unshared(part) for key, part in value.items()}
    return [_unshared(part) for part in value] if isinstance(value, list) else value


def _check(limits: Limits, name: str, value: int, what: str, where: str) -> None:
    try:
        limits.check(name, value, what, where=where)
    except LimitError as error:
        raise ConfigError(error.where, error.problem, error.cure) from None


class _Size:
    """Counts what a YAML text will hold, alias by alias, and stops at a limit.

    Args:
        where: For errors.
        limits: What is allowed.
        depth: How deep the value will stand.
    """

    def __init__(self, where: str, limits: Limits, depth: int) -> None:
        self.where, self.limits, self.depth = where, limits, depth
        self.nodes = 0
        self.sizes: dict[str, tuple[int, int]] = {}  # anchor -> nodes in it, and how deep they stand

    def count(self, events: Iterator[Any]) -> None:
        """Go through the events of a parser."""
        above: list[tuple[str | None, int]] = []  # anchor of each open collection, and nodes before it
        heights = [0]
        for event in events:
            if isinstance(event, yaml.CollectionStartEvent):
                above.append((event.anchor, self.nodes))
                heights.append(0)
                self._add(1, len(above))
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = above.pop()
                height = heights.pop() + 1
                heights[-1] = max(heights[-1], height)
                if anchor is not None:
                    self.sizes[anchor] = (self.nodes - before, height)
            elif isinstance(event, yaml.AliasEvent):
                nodes, height = self._named(event.anchor, above)
                heights[-1] = max(heights[-1], height)
                self._add(nodes, len(above) + height)
            elif isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
                self._add(1, len(above))

    def _add(self, nodes: int, depth: int) -> None:
        self.nodes += nodes
        depth += self.depth
        if self.nodes > self.limits.yaml_keys:
            _check(
                self.limits, "yaml_keys", self.nodes, f"it holds {self.nodes:,} keys and values or more", self.where
            )
        if depth > self.limits.json_depth:
            _check(self.limits, "json_depth", depth, f"lists and mappings stand {depth} deep", self.where)

    def _named(self, anchor: str | None, above: list[tuple[str | None, int]]) -> tuple[int, int]:
        if anchor is not None and anchor in self.sizes:
            return self.sizes[anchor]
        if any(anchor == name for name, _ in above):
            raise ConfigError(self.where, f"&{anchor} holds itself (*{anchor}).", "Write the value out.")
        return 0, 0  # which the loader refuses

    def _scalar(self, event: Any) -> None:
        if event.anchor is not None:
            self.sizes[event.anchor] = (1, 0)
        digits, limits = len(event.value), self.limits
        if digits > limits.number_digits and event.implicit[0] and _NUMBER.fullmatch(event.value):
            _check(limits, "number_digits", digits, f"a number has {digits} digits", self.where)


class _Loader(_Fast):
    """Safe YAML that reads 4e-5 as a number, and refuses what would be lost or guessed."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping of which no key is given twice."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise _problem("<< is not read: write the keys out", key_node)
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _problem("a key must be a text or a number", key_node)
            if key in seen:
                raise _problem(f"the key {key!r:.80} is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Return a value; a date or number that is none is told by its place."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError) as error:
            raise _problem(f"{node.value!r:.80} cannot be read ({error})", node) from None


def _problem(text: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


__all__ = ["parse_yaml", "read_yaml_file"]
