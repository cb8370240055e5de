"""The router losses that are added to the language loss."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..configuration_unimoe import UniMoETextConfig
from ..moe import router_losses, stack_layers, weighted_router_loss
from ..moe.routers import router_weights
from .outputs import UniMoEModelOutput


def add_router_losses(
    model: nn.Module,
    config: UniMoETextConfig,
    loss: Tensor,
    outputs: UniMoEModelOutput,
    inputs: Mapping[str, Any],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Add the router losses, with their coefficients, to the language loss.

    Args:
        model: Whose routers these are; some losses read their weights.
        config: Which losses.
        loss: The language loss.
        outputs: Of the decoder, with what its routers recorded.
        inputs: Of the decoder; `mm_token_type_ids` (B, S) and `attention_mask` are read.

    Returns:
        The total, and the unweighted parts by name.
    """
    losses = {"language": loss}
    if not outputs.routing:
        return loss, losses
    reads_weights = {"orthogonality", "gram"} & (config.router_losses or {}).keys()
    losses |= router_losses(
        config,
        stack_layers(outputs.routing),
        modality_ids=inputs["mm_token_type_ids"],
        attention_mask=inputs.get("attention_mask"),
        router_weights=router_weights(model) if reads_weights else None,
        overlaps=outputs.expert_overlaps or (),
    )
    return loss + weighted_router_loss(config, losses), losses


__all__ = ["add_router_losses"]
