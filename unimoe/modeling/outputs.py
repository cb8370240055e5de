"""What the models return. T = B*S tokens, E router targets, L sparse layers."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MoeCausalLMOutputWithPast,
    MoeModelOutputWithPast,
    MultimodalModelOutput,
)
from transformers.utils import ModelOutput
from transformers.utils.deprecation import deprecate_kwarg

from ..moe import RoutingRecord

# Results of `UniMoEModel.encode` by modality key. transformers types `pooler_output` as one tensor; it is a tuple, one
# a unit.
EncoderOutputs = dict[str, Any]

formerly_past_key_values = deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
"""For methods that take `cache`, which transformers called `past_key_values` before 5.24."""


class _WithMedia(MultimodalModelOutput):
    """Outputs that hold, under transformers' names, what `UniMoEModel.encode` gave for each modality."""

    def to_tuple(self) -> tuple:
        """Return all values that are not None; of media, as tuples too."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


@dataclass
class UniMoEModelOutput(MoeModelOutputWithPast, _WithMedia):
    """Hidden states, what the encoders and connectors gave for the media of this call (`image_outputs`...), and what
    the routers recorded: for each sparse layer `router_logits` (T, E) and all else (`routing`).
    """

    routing: tuple[RoutingRecord, ...] | None = None
    expert_overlaps: tuple[Tensor, ...] | None = None
    image_outputs: BaseModelOutputWithPooling | None = None
    video_outputs: BaseModelOutputWithPooling | None = None
    audio_outputs: BaseModelOutputWithPooling | None = None
    speech_outputs: BaseModelOutputWithPooling | None = None


@dataclass
class UniMoEOutput(MoeCausalLMOutputWithPast, _WithMedia):
    """Logits and loss. `losses` holds the unweighted parts (`language`, `balance`, `z`); `aux_loss` is the balance
    loss; the rest as in `UniMoEModelOutput`.
    """

    routing: tuple[RoutingRecord, ...] | None = None
    losses: dict[str, Tensor] | None = None
    image_outputs: BaseModelOutputWithPooling | None = None
    video_outputs: BaseModelOutputWithPooling | None = None
    audio_outputs: BaseModelOutputWithPooling | None = None
    speech_outputs: BaseModelOutputWithPooling | None = None

    @property
    def expert_mask(self) -> tuple[Tensor, ...]:
        """For each sparse layer, which targets each token chose, bool, (T, E); computed when read."""
        return tuple(record.expert_mask for record in self.routing or ())

    @property
    def router_probs(self) -> tuple[Tensor, ...]:
        """For each sparse layer, the scores normalised to a sum of 1, (T, E)."""
        return tuple(record.router_probs for record in self.routing or ())


__all__ = ["EncoderOutputs", "UniMoEModelOutput", "UniMoEOutput", "formerly_past_key_values"]
