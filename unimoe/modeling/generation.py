"""Generation with media: each medium is encoded once, before the first step, whatever the kind of decoding.

transformers does so for images and video; here all modalities are treated alike, and a conversation that goes on from
the cache of its last turn encodes its new media only. B batch, S sequence, D hidden size.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import Cache, GenerationConfig, GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..errors import DataError
from ..modality import MEDIA, Modality
from .merge import check_counts
from .outputs import EncoderOutputs


class MultimodalGeneration(GenerationMixin):
    """What `generate` asks of a model with media; the hooks have transformers' names."""

    config: Any
    model: Any

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        """Count positions, which the caller left out; media of a model with `omni` positions need their own."""
        require_positions(self.config, None, model_kwargs.get("mm_encoder_outputs"))
        positions: Tensor = super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        return positions

    def _maybe_prepare_encoder_kwargs_for_generation(
        self,
        inputs_tensor: Tensor,
        model_kwargs: dict[str, Any],
        model_input_name: str | None,
        generation_config: GenerationConfig,
    ) -> dict[str, Any]:
        """Replace the features of media by their embeddings, and drop those that the cache holds already.

        transformers' own method knows images and video, and encodes all of them.

        Raises:
            DataError: If placeholders that the cache does not hold and features differ in number. An assistant gets no
                media, see `_get_candidate_generator`.
        """
        names = [str(modality.feature_name) for modality in MEDIA]
        features = {name: model_kwargs.pop(name, None) for name in names}
        encoded = model_kwargs.pop("encoder_states", None) or {}
        states = {str(Modality.from_key(key).feature_name): units for key, units in encoded.items()}
        cache: Cache | None = model_kwargs.get("cache")
        past = int(cache.get_seq_length()) if cache is not None else 0
        new_inputs = inputs_tensor
        mask = model_kwargs.get("attention_mask")  # None: all ones; transformers then remembers its length
        length = getattr(generation_config, "_mask_length", -1) if mask is None else mask.shape[1]
        # As `generate` does: inputs as long as the mask are the whole conversation, shorter ones only what is new.
        if past and inputs_tensor.shape[1] == length:
            features, states = (self.uncached_units(units, inputs_tensor, past) for units in (features, states))
            new_inputs = inputs_tensor[:, past:]
        model_kwargs["mm_encoder_outputs"] = self.model.encode_all(
            features,
            model_kwargs.get("mm_encoder_outputs"),
            {m.key: states[name] for m in MEDIA if (name := str(m.feature_name)) in states},
        )
        if not generation_config.is_assistant:
            check_counts(self.placeholders(new_inputs), model_kwargs["mm_encoder_outputs"])
        return model_kwargs

    def placeholders(self, inputs: Tensor) -> dict[Modality, Tensor]:
        """Find where placeholders stand (B, S) in token ids (B, S) or embeddings (B, S, D)."""
        by_modality: dict[Modality, Tensor] = (
            self.model.placeholders(inputs) if inputs.dim() == 2 else self.model.placeholders(None, inputs)
        )
        return by_modality

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        inputs_embeds: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Prepare a step as transformers does; placeholders were counted before the first one."""
        inherited: Any = super()
        inputs = inherited.prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, mm_token_type_ids=mm_token_type_ids, **kwargs
        )
        return {**inputs, "require_media": False}

    def uncached_units(
        self, features: dict[str, Tensor | None], inputs: Tensor, past: int
    ) -> dict[str, Tensor | None]:
        """Keep the units, of the features of a whole conversation, whose placeholders the cache lacks.

        Args:
            features: Units of the whole conversation, or of the new part alone, by their argument's name.
            inputs: Token ids (B, S) or embeddings (B, S, D) of the whole conversation.
            past: Tokens that the cache holds.

        Raises:
            DataError: If the cache ends within a unit, or the units are those of neither the whole nor the new part.
        """
        for modality, mask in self.placeholders(inputs).items():
            name, size = str(modality.feature_name), self.config.num_tokens[modality.key]
            if (units := features.get(name)) is None:
                continue
            total, cached = mask.sum(-1).tolist(), mask[:, :past].sum(-1).tolist()
            new = new_units(total, cached, size, modality)
            if len(units) not in (sum(total) // size, len(new)):
                raise DataError(
                    f"Found {len(units)} unit(s) in {name}, but the conversation has {sum(total) // size} and its "
                    f"part after the cache {len(new)}. Pass the media of all turns, or those of the new turn alone."
                )
            kept = units if len(units) == len(new) else units[new]
            features[name] = kept if len(kept) else None
        return features

    def _expand_multimodal_outputs(
        self,
        input_ids: Tensor,
        mm_encoder_output: EncoderOutputs,
        expand_size: int = 1,
        inputs_embeds: Tensor | None = None,
    ) -> Any:
        """Repeat each row's media for its beams: units A, B of a row become A, B, A, B."""
        has_ids = input_ids is not None and input_ids.numel() > 0
        placeholders = self.model.placeholders(input_ids if has_ids else None, inputs_embeds)
        expanded: EncoderOutputs = {}
        for key, output in mm_encoder_output.items():
            tokens_per_row = placeholders[Modality.from_key(key)].sum(-1).tolist()
            units: Any = repeat_units(output.pooler_output, tokens_per_row, expand_size)
            expanded[key] = BaseModelOutputWithPooling(pooler_output=units)
        return expanded

    def _get_candidate_generator(  # type: ignore[override]
        self,
        generation_config: GenerationConfig,
        *,
        model_kwargs: dict[str, Any],
        assistant_model: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Give an assistant what it takes; media are not among it, so it drafts from the text and is corrected.

        Raises:
            DataError: If the model's own first layers shall draft, which transformers looks for in the wrong place.
        """
        if generation_config.assistant_early_exit is not None:
            raise DataError("assistant_early_exit is for text-only models; pass an assistant_model instead.")
        if assistant_model is not None:
            taken = set(inspect.signature(assistant_model.forward).parameters) - {"mm_encoder_outputs"}
            model_kwargs = {key: value for key, value in model_kwargs.items() if key in taken}
        inherited: Any = super()
        return inherited._get_candidate_generator(
            generation_config, model_kwargs=model_kwargs, assistant_model=assistant_model, **kwargs
        )


def new_units(total: list[int], cached: list[int], size: int, modality: Modality) -> list[int]:
    """Find the indices of the units that the cache lacks, among those of all rows in order.

    Args:
        total: Placeholder tokens of each row.
        cached: How many of them the cache holds.
        size: Tokens of one unit.
        modality: For the message.

    Raises:
        DataError: If the cache ends within a unit.
    """
    indices: list[int] = []
    start = 0
    for row, (tokens, old) in enumerate(zip(total, cached, strict=True)):
        if old % size:
            raise DataError(
                f"Row {row}: the cache ends within a medium; it holds {old} {modality.key} tokens, and a unit has "
                f"{size}. Crop the cache to where a medium ends."
            )
        indices += range(start + old // size, start + tokens // size)
        start += tokens // size
    return indices


def require_positions(config: Any, position_ids: Tensor | None, encoded: EncoderOutputs | None) -> None:
    """Refuse media without positions where plain ones would be wrong.

    Args:
        config: Of the model; its `position_type` is read.
        position_ids: What the model was given.
        encoded: Results of the encoders. None: there are no media.

    Raises:
        DataError: If positions of this model tell time and space, and its media came with plain ones, or none.
    """
    if config.position_type == "omni" and encoded and (position_ids is None or position_ids.dim() == 2):
        raise DataError(
            "This model has position_type 'omni', but its media came without positions in time and space. Pass the "
            "position_ids (3, B, S) that the processor returned."
        )


def repeat_units(units: Sequence[Tensor], tokens_per_row: list[int], times: int) -> tuple[Tensor, ...]:
    """Repeat the group of units that belongs to each row, whose tokens per row are known.

    Raises:
        DataError: If units and rows do not meet.
    """
    repeated: list[Tensor] = []
    rest = list(units)
    for row, tokens in enumerate(tokens_per_row):
        group: list[Tensor] = []
        while rest and sum(map(len, group)) < tokens:
            group.append(rest.pop(0))
        if sum(map(len, group)) != tokens:
            raise DataError(f"Row {row} has {tokens} placeholder tokens, but its media give {sum(map(len, group))}.")
        repeated += group * times
    if rest:
        raise DataError(f"The rows have {sum(tokens_per_row)} placeholder tokens, but {len(rest)} unit(s) are left.")
    return tuple(repeated)


__all__ = ["MultimodalGeneration", "require_positions"]
