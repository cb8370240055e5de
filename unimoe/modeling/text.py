"""The language model: embeddings -> decoder layers (attention, then dense or sparse feed-forward) -> norm -> logits.

Weight for weight it is Llama, Mistral, Qwen2, Qwen3, Mixtral, Qwen2-MoE, Qwen3-MoE or OLMoE, as configured.
B batch, S sequence, D hidden size, T = B*S tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, slice_logits_to_keep
from transformers.models.llama.modeling_llama import (
    LlamaRMSNorm,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ..configuration_unimoe import UniMoETextConfig
from ..errors import DataError
from ..modality import MEDIA
from ..moe import GatedMLP, Router, RoutingContext, SoftMoeBlock, SparseMoeBlock
from ..moe.block import ExpertOverlap
from ..moe.router_types import router_weights
from .base import UniMoEPreTrainedModel, require_one
from .outputs import UniMoEModelOutput, UniMoEOutput, add_router_losses, formerly_past_key_values
from .rotary import RotaryEmbedding, plain_positions


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions; queries and keys may be normalised (`qk_norm`)."""

    def __init__(self, config: UniMoETextConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        key_value_heads = config.num_key_value_heads or config.num_attention_heads
        self.head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = config.num_attention_heads // key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        query_size = config.num_attention_heads * self.head_dim
        key_size = key_value_heads * self.head_dim
        bias = config.attention_bias or config.qkv_bias
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, key_size, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, key_size, bias=bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.attention_bias)
        norm_sizes = (query_size, key_size) if config.qk_norm == "projection" else (self.head_dim, self.head_dim)
        self.q_norm, self.k_norm = (
            LlamaRMSNorm(size, eps=config.rms_norm_eps) if config.qk_norm else nn.Identity() for size in norm_sizes
        )

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Map (B, S, D) to (B, S, D) and, if the implementation gives them, attention weights (B, heads, S, S)."""
        query, key, value = self.project(hidden_states)  # (B, heads, S, head_dim) each
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.attention_dropout if self.training else 0.0
        output, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights

    def project(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of hidden states (B, S, D), split into heads (B, heads, S, head_dim)."""
        query, key, value = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        if self.config.qk_norm == "projection":
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (states.unflatten(-1, (-1, self.head_dim)) for states in (query, key, value))
        if self.config.qk_norm == "head":
            query, key = self.q_norm(query), self.k_norm(key)
        if (limit := self.config.clip_qkv) is not None:
            query, key, value = (states.clamp(-limit, limit) for states in (query, key, value))
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


class DecoderLayer(GradientCheckpointingLayer):
    """Pre-normalised attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: UniMoETextConfig, layer_idx: int) -> None:
        super().__init__()
        self.is_sparse = config.is_sparse(layer_idx)
        self.self_attn = Attention(config, layer_idx)
        sparse = SoftMoeBlock if config.router_type == "soft" else SparseMoeBlock
        self.mlp = sparse(config) if self.is_sparse else GatedMLP(config, config.intermediate_size)
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
        "expert_mask": OutputRecorder(Router, index=3),
        "router_probs": OutputRecorder(Router, index=4),
        "router_gates": OutputRecorder(Router, index=5),
        "load_probability": OutputRecorder(Router, index=6),
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
            _text_if_none(mm_token_type_ids, inputs_embeds),
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
    """What routers may know of the tokens (B, S): their modality, ids, and which are padding."""
    real = None
    if attention_mask is not None and attention_mask.dim() == 2:  # prepared masks (4-D) come in generation
        real = attention_mask[:, -modality_ids.shape[1] :].bool().reshape(-1)
    ids = None if token_ids is None else token_ids.reshape(-1)
    return RoutingContext(modality_ids.reshape(-1), token_ids=ids, real=real)


def _require_rows(position_ids: Tensor | None, inputs_embeds: Tensor) -> None:
    """Refuse positions (3 or 4, B, S) of another batch: a collator that knows plain ones may have taken them apart."""
    if position_ids is not None and position_ids.dim() == 3 and position_ids.shape[1:] != inputs_embeds.shape[:2]:
        raise DataError(
            f"position_ids of shape {tuple(position_ids.shape)} do not fit a batch of "
            f"{tuple(inputs_embeds.shape[:2])} tokens; they are (3, B, S). Pass those that the processor returned, or "
            "take rows one by one where what collates them knows plain positions only."
        )


def _text_if_none(mm_token_type_ids: Tensor | None, inputs_embeds: Tensor) -> Tensor:
    """Modality ids (B, S) for embeddings (B, S, D): those given, or all text."""
    if mm_token_type_ids is None:
        return torch.zeros(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
    if mm_token_type_ids.shape != inputs_embeds.shape[:2]:
        raise DataError(
            f"mm_token_type_ids of shape {tuple(mm_token_type_ids.shape)} do not fit a batch of "
            f"{tuple(inputs_embeds.shape[:2])} tokens. Pass those that the processor returned, uncut."
        )
    return mm_token_type_ids


class LanguageHead(UniMoEPreTrainedModel, GenerationMixin):
    """Logits and losses on top of `self.model`; shared by the text-only and the multimodal model."""

    lm_head: nn.Linear

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as every transformers model does.

        Raises:
            DataError: If the router lets a token's experts depend on other tokens, so that there is no next token.
        """
        text_config = self.config.get_text_config()
        if reason := text_config.generation_obstacle:
            raise DataError(f"A model with router_type={text_config.router_type!r} cannot generate: {reason}.")
        return super().generate(*args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        inputs_embeds: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Prepare a step as transformers does. Tokens after those that have a modality id are text: candidates of
        assisted decoding, to which transformers gives none.
        """
        if mm_token_type_ids is not None:
            missing = max(input_ids.shape[1] - mm_token_type_ids.shape[1], 0)
            mm_token_type_ids = F.pad(mm_token_type_ids, (0, missing))
        inherited: Any = super()
        return inherited.prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, mm_token_type_ids=mm_token_type_ids, **kwargs
        )

    def predict(
        self,
        *,
        text_config: UniMoETextConfig,
        labels: Tensor | None,
        output_router_logits: bool | None,
        logits_to_keep: int | Tensor,
        inputs: dict[str, Any],
        **loss_kwargs: Any,
    ) -> UniMoEOutput:
        """Run `self.model` on `inputs` and put logits and losses on top."""
        for config in (self.config, text_config):
            if output_router_logits is None:
                output_router_logits = config.output_router_logits
        if output_router_logits is None:
            output_router_logits = labels is not None
        outputs = self.model(
            **inputs,
            **loss_kwargs,
            output_router_logits=output_router_logits,
            output_expert_mask=output_router_logits,
            output_router_probs=output_router_logits,
            output_router_gates=output_router_logits,
            output_load_probability=output_router_logits,
            output_expert_overlaps=output_router_logits,
            return_dict=True,
        )
        hidden_states = outputs.last_hidden_state
        logits = self.lm_head(slice_logits_to_keep(hidden_states, logits_to_keep))
        loss: Tensor | None = None
        losses: dict[str, Tensor] = {}
        if labels is not None:
            loss, losses = add_router_losses(
                text_config,
                self.loss_function(logits, labels, text_config.vocab_size, **loss_kwargs),
                outputs,
                modality_ids=_text_if_none(inputs.get("mm_token_type_ids"), hidden_states),
                attention_mask=inputs.get("attention_mask"),
                router_weights=router_weights(self),
            )
        return UniMoEOutput(
            loss=loss,
            aux_loss=losses.get("balance"),
            losses=losses or None,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
            expert_mask=outputs.expert_mask,
            router_probs=outputs.router_probs,
            **{modality.output_name: outputs.get(modality.output_name) for modality in MEDIA},
        )


class UniMoEForCausalLM(LanguageHead):
    """The language model alone, dense or sparse."""

    config_class = UniMoETextConfig
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__(config)
        self.model = UniMoETextModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    @formerly_past_key_values
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        mm_token_type_ids: Tensor | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> UniMoEOutput:
        """Predict the next token at every position.

        Args:
            labels: Token ids, (B, S); -100 takes no part in the language loss.
            mm_token_type_ids: `Modality` of each token, (B, S). None: all text.
            output_router_logits: Return router logits and, with labels, add the router losses. None: as configured,
                else when labels are given.
            logits_to_keep: Compute logits for the last so many positions only (0: all), or for these positions.
            The others are those of `UniMoETextModel.forward`.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "cache": cache,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
            "mm_token_type_ids": mm_token_type_ids,
        }
        return self.predict(
            text_config=self.config,
            labels=labels,
            output_router_logits=output_router_logits,
            logits_to_keep=logits_to_keep,
            inputs=inputs,
            **kwargs,
        )


__all__ = [
    "UniMoEForCausalLM",
    "UniMoEModelOutput",
    "UniMoEOutput",
    "UniMoEPreTrainedModel",
    "UniMoETextModel",
]
