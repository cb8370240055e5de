"""The configurations of unimoe: text model, encoders, connectors and the whole. All validation is here.

A configuration is plain data: `UniMoEConfig` holds one `UniMoETextConfig`, up to three encoder configurations (image,
audio, speech; video uses the image encoder) and one connector configuration for each encoder. Unknown keys are
refused.
"""

from os import PathLike
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_rope_utils import RopeParameters

from .configuration_parts import (
    CheckedConfig,
    UniMoEAudioConfig,
    UniMoEConnectorConfig,
    UniMoESpeechConfig,
    UniMoEVisionConfig,
    require,
)
from .modality import MEDIA, Modality
from .remote_code import AUTO_MAP, write_remote_code

ModalityRouting = Literal["shared", "bias", "isolated"]
BalanceScope = Literal["layer", "modality"]


@strict
class UniMoETextConfig(CheckedConfig):
    """Decoder of the Llama/Qwen3 kind whose feed-forward layers may be sparse mixtures of experts.

    `num_experts = 0` is the dense decoder. The names are those of transformers' MoE models; what is new:

    Args:
        qk_norm: RMS-normalise queries and keys per head, as Qwen3 does.
        shared_expert_intermediate_size: Width of one expert that every token passes, added with weight 1. 0: none.
        num_null_experts: Router targets that compute nothing. A null keeps its weight, so the output is attenuated.
        modality_routing: `shared`: one router, blind to the modality. `bias`: a learned bias for each modality and
            expert is added to the router logits. `isolated`: a token sees only its modality's group of experts.
        expert_groups: For `isolated`, modality key -> expert indices. A modality without an entry sees all experts.
        moe_layers: Indices of the sparse layers. None: all layers, if there are experts.
        router_aux_loss_coef: Coefficient of the balance loss.
        router_aux_loss_scope: Over which tokens expert use is balanced: all tokens of a `layer`, or those of each
            `modality` apart, within its permitted experts. None: `modality` if routing is isolated, else `layer`.
        router_z_loss_coef: Coefficient of the router z-loss (Zoph et al. 2022, ST-MoE, eq. 5).
        output_router_logits: Whether forward returns router logits and adds the router losses. None: when labels are
            given.
    """

    model_type = "unimoe_text"
    base_config_key = "text_config"
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 32000
    hidden_size: int = 512
    intermediate_size: int = 1536
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    tie_word_embeddings: bool = False
    rope_parameters: RopeParameters | dict | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float | int = 0.0
    qk_norm: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    num_experts: int = 0
    num_experts_per_tok: int = 2
    moe_intermediate_size: int | None = None
    norm_topk_prob: bool = True
    shared_expert_intermediate_size: int = 0
    num_null_experts: int = 0
    modality_routing: ModalityRouting = "shared"
    expert_groups: dict[str, list[int]] | None = None
    moe_layers: list[int] | None = None
    router_aux_loss_coef: float | int = 0.01
    router_aux_loss_scope: BalanceScope | None = None
    router_z_loss_coef: float | int = 0.001
    output_router_logits: bool | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        self.moe_intermediate_size = self.moe_intermediate_size or self.intermediate_size
        if self.router_aux_loss_scope is None:
            self.router_aux_loss_scope = "modality" if self.modality_routing == "isolated" else "layer"
        super().__post_init__(**kwargs)

    def is_sparse(self, layer_index: int) -> bool:
        """Whether the feed-forward of this decoder layer is a mixture of experts."""
        return self.num_experts > 0 and (self.moe_layers is None or layer_index in self.moe_layers)

    def permitted_experts(self, modality: Modality) -> list[int]:
        """Experts that tokens of this modality may be routed to, in ascending order."""
        groups = self.expert_groups or {}
        return sorted(groups.get(modality.key, range(self.num_experts)))

    def validate_architecture(self) -> None:
        """Check the fields against each other.

        Raises:
            ValueError: Naming the fields that do not fit, and both values.
        """
        require(
            self.num_attention_heads % (self.num_key_value_heads or 1) == 0,
            f"num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads "
            f"({self.num_key_value_heads}).",
        )
        require(self.hidden_act in ACT2FN, f"hidden_act {self.hidden_act!r} is not an activation of transformers.")
        if self.num_experts == 0:
            return
        require(not self.mlp_bias, "mlp_bias: experts have no bias; use a language model without, or no experts.")
        require(self.num_null_experts >= 0, f"num_null_experts is {self.num_null_experts}; it cannot be negative.")
        require(
            1 <= self.num_experts_per_tok <= self.num_experts + self.num_null_experts,
            f"num_experts_per_tok ({self.num_experts_per_tok}) must lie between 1 and num_experts + num_null_experts "
            f"({self.num_experts + self.num_null_experts}).",
        )
        for index in self.moe_layers or []:
            require(
                0 <= index < self.num_hidden_layers,
                f"moe_layers names layer {index}, but there are {self.num_hidden_layers} layers (0-based).",
            )
        self._validate_groups()

    def _validate_groups(self) -> None:
        if self.modality_routing != "isolated":
            require(self.expert_groups is None, "expert_groups needs modality_routing='isolated'.")
            return
        require(bool(self.expert_groups), "modality_routing='isolated' needs expert_groups.")
        require(
            self.router_aux_loss_scope == "modality",
            "modality_routing='isolated' needs router_aux_loss_scope='modality': groups of different load cannot "
            "be balanced against each other.",
        )
        for key, experts in (self.expert_groups or {}).items():
            Modality.from_key(key)
            require(len(set(experts)) == len(experts), f"expert_groups[{key!r}] names an expert twice: {experts}.")
            require(
                all(0 <= expert < self.num_experts for expert in experts),
                f"expert_groups[{key!r}] = {experts} goes beyond the {self.num_experts} experts (0-based).",
            )
        for modality in Modality:
            permitted = len(self.permitted_experts(modality)) + self.num_null_experts
            require(
                self.num_experts_per_tok <= permitted,
                f"num_experts_per_tok ({self.num_experts_per_tok}) exceeds the {permitted} experts that "
                f"{modality.key} tokens may use.",
            )


def _optional(config_class: type[PreTrainedConfig]) -> SubConfigSpec:
    return SubConfigSpec(config_class, optional=True)


@strict
class UniMoEConfig(CheckedConfig):
    """The whole model: language model, encoders, connectors and the ids of the placeholder tokens.

    An encoder that is None is a modality that the model does not have. Video shares the image encoder and connector.

    Args:
        video_num_frames: Frames sampled from every clip.
        video_temporal_stride: Neighbouring frames averaged into one before the connector; divides video_num_frames.
    """

    model_type = "unimoe"
    keys_to_ignore_at_inference = ["past_key_values"]
    sub_configs_defaults = {
        "text_config": SubConfigSpec(UniMoETextConfig),
        "vision_config": _optional(UniMoEVisionConfig),
        "audio_config": _optional(UniMoEAudioConfig),
        "speech_config": _optional(UniMoESpeechConfig),
        "image_connector_config": _optional(UniMoEConnectorConfig),
        "audio_connector_config": _optional(UniMoEConnectorConfig),
        "speech_connector_config": _optional(UniMoEConnectorConfig),
    }

    # Given as dict or configuration; objects of the classes above, or None, once built.
    text_config: Any = None
    vision_config: Any = None
    audio_config: Any = None
    speech_config: Any = None
    image_connector_config: Any = None
    audio_connector_config: Any = None
    speech_connector_config: Any = None
    image_token_id: int | None = None
    video_token_id: int | None = None
    audio_token_id: int | None = None
    speech_token_id: int | None = None
    video_num_frames: int = 8
    video_temporal_stride: int = 1
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        for key in ("image", "audio", "speech"):
            if self.encoder_config(key) is not None and getattr(self, f"{key}_connector_config") is None:
                setattr(self, f"{key}_connector_config", {})
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)

    def save_pretrained(self, save_directory: str | PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save as every configuration, with the file that loads the folder where unimoe was not imported."""
        write_remote_code(save_directory)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def encoder_config(self, key: str) -> Any:
        """Configuration of the encoder `image`, `audio` or `speech`; None if the model has none."""
        return getattr(self, "vision_config" if key == "image" else f"{key}_config")

    def connector_config(self, key: str) -> Any:
        """Configuration of the connector of the encoder `image`, `audio` or `speech`."""
        return getattr(self, f"{key}_connector_config")

    @property
    def encoder_keys(self) -> list[str]:
        """Keys of the encoders that the model has."""
        return [key for key in ("image", "audio", "speech") if self.encoder_config(key) is not None]

    @property
    def media(self) -> list[Modality]:
        """Modalities other than text that the model takes."""
        return [modality for modality in MEDIA if modality.encoder_key in self.encoder_keys]

    @property
    def num_tokens(self) -> dict[str, int]:
        """Placeholder tokens for one unit (picture, clip, window) of each modality that the model takes."""
        counts = {}
        for modality in self.media:
            key = modality.encoder_key
            tokens = self.connector_config(key).num_tokens(self.encoder_config(key).num_tokens)
            frames = self.video_num_frames // self.video_temporal_stride if modality is Modality.VIDEO else 1
            counts[modality.key] = tokens * frames
        return counts

    def token_id(self, modality: Modality) -> int | None:
        """Vocabulary id of the modality's placeholder token."""
        return getattr(self, f"{modality.key}_token_id")

    def validate_architecture(self) -> None:
        """Check the parts against each other.

        Raises:
            ValueError: Naming the part that does not fit.
        """
        for modality in self.media:
            token_id = self.token_id(modality)
            require(
                token_id is not None and 0 <= token_id < self.text_config.vocab_size,
                f"{modality.key}_token_id is {token_id}, but a model with {modality.key} needs an id within the "
                f"vocabulary of {self.text_config.vocab_size}.",
            )
        for key in self.encoder_keys:
            tokens, stack = self.encoder_config(key).num_tokens, self.connector_config(key).stack
            require(tokens % stack == 0, f"{key}_connector_config.stack ({stack}) does not divide {tokens} tokens.")
        require(
            self.video_num_frames % self.video_temporal_stride == 0,
            f"video_temporal_stride ({self.video_temporal_stride}) does not divide video_num_frames "
            f"({self.video_num_frames}).",
        )


__all__ = [
    "UniMoEAudioConfig",
    "UniMoEConfig",
    "UniMoEConnectorConfig",
    "UniMoESpeechConfig",
    "UniMoETextConfig",
    "UniMoEVisionConfig",
]
