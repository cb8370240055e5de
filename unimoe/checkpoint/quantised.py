"""Folders of quantised models: experts as linear modules whose weights are tensors of torchao, in safetensors.

The classes of models hold experts in stacks, each of one kind of number. Here each expert is quantised by itself:
experts are seen as linear modules (`unimoe.experts_as_linears`) before weights are loaded, and stay so. Values and
scales are tensors of their own (`experts.down_proj.3._weight_qdata`, `..._scale`), all tensors have the names that
they have in memory, and the headers of the files say how torchao puts them together.
"""

import json
from typing import Any

from torch import Tensor
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..configuration.base import QUANTISED
from ..errors import UniMoEError
from ..moe.experts.linears import experts_as_linears, forget_stacks

_METHOD = QUANTISED["quant_method"]


class QuantisedConfig(QuantizationConfigMixin):
    """What `config.json` says of a quantised model: which reader it needs. The files of weights say the rest."""

    def __init__(self, quant_method: str = _METHOD) -> None:
        self.quant_method: Any = quant_method


class QuantisedReader(TorchAoHfQuantizer):
    """Reads and writes the folder of a quantised model, for `from_pretrained` and `save_pretrained`."""

    requires_calibration = True  # to transformers: folders of floats are not quantised while they are loaded
    quantized_element_size: Any = 1.0
    is_trainable: Any = False

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to load where torchao is missing."""
        require_torchao()
        super().validate_environment(*args, **kwargs)

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        """Take all weights as they are saved."""
        return False

    def _process_model_before_weight_loading(self, model: Any, checkpoint_files: Any = None, **kwargs: Any) -> None:
        experts_as_linears(model, split_gate_up=False)
        forget_stacks(model)
        self.set_metadata(checkpoint_files)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        model._weight_conversions = []  # saved under the names in memory
        return model

    def update_weight_conversions(self, weight_conversions: list[Any], model: Any) -> list[Any]:
        """Leave out what stacks experts and renames them: names on disk are those in memory."""
        return self.get_weight_conversions()

    def get_load_operations(self) -> dict[str, Any]:
        """Say what puts the parts of a tensor together."""
        return {"deserialize": _Join}


class _Join(ConversionOps):
    """Puts values and scales together; transformers' own operation goes through all tensors of the model for each."""

    def __init__(self, reader: QuantisedReader) -> None:
        self.headers = reader.metadata

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, list[Tensor]]:
        """Make the weight of a module from `_weight_qdata`, `_weight_scale` and their like."""
        from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

        name, base = kwargs["full_layer_name"], f"{kwargs['model'].base_model_prefix}."
        names = (name, f"{base}{name}", name.removeprefix(base))  # of a whole model, or of its base alone
        saved = next((own for own in names if own in self.headers), name)
        owner = saved.rpartition(".")[0]
        parts = {f"{owner}.{part}": values[0] for part, values in input_dict.items()}
        header = {"tensor_names": json.dumps([saved]), saved: self.headers[saved]}
        return {name: [unflatten_tensor_state_dict(parts, header)[0][saved]]}


def mark_quantised(model: Any) -> None:
    """Let `save_pretrained` write a model as quantised, whose experts are linear modules for good.

    Args:
        model: Of transformers. It is changed in place.
    """
    model.hf_quantizer = QuantisedReader(QuantisedConfig())
    model.is_quantized, model.quantization_method = True, _METHOD
    model.hf_quantizer.postprocess_model(model)


def require_torchao() -> None:
    """Refuse to go on without torchao.

    Raises:
        UniMoEError: If it is not installed.
    """
    try:
        import torchao  # noqa: F401
    except ImportError as error:
        raise UniMoEError("torchao", "it is not installed.", "Install it: pip install 'unimoe[quantize]'.") from error


def register_reader() -> None:
    """Tell transformers' loader of these folders; its own decorators refuse where unimoe is imported anew."""
    AUTO_QUANTIZATION_CONFIG_MAPPING[_METHOD] = QuantisedConfig
    AUTO_QUANTIZER_MAPPING[_METHOD] = QuantisedReader


__all__ = ["QuantisedConfig", "QuantisedReader", "mark_quantised", "register_reader", "require_torchao"]
