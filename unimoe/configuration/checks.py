"""What guards every configuration: one kind of error, and a bound on how large a model it may describe.

Sizes are read off the values as they were given, before anything is made of them: a number in a file must not cost
memory.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ..errors import ConfigError, UniMoEError
from ..media.limits import Limits

T = TypeVar("T")

# What Python and transformers raise where a value has another type or size than the code that reads it expects.
_MISFITS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
_DEEPEST = 50  # mappings and lists within each other; a configuration has five
_LARGEST = 10**9  # of any whole number; context lengths reach 10^7
# Names of what is counted out, module by module or entry by entry.
IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
_LAYERS = re.compile(r"(layers|layer|depths?|blocks|stages)$")
_ENTRIES = re.compile(
    r"(experts|num_labels|queries|heads|groups|token_grid|num_tokens|channels|mel_bins)$|^max_source_positions$"
)
# Of which a model has at least one; and of which it may have none, but no fewer.
_POSITIVE = re.compile(
    r"^(hidden_sizes?|embedding_size|d_model|embed_dim|num_features|vocab_size|head_dim|image_size|patch_size"
    r"|num_channels|num_mel_bins|num_hidden_layers|max_source_positions|(moe_)?intermediate_size|expert_latent_size"
    r"|(en|de)coder_ffn_dim|((en|de)coder|num)_attention_heads|num_key_value_heads)$"
)
_COUNTS = re.compile(
    r"^(num_layers|(en|de)coder_layers|depths?|num_experts|num_labels|shared_expert_intermediate_size)$"
)


class InvalidConfig(ConfigError, StrictDataclassError):
    """A configuration that describes no model. For transformers it is what its own strict configurations raise."""


def checked(cls: type[T]) -> type[T]:
    """Make a configuration class strict, and let everything that it refuses be an `InvalidConfig`."""
    cls = strict(cls)
    for name in ("__init__", "__setattr__", "validate"):
        setattr(cls, name, _with_one_error(getattr(cls, name)))
    return cls


def _with_one_error(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except UniMoEError:
            raise
        except _MISFITS as error:
            raise InvalidConfig(f"{type(self).__name__}: {what_failed(error)}") from error

    return call


def what_failed(error: BaseException) -> str:
    """Put an error in one line; of a strict configuration's, what the check said."""
    cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
    if isinstance(error, UniMoEError):
        cause = None
    kind = "" if isinstance(error, (ValueError, StrictDataclassError)) else f"{type(error).__name__}: "
    text = " ".join(str(cause or error).split())
    return f"{kind}{text[:600]}{'...' if len(text) > 600 else ''}"


def check_size(name: str, values: Mapping[str, Any], limits: Limits | None = None) -> None:
    """Refuse numbers from which no model could be made, and lists and mappings of more entries than any has.

    Args:
        name: Of the configuration.
        values: Its fields as they were given: numbers, and dicts or configurations of parts.
        limits: None: those of the environment.

    Raises:
        InvalidConfig: Naming the key of a number that is too small or too large.
        LimitError: Naming the key, and the limit.
    """
    limits = limits or Limits.from_environment()
    for key, number in _numbers(values, name, limits):
        last = key.rpartition(".")[2].partition("[")[0]
        _check_least(name, key, last, number)
        if _LAYERS.search(last):
            limits.check("model_layers", abs(number), f"it is {number}", where=name, key=key)
        elif _ENTRIES.search(last):
            limits.check("model_entries", abs(number), f"it is {number}", where=name, key=key)
        elif abs(number) > _LARGEST:
            raise InvalidConfig(name, f"{number:.3g} is too large for any model.", "Correct the number.", key=key)
    count = sum(count_roughly(part) for part in _parts(values))
    limits.check("model_parameters", count, f"it describes about {count:.2g} parameters", where=name)


def _check_least(name: str, key: str, last: str, number: int) -> None:
    """Refuse a size or count below the least; `last` is the name of the key within its part."""
    least = 1 if _POSITIVE.search(last) else 0 if _COUNTS.search(last) else number
    if number < least:
        raise InvalidConfig(name, f"it is {number:.4g}, and at least {least}.", "Correct the number.", key=key)


def _parts(values: Any) -> Iterator[Mapping[str, Any]]:
    """Return the fields of a configuration, and of each part in it."""
    values = vars(values) if isinstance(values, PreTrainedConfig) else values
    if isinstance(values, Mapping):
        yield values
        for value in values.values():
            yield from _parts(value)


def count_roughly(values: Mapping[str, Any]) -> float:
    """Parameters that a decoder or tower of these fields would have, to within a small factor."""

    def largest(*names: str) -> float:
        return max((float(_largest(values.get(name))) for name in names), default=0.0)

    width = largest("hidden_size", "d_model", "embed_dim", "num_features")
    inner = largest("intermediate_size", "encoder_ffn_dim", "shared_expert_intermediate_size")
    experts = largest("num_experts") * (largest("moe_intermediate_size") or largest("intermediate_size"))
    layers = largest("num_hidden_layers", "encoder_layers")
    heads = largest("num_attention_heads") * largest("head_dim")
    patches = largest("image_size") ** 2 / max(largest("patch_size"), 1.0) ** 2
    patch = largest("patch_size") ** 2 * max(largest("num_channels"), 1.0) + 3 * largest("num_mel_bins")
    once = largest("vocab_size", "num_queries", "max_source_positions") + patch + patches
    return width * (once + layers * (4 * max(width, heads) + 3 * (inner + experts)))


def refuse_what_is_fetched(values: Any, name: str, key: str = "") -> None:
    """Refuse a file that names a kernel or a tower of a Hub, which loading would fetch.

    Args:
        values: What the file holds.
        name: Of the file.
        key: Place of the values within it.

    Raises:
        InvalidConfig: Naming the key and what it names.
    """
    for part, value in values.items() if isinstance(values, Mapping) else ():
        place = f"{key}.{part}" if key else str(part)
        if isinstance(value, Mapping):
            refuse_what_is_fetched(value, name, place)
        steps = (step.strip("_").removesuffix("_internal") for step in place.split("."))
        is_code = any(step in IMPLEMENTATIONS for step in steps)
        if isinstance(value, str) and ((is_code and "/" in value) or (part == "architecture" and ":" in value)):
            raise InvalidConfig(
                name,
                f"{value[:100]!r} would be fetched from a Hub, which a configuration cannot ask for.",
                "Take the key out; an argument asks for a kernel: from_pretrained(..., attn_implementation=...).",
                key=place,
            )


def _largest(value: Any) -> float:
    numbers = value if isinstance(value, (list, tuple)) else [value]
    found = [abs(n) for n in numbers if isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n)]
    return min(max(found, default=0), 10**30)


def _numbers(values: Any, name: str, limits: Limits, key: str = "", depth: int = 0) -> Iterator[tuple[str, int]]:
    """Every whole number in nested values, with its place."""
    if depth > _DEEPEST:
        raise InvalidConfig(name, f"over {_DEEPEST} levels stand within each other.", "Flatten it.", key=key[:100])
    values = vars(values) if isinstance(values, PreTrainedConfig) else values
    if isinstance(values, int) and not isinstance(values, bool):
        yield key, values
    elif isinstance(values, (Mapping, Sequence)) and not isinstance(values, (str, bytes)):
        limits.check("model_entries", len(values), f"it has {len(values)} entries", where=name, key=key[:100])
        is_named = isinstance(values, Mapping)
        for part, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            place = f"{key}.{part}" if is_named and key else str(part) if is_named else f"{key}[{part}]"
            yield from _numbers(value, name, limits, place, depth + 1)


__all__ = [
    "IMPLEMENTATIONS",
    "InvalidConfig",
    "check_size",
    "checked",
    "count_roughly",
    "refuse_what_is_fetched",
    "what_failed",
]
