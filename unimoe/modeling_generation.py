"""Generation with media: each medium is encoded once, before the first step, whatever the kind of decoding.

transformers does so for images and video; here all modalities are treated alike. B batch, S sequence, D hidden size.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .modality import Modality
from .modeling_outputs import EncoderOutputs


class MultimodalGeneration:
    """What `generate` asks of a model with media; the hooks have transformers' names."""

    config: Any
    model: Any

    def _prepare_multimodal_encoder_kwargs_for_generation(self, model_kwargs: dict[str, Any]) -> Any:
        """Encode all media once per generation; transformers does so for images and video only."""
        names = [name for modality in Modality if (name := modality.feature_name)]
        features = {name: model_kwargs.pop(name, None) for name in names}
        given = model_kwargs.get("mm_encoder_outputs")
        model_kwargs["mm_encoder_outputs"] = self.model.encode_all(features, given)
        return model_kwargs

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


def repeat_units(units: Sequence[Tensor], tokens_per_row: list[int], times: int) -> tuple[Tensor, ...]:
    """Repeat the group of units that belongs to each row, whose tokens per row are known.

    Raises:
        ValueError: If units and rows do not meet.
    """
    repeated: list[Tensor] = []
    rest = list(units)
    for row, tokens in enumerate(tokens_per_row):
        group: list[Tensor] = []
        while rest and sum(map(len, group)) < tokens:
            group.append(rest.pop(0))
        if sum(map(len, group)) != tokens:
            raise ValueError(f"Row {row} has {tokens} placeholder tokens, but its media give {sum(map(len, group))}.")
        repeated += group * times
    return tuple(repeated)


__all__ = ["MultimodalGeneration"]
