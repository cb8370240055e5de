"""The language model with its head: next-token logits, losses and generation. B batch, S sequence, V vocabulary."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, GenerationMixin
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils import can_return_tuple

from ..configuration_unimoe import UniMoETextConfig
from ..errors import DataError
from ..modality import MEDIA
from .base import UniMoEPreTrainedModel
from .loss import add_router_losses
from .outputs import UniMoEOutput, formerly_past_key_values
from .text import UniMoETextModel, modality_ids_or_text


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
        tokens = inputs["inputs_embeds"] if inputs["input_ids"] is None else inputs["input_ids"]
        if tokens is not None:  # else the model says what it lacks
            inputs["mm_token_type_ids"] = modality_ids_or_text(inputs["mm_token_type_ids"], tokens)
        outputs = self.model(
            **inputs,
            **loss_kwargs,
            output_router_logits=output_router_logits,
            output_routing=output_router_logits,
            output_expert_overlaps=output_router_logits,
            return_dict=True,
        )
        hidden_states = outputs.last_hidden_state
        logits = self.lm_head(slice_logits_to_keep(hidden_states, logits_to_keep))
        loss: Tensor | None = None
        losses: dict[str, Tensor] = {}
        if labels is not None:
            loss = self.loss_function(logits, labels, text_config.vocab_size, **loss_kwargs)
            loss, losses = add_router_losses(self, text_config, loss, outputs, inputs)
        return UniMoEOutput(
            loss=loss,
            aux_loss=losses.get("balance"),
            losses=losses or None,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
            routing=outputs.routing,
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


__all__ = ["LanguageHead", "UniMoEForCausalLM"]
