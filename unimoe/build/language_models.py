"""Language models of transformers, dense or sparse, as unimoe language models of the same weights and logits.

transformers loads the checkpoint, whatever its layout on disk; what remains is to say the same in our configuration
and under our names.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ..checkpoint.loading import load_weights, read_config
from ..configuration_unimoe import UniMoETextConfig
from ..modeling.head import UniMoEForCausalLM

# None of these decoders has a z-loss. Mixtral's router always renormalises; its jitter, if any, moves what the experts
# see too, ours what the router sees alone.
_SPARSE = {"router_type": "top_k", "router_z_loss_coef": 0.0}

LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": "head"},
    "mixtral": {**_SPARSE, "norm_topk_prob": True},
    "qwen2_moe": {**_SPARSE, "shared_expert_weighting": "sigmoid"},
    "qwen3_moe": {**_SPARSE, "qk_norm": "head"},
    "olmoe": {**_SPARSE, "qk_norm": "projection"},
}
"""Decoders that `UniMoEForCausalLM` reproduces -> fields of `UniMoETextConfig` that their configuration leaves unsaid.

What it does say, it says under our names, if need be through its `attribute_map` (Mixtral's `num_local_experts`).
"""

PARAMETER_NAMES = {".mlp.gate.": ".mlp.router."}
"""Parts of parameter names that differ -> ours; all others are the same in each of `LANGUAGE_MODELS`."""

# Fields that describe the class that was loaded or a call, not the decoder. transformers' default is never to return
# router logits, ours to return them with the loss, which needs them.
_NOT_COPIED = ("architectures", "dtype", "model_type", "output_router_logits")


def build_language_model(source: str | Path, dtype: torch.dtype | str = "auto") -> UniMoEForCausalLM:
    """Load a language model of transformers as a unimoe language model of equal logits.

    In bfloat16 and float64 logits differ by rounding: our routers compute in float32 and in float64, those of
    transformers take logits in the model's dtype and their softmax in float32.

    Args:
        source: Folder or Hub id of a causal language model; its `model_type` is one of `LANGUAGE_MODELS`.
        dtype: Of the weights. `auto`: as they were saved.

    Returns:
        The model in evaluation mode, with the generation settings of its source. Of a sparse one, the balance loss
        has the coefficient of its source, but `unimoe.moe.losses` balances each layer apart and divides by K.

    Raises:
        ValueError: If the decoder is of another kind, attends in a way that ours does not, or lacks a weight.
    """
    if (kind := read_config(source).get("model_type")) not in LANGUAGE_MODELS:
        raise ValueError(f"A {kind!r} language model cannot be used; {', '.join(LANGUAGE_MODELS)} models can.")
    return convert_language_model(load_weights(AutoModelForCausalLM, source, dtype=dtype, exact=False))


def convert_language_model(theirs: PreTrainedModel) -> UniMoEForCausalLM:
    """Make a unimoe language model of one of transformers; weights of equal dtype are shared, not copied.

    Raises:
        ValueError: As `build_language_model`.
    """
    config = UniMoETextConfig(**text_config(theirs.config))
    weights = {our_name(name): tensor for name, tensor in theirs.state_dict().items()}
    loaded: Any = UniMoEForCausalLM.from_pretrained(
        None, config=config, state_dict=weights, dtype=theirs.dtype, output_loading_info=True
    )
    model, found = loaded
    strangers = sorted([*found["missing_keys"], *found["unexpected_keys"]])
    if strangers:
        raise ValueError(f"its weights are not those of a {theirs.config.model_type!r} model: {strangers[0]}.")
    model.generation_config = copy.deepcopy(theirs.generation_config)
    return model.eval()


def text_config(config: PreTrainedConfig) -> dict[str, Any]:
    """Read a language model's configuration as fields of `UniMoETextConfig`.

    Raises:
        ValueError: If the decoder attends in a way that `UniMoETextModel` does not.
    """
    windowed = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if windowed or getattr(config, "use_sliding_window", False) or getattr(config, "sliding_window", None):
        raise ValueError(
            "A language model with sliding-window attention cannot be used. Up to the length of its window "
            f"({getattr(config, 'sliding_window', None)} tokens) full attention computes the same: for those, "
            "set sliding_window to null, use_sliding_window to false and layer_types to null in its config.json."
        )
    values = config.to_dict() | {name: getattr(config, name) for name in config.attribute_map}
    own = UniMoETextConfig.__dataclass_fields__.keys() - set(_NOT_COPIED)
    fields = {name: value for name, value in values.items() if name in own and value is not None}
    fields["rope_parameters"] = copy.deepcopy(config.rope_parameters)
    return {**fields, **LANGUAGE_MODELS[config.model_type]}


def our_name(name: str) -> str:
    """Name of a parameter of transformers' model in ours."""
    for theirs, ours in PARAMETER_NAMES.items():
        name = name.replace(theirs, ours)
    return name


__all__ = ["LANGUAGE_MODELS", "build_language_model", "convert_language_model", "text_config"]
