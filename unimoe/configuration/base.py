"""The base of all configurations: unknown keys are refused, and so is what could not be loaded again."""

import copy
import json
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ..errors import UniMoEError
from ..errors.suggest import did_you_mean
from ..files.strict_json import parse_json
from ..modality import MEDIA
from .checks import IMPLEMENTATIONS, InvalidConfig, check_size, refuse_what_is_fetched, what_failed

# Keys that transformers itself passes through **kwargs; anything else that is not a field is a mistake.
_TRANSFORMERS_KEYS = {
    "name_or_path",
    "model_type",
    "architectures",
    "transformers_version",
    "auto_map",
    "torch_dtype",
    "output_attentions",
    "attn_implementation",
    "experts_implementation",
    "rope_theta",
    "rope_scaling",
    "num_labels",
    "use_cache",  # set by Trainer on the configuration of the whole
    "quantization_config",
}

QUANTISED = {"quant_method": "unimoe_torchao"}
"""The only `quantization_config`; its reader is `unimoe.checkpoint.quantised`. Others may fetch kernels from a Hub."""


OUTPUTS_BESIDE_LOGITS = (
    "cache",
    "aux_loss",
    "losses",
    "hidden_states",
    "attentions",
    "router_logits",
    "routing",
    *(modality.output_name for modality in MEDIA),
)
"""What models return besides loss and logits; `compute_metrics` of a Trainer sees none of it."""


class CheckedConfig(PreTrainedConfig):
    """Refuses unknown keys, with the nearest known name. transformers would store them without a word."""

    keys_to_ignore_at_inference = list(OUTPUTS_BESIDE_LOGITS)

    def __post_init__(self, **kwargs: Any) -> None:
        check_size(type(self).__name__, {**vars(self), **kwargs})
        for key in kwargs:
            if key not in _TRANSFORMERS_KEYS and not key.startswith("_"):
                fields = type(self).__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys()
                raise InvalidConfig(f"{type(self).__name__}: unknown key {key!r}.{did_you_mean(key, fields)}")
        if (found := kwargs.get("quantization_config", QUANTISED)) != QUANTISED:
            problem = f"quantization_config is {found!r:.100}, and can only be {QUANTISED}."
            raise InvalidConfig(type(self).__name__, problem, "Quantise with `unimoe quantize`.")
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from what a file holds. Implementations that the caller names go before it, kernels of a Hub too.

        Raises:
            InvalidConfig: If the file's model is another, or names code or weights that would be fetched.
        """
        if not isinstance(config_dict, dict):
            raise InvalidConfig(f"{cls.__name__}: a configuration is a mapping of keys, got {config_dict!r:.100}.")
        if (kind := config_dict.get("model_type", cls.model_type)) != cls.model_type:
            raise InvalidConfig(f"{cls.__name__} is for model_type {cls.model_type!r}, got {kind!r:.100}.")
        refuse_what_is_fetched(config_dict, cls.__name__)
        chosen = {name: kwargs.pop(name) for name in IMPLEMENTATIONS if name in kwargs}
        found: Any = super().from_dict(copy.deepcopy(config_dict), **kwargs)
        for name, value in chosen.items():
            setattr(found[0] if isinstance(found, tuple) else found, f"_{name}", value)
        return found

    @classmethod
    def _dict_from_json_file(cls, json_file: str | PathLike) -> Any:
        return parse_json(Path(json_file).read_bytes(), where=str(json_file))

    def save_pretrained(self, save_directory: str | PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save as every configuration, but nothing that could not be loaded again.

        Raises:
            InvalidConfig: If what would be written is refused when it is read: values that were changed after
                construction do not fit each other, or an attribute is no field.
        """
        try:
            self._check_readable(self.to_json_string(use_diff=True))
        except (UniMoEError, StrictDataclassError, TypeError, ValueError) as error:
            raise InvalidConfig(
                f"{type(self).__name__} was changed so that it could not be loaded again, and is not saved",
                f"{what_failed(error)}",
                "Correct the attribute, or build the configuration anew with it.",
            ) from error
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    @lru_cache(maxsize=8)  # a training writes the same one beside each checkpoint
    def _check_readable(cls, text: str) -> None:
        cls.from_dict(json.loads(text))


def require(condition: bool, problem: str) -> None:
    """Refuse a configuration.

    Raises:
        InvalidConfig: With the problem as its message, unless the condition holds.
    """
    if not condition:
        raise InvalidConfig(problem)


__all__ = ["OUTPUTS_BESIDE_LOGITS", "QUANTISED", "CheckedConfig", "require"]
