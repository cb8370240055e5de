"""The language model without its head: embeddings -> decoder layers (attention, then feed-forward) -> norm.

Weight for weight it is Llama, Mistral, Qwen2, Qwen3, Mixtral, Qwen2-MoE, Qwen3-MoE or OLMoE, as configured.
B batch, S sequence, D hidden size, T = B*S tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ..configuration_unimoe import UniMoETextConfig
from ..errors import DataError
from ..moe import GatedMLP, Router, RoutingContext, build_block
from ..moe.block import ExpertOverlap
from .attention import Attention
from .base import UniMoEPreTrainedModel, require_one
from .outputs import UniMoEModelOutput, formerly_past_key_values
from .rotary import RotaryEmbedding, plain_positions


class DecoderLayer(GradientCheckpointingLayer):
    """Pre-normalised attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: UniMoETextConfig, layer_idx: int) -> None:
        super().__init__()
        self.is_sparse = config.is_sparse(layer_idx)
        self.self_attn = Attention(config, layer_idx)
        sparse, width = self.is_sparse, config.intermediate_size
        self.mlp = build_block(config, config.aliases(layer_idx)) if sparse else GatedMLP(config, width)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, context: RoutingContext, **kwargs: Any) -> Tensor:
        """Map hidden states (B, S, D) of the tokens that the context describes to (B, S, D)."""
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), **kwargs)[0]
        normed = self.post_attention_layernorm(hidden_states)
        return hidden_states + (self.mlp(normed, context) if self.is_sparse else self.mlp(normed))


class UniMoETextModel(UniMoEPreTrainedModel):
    """The decoder without its head."""

    config_class = UniMoETextConfig
    _can_record_outputs = {
        "router_logits": OutputRecorder(Router, index=0),
        "routing": OutputRecorder(Router, index=3),
        "expert_overlaps": OutputRecorder(ExpertOverlap),
        "hidden_states": DecoderLayer,
        "attentions": OutputRecorder(Attention, index=1),
    }

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    @formerly_past_key_values
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        mm_token_type_ids: Tensor | None = None,
        token_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> UniMoEModelOutput:
        """Run the decoder.

        Args:
            position_ids: Plain (B, S); or time, row and column (3, B, S); or these after a plain row, (4, B, S), which
                then tells packed rows apart. None: counted.
            mm_token_type_ids: `Modality` of each token, (B, S). None: all text.
            token_ids: What the embeddings were made from, (B, S), for routers that look at it. None: `input_ids`.
            The others are those of every transformers decoder.

        Raises:
            DataError: Unless exactly one of `input_ids` and `inputs_embeds` is given.
        """
        require_one(input_ids, inputs_embeds)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        # Before there is a cache: transformers looks for packed rows in the positions only where there is none.
        _require_rows(position_ids, inputs_embeds)
        plain = plain_positions(position_ids)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            cache=cache,
            position_ids=plain,
        )
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            past = cache.get_seq_length() if cache is not None else 0
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None] + past
        context = routing_context(
            modality_ids_or_text(mm_token_type_ids, inputs_embeds),
            token_ids=input_ids if token_ids is None else token_ids,
            attention_mask=attention_mask,
        )
        position_embeddings = self.rotary_emb(inputs_embeds, position_ids=position_ids)
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                context,
                attention_mask=mask,
                position_ids=plain,  # flash attention tells packed rows apart by them
                cache=cache,
                position_embeddings=position_embeddings,
                **kwargs,
            )
        return UniMoEModelOutput(last_hidden_state=self.norm(hidden_states), cache=cache)


def routing_context(
    modality_ids: Tensor, *, token_ids: Tensor | None, attention_mask: Tensor | None
) -> RoutingContext:
    """Say what routers may know of the tokens (B, S): their modality, ids, and which are padding."""
    mask = None
    if attention_mask is not None and attention_mask.dim() == 2:  # prepared masks (4-D) come in generation
        mask = attention_mask[:, -modality_ids.shape[1] :].bool().reshape(-1)
    ids = None if token_ids is None else token_ids.reshape(-1)
    return RoutingContext(modality_ids.reshape(-1), token_ids=ids, attention_mask=mask)


def _require_rows(position_ids: Tensor | None, inputs_embeds: Tensor) -> None:
    """Refuse positions (3 or 4, B, S) of another batch: a collator that knows plain ones may have taken them apart."""
    if position_ids is not None and position_ids.dim() == 3 and position_ids.shape[1:] != inputs_embeds.shape[:2]:
        raise DataError(
            f"position_ids of shape {tuple(position_ids.shape)} do not fit a batch of "
            f"{tuple(inputs_embeds.shape[:2])} tokens; they are (3, B, S). Pass those that the processor returned, or "
            "take rows one by one where what collates them knows plain positions only."
        )


def modality_ids_or_text(mm_token_type_ids: Tensor | None, tokens: Tensor) -> Tensor:
    """Give modality ids (B, S) for tokens, their ids (B, S) or embeddings (B, S, D): `mm_token_type_ids`, or all text.

    Raises:
        DataError: If those given are of another batch.
    """
    if mm_token_type_ids is None:
        return torch.zeros(tokens.shape[:2], dtype=torch.long, device=tokens.device)
    if mm_token_type_ids.shape != tokens.shape[:2]:
        raise DataError(
            f"mm_token_type_ids of shape {tuple(mm_token_type_ids.shape)} do not fit a batch of "
            f"{tuple(tokens.shape[:2])} tokens. Pass those that the processor returned, uncut."
        )
    return mm_token_type_ids


__all__ = ["DecoderLayer", "UniMoETextModel", "modality_ids_or_text"]
