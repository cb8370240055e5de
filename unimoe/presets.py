"""Published mixtures of experts as configurations, each with its source and with what this package has no field for.

A preset describes; it holds no weights. Checkpoints of some of these models load through `build.language_models`.
Where a source is silent a field has its default. A loss coefficient is the number of the source: where that source is
a class of transformers, its balance loss is K times ours (see `unimoe.moe.losses`).
"""

import copy
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .configuration_unimoe import UniMoETextConfig
from .errors.suggest import did_you_mean

_UNI_MOE = "arXiv 2405.11273, its code (HITsz-TMG/Uni-MoE at f5e82dd) and its released config.json"


@dataclass(frozen=True)
class Preset:
    """One published configuration.

    Args:
        title: What it is, in one line.
        source: Where the figures are from.
        differs: What the published model has and this configuration does not, or is uncertain in it.
        fields: Of `UniMoETextConfig`.
    """

    title: str
    source: str
    differs: str
    fields: MappingProxyType[str, Any]


def _class_defaults(name: str, checkpoint: str) -> str:
    return f"defaults of transformers 5.23's {name} ({checkpoint})"


def _fields(**fields: Any) -> MappingProxyType[str, Any]:
    """Fields of a preset whose source knows no z-loss, unless it is given."""
    return MappingProxyType({"router_z_loss_coef": 0.0, **fields})


_UNI_MOE_V1 = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
}

PRESETS: dict[str, Preset] = {
    "mixtral-8x7b": Preset(
        title="Mixtral 8x7B: top-2 of 8 full-size experts",
        source=f"arXiv 2401.04088; {_class_defaults('MixtralConfig', 'mistralai/Mixtral-8x7B-v0.1')}",
        differs="The balance coefficient is the class default; the published checkpoint has 0.02 (from memory).",
        fields=_fields(
            vocab_size=32000,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=131072,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            bos_token_id=1,
            eos_token_id=2,
            num_experts=8,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            router_aux_loss_coef=0.001,
        ),
    ),
    "qwen2-moe": Preset(
        title="Qwen1.5-MoE-A2.7B: top-4 of 60 fine-grained experts, one gated shared expert",
        source=_class_defaults("Qwen2MoeConfig", "Qwen/Qwen1.5-MoE-A2.7B"),
        differs="Class defaults; the published checkpoint may differ, in its rotary base for one (from memory).",
        fields=_fields(
            vocab_size=151936,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=24,
            num_attention_heads=16,
            num_key_value_heads=16,
            max_position_embeddings=32768,
            qkv_bias=True,
            num_experts=60,
            num_experts_per_tok=4,
            moe_intermediate_size=1408,
            shared_expert_intermediate_size=5632,
            shared_expert_weighting="sigmoid",
            norm_topk_prob=False,
            router_aux_loss_coef=0.001,
        ),
    ),
    "qwen3-moe": Preset(
        title="Qwen3-MoE: top-8 of 128 fine-grained experts, none shared",
        source=_class_defaults("Qwen3MoeConfig", "Qwen/Qwen3-30B-A3B-Base"),
        differs="Class defaults: Qwen3-30B-A3B has more layers, wider heads and renormalised weights (from memory).",
        fields=_fields(
            vocab_size=151936,
            hidden_size=2048,
            intermediate_size=6144,
            num_hidden_layers=24,
            num_attention_heads=32,
            num_key_value_heads=4,
            max_position_embeddings=32768,
            qk_norm="head",
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
            norm_topk_prob=False,
            router_aux_loss_coef=0.001,
        ),
    ),
    "olmoe-1b-7b": Preset(
        title="OLMoE-1B-7B: top-8 of 64 small experts, weights not renormalised",
        source=f"arXiv 2409.02060; {_class_defaults('OlmoeConfig', 'allenai/OLMoE-1B-7B-0924')}",
        differs="The width of an expert is that of the paper, half the class default; the z-loss coefficient is from "
        "memory, the class has none.",
        fields=_fields(
            vocab_size=50304,
            hidden_size=2048,
            intermediate_size=1024,
            num_hidden_layers=16,
            num_attention_heads=16,
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
            pad_token_id=1,
            eos_token_id=50279,
            qk_norm="projection",
            num_experts=64,
            num_experts_per_tok=8,
            norm_topk_prob=False,
            router_aux_loss_coef=0.01,
            router_z_loss_coef=0.001,
        ),
    ),
    "deepseek-v3": Preset(
        title="DeepSeek-V3: sigmoid scores, group-limited top-8 of 256, balanced by a bias, one shared expert",
        source="arXiv 2412.19437; defaults of transformers 5.23's DeepseekV3Config; step of the bias: arXiv "
        "2408.15664",
        differs="Attention is grouped-query with heads of the published value width (128), not multi-head latent "
        "attention; no multi-token prediction; no sequence-wise balance loss.",
        fields=_fields(
            vocab_size=129280,
            hidden_size=7168,
            intermediate_size=18432,
            num_hidden_layers=61,
            num_attention_heads=128,
            num_key_value_heads=128,
            head_dim=128,
            max_position_embeddings=4096,
            bos_token_id=0,
            eos_token_id=1,
            num_experts=256,
            num_experts_per_tok=8,
            moe_intermediate_size=2048,
            shared_expert_intermediate_size=2048,
            mlp_only_layers=[0, 1, 2],
            scoring_func="sigmoid",
            norm_topk_prob=True,
            routed_scaling_factor=2.5,
            balance_bias=True,
            balance_bias_update_rate=0.001,
            n_group=8,
            topk_group=4,
            router_aux_loss_coef=0.0,
        ),
    ),
    "ernie-4.5-vl": Preset(
        title="ERNIE-4.5-VL: 64 text and 64 smaller vision experts, isolated, with 2 shared experts",
        source=_class_defaults("Ernie4_5_VLMoeTextConfig", "baidu/ERNIE-4.5-VL-28B-A3B-PT"),
        differs="No multimodal rotary positions; the tokens around a picture count as text; no router orthogonality "
        "loss (its coefficient is not published); sounds and speech, which ERNIE does not take, use the text experts.",
        fields=_fields(
            vocab_size=103424,
            hidden_size=2560,
            intermediate_size=12288,
            num_hidden_layers=28,
            num_attention_heads=20,
            num_key_value_heads=4,
            max_position_embeddings=131072,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 5e5},
            num_experts=128,
            num_experts_per_tok=6,
            moe_intermediate_size=1536,
            num_shared_experts=2,
            shared_expert_intermediate_size=1536,
            mlp_only_layers=[0],
            norm_topk_prob=True,
            balance_bias=True,
            modality_routing="isolated",
            expert_groups={"text": list(range(64)), "image": list(range(64, 128))},
            expert_group_intermediate_sizes={"image": 512},
            router_aux_loss_coef=0.001,
        ),
    ),
    "vl-moe": Preset(
        title="VL-MoE: separate vision and language experts, one expert per token",
        source="arXiv 2303.07226; top-1, 32 experts of each kind and every other layer from memory; sizes: our "
        "defaults",
        differs="A causal decoder, not a bidirectional encoder trained by masked modelling; no batch-prioritised "
        "capacity for images. The dense layers on top that fuse image and text are mlp_only_layers, not given here.",
        fields=_fields(
            num_experts=64,
            num_experts_per_tok=1,
            decoder_sparse_step=2,
            modality_routing="isolated",
            expert_groups={"text": list(range(32)), "image": list(range(32, 64))},
        ),
    ),
    "moe-llava": Preset(
        title="MoE-LLaVA: top-2 of 4 experts in every other layer",
        source="arXiv 2401.15947 and its code; every other layer from memory; sizes: our defaults",
        differs="No capacity: the code drops tokens beyond 1.5 times the even load in training (2.0 in evaluation); "
        "capacity_factor=1.5 does so, but a model that has it cannot generate.",
        fields=_fields(num_experts=4, num_experts_per_tok=2, decoder_sparse_step=2, router_aux_loss_coef=0.01),
    ),
    "cumo": Preset(
        title="CuMo: top-2 of 4 experts copied from a dense model (co-upcycling)",
        source="arXiv 2405.05949 and its code; sizes: our defaults",
        differs="Experts stand in the language model alone, not in the vision tower and the connector; the balance "
        "loss counts all choices of a token, the code only the first.",
        fields=_fields(num_experts=4, num_experts_per_tok=2, router_aux_loss_coef=0.1, router_z_loss_coef=0.01),
    ),
    "uni-moe-4e-speech": Preset(
        title="Uni-MoE-speech: top-2 of 4 experts in all layers, softmax over the chosen, no balance loss",
        source=_UNI_MOE,
        differs="The experts are tuned with LoRA, which is a matter of training here.",
        fields=_fields(**_UNI_MOE_V1, num_experts=4, router_aux_loss_coef=0.0),
    ),
    "uni-moe-4e-audio": Preset(
        title="Uni-MoE-audio and Uni-MoE-speech v1.5: the same in the even layers, 0 the first",
        source=_UNI_MOE,
        differs="The experts are tuned with LoRA, which is a matter of training here; so is the router, but the code "
        "loads it without that change.",
        fields=_fields(**_UNI_MOE_V1, num_experts=4, moe_layers=list(range(0, 32, 2)), router_aux_loss_coef=0.0),
    ),
    "uni-moe-8e": Preset(
        title="Uni-MoE with 8 experts: top-2 in all layers, a balance loss",
        source=_UNI_MOE,
        differs="No loss on the experts assigned to a modality, none that drives modalities apart: both are off in "
        "the release. So are the maps by modality in front of the router, which `router_modality_projection` makes "
        "(without their bias). The balance loss counts all choices of a token, the code only the first. The second "
        "expert is not drawn with noise, which the code does in evaluation too. The experts are six feed-forwards, "
        "each with a low-rank change, which are added up here.",
        fields=_fields(**_UNI_MOE_V1, num_experts=8, router_aux_loss_coef=0.01),
    ),
    "uni-moe-2.0": Preset(
        title="Uni-MoE-2.0-Omni: top-p over 4 experts and a null, two small shared experts weighed by the router",
        source="arXiv 2511.12609 and its code, ishine/UMOE-Scaling-Unified-Multimodal-LLMs at ad00fc4; jitter 0.01 "
        "and coefficient 0.025 are those of its preview, DCMoE in HITsz-TMG/Uni-MoE at f5e82dd; sizes: defaults of "
        "transformers 5.23's Qwen2_5OmniTextConfig (Qwen2.5-7B)",
        differs="For a new model: the chosen experts' probabilities are their weights, from which the router learns. "
        'The released weights were trained with near ties in their place: for them add `combine_weights="near_tie"`. '
        "The released configuration is not at hand: widths of experts, one null and top_p 0.7 are those that fit the "
        "28 billion parameters and the sibling UniMoE-Audio. Plain router gradient, not GRIN, which needs top_k here; "
        "the balance loss weighs answer tokens as all others and its coefficient does not decay; no drop of tokens.",
        fields=_fields(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            max_position_embeddings=32768,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            qkv_bias=True,
            num_experts=4,
            moe_intermediate_size=18944,
            num_null_experts=1,
            num_experts_per_tok=5,
            router_type="top_p",
            router_top_p=0.7,
            norm_topk_prob=True,
            null_experts_keep_mass=True,
            num_shared_experts=2,
            shared_expert_intermediate_size=2368,
            shared_expert_weighting="router",
            router_jitter_noise=0.01,
            router_aux_loss_coef=0.025,
        ),
    ),
    "uni-moe-2.5": Preset(
        title="Uni-MoE-2.5: top-4 of 60 fine-grained experts, 2 shared, weights renormalised",
        source="class defaults in Uni-MoE-2d5 of HITsz-TMG/Uni-MoE; sizes: defaults of transformers 5.23's "
        "Qwen3VLMoeTextConfig, on which it is built",
        differs="Class defaults, not the 6B checkpoint, whose sizes are its own; a note beside the code says 4 shared "
        "experts; their width is assumed to be that of the routed ones; no gate on the attention output, no "
        "sliding-window layers, no DeepStack, no multimodal positions.",
        fields=_fields(
            vocab_size=151936,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=24,
            num_attention_heads=16,
            num_key_value_heads=16,
            max_position_embeddings=128000,
            rope_parameters={"rope_type": "default", "rope_theta": 5e6},
            qk_norm="head",
            num_experts=60,
            num_experts_per_tok=4,
            moe_intermediate_size=1408,
            num_shared_experts=2,
            shared_expert_intermediate_size=1408,
            norm_topk_prob=True,
            router_aux_loss_coef=0.001,
        ),
    ),
}


ALIASES = MappingProxyType({"uni-moe-4e": "uni-moe-4e-speech", "uni-moe-v1.5": "uni-moe-4e-audio"})
"""Further names of presets: an old one, and a release that is made as another."""


def names() -> list[str]:
    """Names of all presets, each once."""
    return list(PRESETS)


def text_config(name: str, **overrides: Any) -> UniMoETextConfig:
    """Make the configuration of a preset.

    Args:
        name: One of `names()`, or of `ALIASES`.
        **overrides: Fields of `UniMoETextConfig` that replace the preset's, such as sizes for a small experiment.

    Raises:
        ValueError: If there is no such preset, or the fields do not fit together.
    """
    known = PRESETS | {alias: PRESETS[target] for alias, target in ALIASES.items()}
    if name not in known:
        raise ValueError(f"There is no preset {name!r}.{did_you_mean(name, known)}")
    return UniMoETextConfig(**{**copy.deepcopy(dict(known[name].fields)), **overrides})


__all__ = ["ALIASES", "PRESETS", "Preset", "names", "text_config"]
