"""Classes of transformers that say what a configuration of ours says, each with what it can express.

Of the fields of `UniMoETextConfig`, those in `SAME` are said in each class under the same name, those in
`WITHOUT_EFFECT` change nothing of what a trained model answers to text, those in `ONLY` have one value in each class,
and by the others, which `traits` reads, classes differ.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ..configuration_unimoe import UniMoETextConfig
from ..errors import UniMoEError

SAME = (
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "rms_norm_eps",
    "use_cache",
    "vocab_size",
)
"""Fields that each class has, under the same name."""

WITHOUT_EFFECT = {
    "losses and the balance of experts in training": (
        "balance_bias_update_rate",
        "output_router_logits",
        "router_aux_loss_coef",
        "router_aux_loss_global_batch",
        "router_aux_loss_scope",
        "router_entropy_min_experts",
        "router_losses",
        "router_z_loss_coef",
    ),
    "chance and gradients in training": ("router_gradient", "router_jitter_noise", "sparsemixer_epsilon"),
    "of a kind that is refused itself": (
        "capacity_priority",
        "expert_group_intermediate_sizes",
        "expert_groups",
        "expert_latent_groups",
        "expert_latent_size",
        "expert_lora_alpha",
        "expert_rank",
        "min_experts_per_tok",
        "null_experts_keep_mass",
        "router_top_p",
        "slots_per_expert",
    ),
}
"""Why -> fields that change nothing of what a trained model answers to text."""

_MULTIPLY_OUT = "Multiply the experts out first: `materialize` of each layer's experts gives those of type mlp."
ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "capacity_factor": ((None,), "Set it to None if the model answers as well without a limit."),
    "combine_weights": (("scores",), ""),
    "expert_aliases": ((None,), "Export the model from before experts were merged."),
    "expert_type": (("mlp",), _MULTIPLY_OUT),
    "modality_routing": (("shared",), ""),
    "num_null_experts": ((0,), ""),
    "reserved_experts": ((None,), "Export the model from before it was extended."),
    "router_modality_projection": ((False,), ""),
    "router_type": (("top_k", "noisy_top_k"), ""),
}
"""Field -> the values that a class can have, and what helps where it has another."""

NO_SHARED_WIDTH = 128
"""Width of the shared expert, all zeros, of a decoder that has none, in a class whose layers have one."""

Traits = dict[str, Any]


def shared_width(text: UniMoETextConfig) -> int:
    """Width of all shared experts of a layer together."""
    return text.num_shared_experts * text.shared_expert_intermediate_size


def traits(text: UniMoETextConfig) -> Traits:
    """Say of a decoder what classes differ in, by fields, or by what several of them make together.

    Args:
        text: The configuration.
    """
    layers = [text.is_sparse(index) for index in range(text.num_hidden_layers)]
    dense = layers.index(True) if any(layers) else len(layers)
    found: Traits = {
        "bias of the attention": "all" if text.attention_bias else "qkv" if text.qkv_bias else None,
        "mlp_bias": text.mlp_bias,
        "qk_norm": text.qk_norm,
        "clip_qkv": text.clip_qkv,
    }
    if dense == len(layers):
        return found
    width = shared_width(text)
    multiple = width % (text.moe_intermediate_size or 1) == 0
    return found | {
        "sparse layers": "all" if all(layers) else "the last ones" if all(layers[dense:]) else "some",
        "shared experts": text.shared_expert_weighting if width else None,
        "width of the shared experts": "a multiple of an expert's" if multiple else width,
        "scoring_func": text.scoring_func,
        "norm_topk_prob": text.norm_topk_prob,
        "balance_bias": text.balance_bias,
        "n_group": text.n_group,
        "routed_scaling_factor": text.routed_scaling_factor,
    }


_ANY: tuple[Any, ...] = ()
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias of the attention": (None,),
    "mlp_bias": (False,),
    "qk_norm": (None,),
    "clip_qkv": (None,),
    "sparse layers": ("all", "the last ones", "some"),
    "shared experts": (None,),
    "width of the shared experts": _ANY,
    "scoring_func": ("softmax",),
    "norm_topk_prob": (True, False),
    "balance_bias": (False,),
    "n_group": (1,),
    "routed_scaling_factor": (1,),
}
"""Trait -> its values in a class that says nothing else; `_ANY`: whatever it is."""


@dataclass(frozen=True)
class StockClass:
    """A causal language model of transformers.

    Args:
        can: Trait -> the values that it can have, where they are not those of most classes; none named: any.
        says: Makes the fields of its configuration that are not in `SAME` of ours.
        names: Parts of parameter names in our models -> in its own; the first that fits.
    """

    can: Mapping[str, tuple[Any, ...]]
    says: Callable[[UniMoETextConfig], dict[str, Any]]
    names: Mapping[str, str] = field(default_factory=lambda: {".mlp.router.": ".mlp.gate."})

    def name(self, ours: str) -> str:
        """Name of a parameter of our language model in this class."""
        part = next((part for part in self.names if part in ours), "")
        return ours.replace(part, self.names.get(part, ""))


def _biases(text: UniMoETextConfig) -> dict[str, Any]:
    return {"attention_bias": text.attention_bias}


def _routing(text: UniMoETextConfig) -> dict[str, Any]:
    names = ("num_experts", "num_experts_per_tok", "norm_topk_prob", "router_aux_loss_coef")
    return {name: getattr(text, name) for name in names}


def _some_sparse(text: UniMoETextConfig) -> dict[str, Any]:
    """Say which layers are sparse as Qwen does, and how wide their experts are."""
    dense = [index for index in range(text.num_hidden_layers) if not text.is_sparse(index)]
    listed = {"mlp_only_layers": dense, "decoder_sparse_step": 1}
    own = {"mlp_only_layers": text.mlp_only_layers or [], "decoder_sparse_step": text.decoder_sparse_step}
    which = own if text.moe_layers is None else listed
    return {**_routing(text), **which, "moe_intermediate_size": text.moe_intermediate_size}


def _all_sparse(text: UniMoETextConfig) -> dict[str, Any]:
    return {**_routing(text), "intermediate_size": text.moe_intermediate_size}


def _mixtral(text: UniMoETextConfig) -> dict[str, Any]:
    values = _all_sparse(text)
    del values["norm_topk_prob"]
    return {**values, "num_local_experts": values.pop("num_experts")}


def _qwen2_moe(text: UniMoETextConfig) -> dict[str, Any]:
    width = shared_width(text) or NO_SHARED_WIDTH
    return {**_some_sparse(text), "qkv_bias": text.qkv_bias, "shared_expert_intermediate_size": width}


def _glm4_moe(text: UniMoETextConfig) -> dict[str, Any]:
    return {
        "n_routed_experts": text.num_experts,
        "n_shared_experts": max(shared_width(text) // (text.moe_intermediate_size or 1), 1),
        "first_k_dense_replace": [text.is_sparse(index) for index in range(text.num_hidden_layers)].index(True),
        "use_qk_norm": text.qk_norm == "head",
        "attention_bias": text.qkv_bias,
        "partial_rotary_factor": 1.0,
        "num_mtp_layers": 0,
        **{name: getattr(text, name) for name in ("num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob")},
        **{name: getattr(text, name) for name in ("n_group", "topk_group", "routed_scaling_factor")},
    }


_ALL_OR_NO_BIAS = {"bias of the attention": ("all", None)}
_QKV_OR_NO_BIAS = {"bias of the attention": ("qkv", None)}
CLASSES: dict[str, StockClass] = {
    "llama": StockClass(
        {**_ALL_OR_NO_BIAS, "mlp_bias": (True, False)}, lambda text: {**_biases(text), "mlp_bias": text.mlp_bias}
    ),
    "qwen2": StockClass({"bias of the attention": ("qkv",)}, lambda text: {}),
    "qwen3": StockClass({**_ALL_OR_NO_BIAS, "qk_norm": ("head",)}, _biases),
    "mixtral": StockClass({"sparse layers": ("all",), "norm_topk_prob": (True,)}, _mixtral),
    "olmoe": StockClass(
        {**_ALL_OR_NO_BIAS, "qk_norm": ("projection",), "clip_qkv": _ANY, "sparse layers": ("all",)},
        lambda text: {**_all_sparse(text), **_biases(text), "clip_qkv": text.clip_qkv},
    ),
    "qwen2_moe": StockClass({**_QKV_OR_NO_BIAS, "shared experts": ("sigmoid", None)}, _qwen2_moe),
    "qwen3_moe": StockClass(
        {**_ALL_OR_NO_BIAS, "qk_norm": ("head",)}, lambda text: {**_some_sparse(text), **_biases(text)}
    ),
    "glm4_moe": StockClass(
        {
            **_QKV_OR_NO_BIAS,
            "qk_norm": ("head", None),
            "sparse layers": ("all", "the last ones"),
            "shared experts": ("one", None),
            "width of the shared experts": ("a multiple of an expert's",),
            "scoring_func": ("sigmoid",),
            "balance_bias": (True, False),
            "n_group": _ANY,
            "routed_scaling_factor": _ANY,
        },
        _glm4_moe,
        {
            ".mlp.router.balance_bias": ".mlp.gate.e_score_correction_bias",
            ".mlp.router.": ".mlp.gate.",
            ".mlp.shared_expert.": ".mlp.shared_experts.",
        },
    ),
}
"""`model_type` -> the class."""


def choose_class(text: UniMoETextConfig) -> str:
    """Choose the class that says what a decoder is, from what it is.

    Args:
        text: Its configuration.

    Returns:
        A `model_type` of `CLASSES`.

    Raises:
        UniMoEError: If none does; the field, its value and what helps are named.
    """
    found = traits(text)
    kind = _nearest(found)
    if "sparse layers" in found:
        for name, (values, cure) in ONLY.items():
            if (value := getattr(text, name)) not in values:
                raise UniMoEError(name, f"it is {value!r}, and no class of transformers has it.", cure)
    for name, value in found.items():
        allowed = CLASSES[kind].can.get(name, _PLAIN[name])
        if allowed and value not in allowed:
            can = " or ".join(map(repr, allowed))
            raise UniMoEError(name, f"it is {value!r}; of {kind}, the nearest class of transformers, it is {can}.")
    return kind


def _nearest(found: Traits) -> str:
    if "sparse layers" not in found:
        return "qwen3" if found["qk_norm"] else "qwen2" if found["bias of the attention"] == "qkv" else "llama"
    if found["scoring_func"] == "sigmoid" or found["balance_bias"] or found["n_group"] > 1:
        return "glm4_moe"
    if found["shared experts"]:
        return "qwen2_moe" if found["shared experts"] == "sigmoid" else "glm4_moe"
    if found["qk_norm"]:
        return "qwen3_moe" if found["qk_norm"] == "head" else "olmoe"
    is_mixtral = found["norm_topk_prob"] and found["sparse layers"] == "all" and not found["bias of the attention"]
    return "mixtral" if is_mixtral else "qwen2_moe"


def stock_config(text: UniMoETextConfig, kind: str, **fields: Any) -> PreTrainedConfig:
    """Say in the configuration of a class what ours says.

    Args:
        text: Ours.
        kind: `model_type` of the class.
        **fields: Of its configuration, instead of ours.

    Raises:
        UniMoEError: If the class refuses them.
    """
    rope = {key: value for key, value in (text.rope_parameters or {}).items() if key != "mrope_section"}
    same = {name: copy.deepcopy(getattr(text, name)) for name in SAME}
    own = {**same, "rope_parameters": rope, **CLASSES[kind].says(text), **fields}
    try:
        return AutoConfig.for_model(kind, **own)
    except ValueError as error:
        raise UniMoEError(kind, f"the class refuses this decoder ({' '.join(str(error).split())}).") from error


__all__ = ["CLASSES", "ONLY", "SAME", "WITHOUT_EFFECT", "StockClass", "choose_class", "stock_config", "traits"]
