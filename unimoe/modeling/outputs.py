"""What the models return, and the router losses that are added to the language loss. T = B*S tokens, E targets."""

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

from ..configuration_unimoe import UniMoETextConfig
from ..moe import RoutingRecord, router_losses, weighted_router_loss

# Results of `UniMoEModel.encode` by modality key. transformers types `pooler_output` as one tensor; it is a tuple, one
# a unit.
EncoderOutputs = dict[str, Any]

formerly_past_key_values = deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
"""For methods that take `cache`, which transformers called `past_key_values` before 5.24."""


class _WithMedia(MultimodalModelOutput):
    """Outputs that hold, under transformers' names, what `UniMoEModel.encode` gave for each modality."""

    def to_tuple(self) -> tuple:
        """All values that are not None; of media, as tuples too."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


@dataclass
class UniMoEModelOutput(MoeModelOutputWithPast, _WithMedia):
    """Hidden states, what the encoders and connectors gave for the media of this call (`image_outputs`...), and what
    the routers recorded: for each sparse layer `router_logits` and `expert_mask` (T, E).
    """

    expert_mask: tuple[Tensor, ...] | None = None
    router_probs: tuple[Tensor, ...] | None = None
    router_gates: tuple[Tensor, ...] | None = None
    load_probability: tuple[Tensor, ...] | None = None
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

    expert_mask: tuple[Tensor, ...] | None = None
    router_probs: tuple[Tensor, ...] | None = None
    losses: dict[str, Tensor] | None = None
    image_outputs: BaseModelOutputWithPooling | None = None
    video_outputs: BaseModelOutputWithPooling | None = None
    audio_outputs: BaseModelOutputWithPooling | None = None
    speech_outputs: BaseModelOutputWithPooling | None = None


def add_router_losses(
    config: UniMoETextConfig,
    loss: Tensor,
    outputs: UniMoEModelOutput,
    *,
    modality_ids: Tensor,
    attention_mask: Tensor | None,
    router_weights: list[Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Add the router losses, with their coefficients, to the language loss.

    Returns:
        The total, and the unweighted parts by name.
    """
    losses = {"language": loss}
    if not outputs.router_logits or outputs.expert_mask is None:
        return loss, losses
    record = RoutingRecord(
        outputs.router_logits,
        outputs.expert_mask,
        outputs.router_probs or (),
        outputs.router_gates or (),
        outputs.load_probability,
    )
    losses |= router_losses(
        config,
        record,
        modality_ids=modality_ids,
        attention_mask=attention_mask,
        router_weights=router_weights,
        overlaps=outputs.expert_overlaps or (),
    )
    return loss + weighted_router_loss(config, losses), losses
