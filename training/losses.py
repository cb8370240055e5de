"""The coefficients of a stage's losses at each of its steps."""

from unimoe import UniMoETextConfig
from unimoe.moe import anneal, router_loss_coefficients

from .config_train import Annealed, LossConfig


def set_coefficients(text: UniMoETextConfig, losses: LossConfig, *, step: int) -> None:
    """Put the coefficients of the router losses at an optimiser step into the model's configuration.

    Args:
        text: Where the model reads them.
        losses: What the stage asks for.
        step: Optimiser steps that are done.

    Raises:
        ValueError: If the model's routers cannot have such a loss.
    """
    coefficients = router_loss_coefficients(text)
    for name in sorted(LossConfig.model_fields.keys() - {"language"}):
        value = getattr(losses, name)
        if isinstance(value, Annealed):
            value = anneal(value.start, value.end, steps=value.steps, step=step)
        if value is not None:
            coefficients[name] = value
    text.router_aux_loss_coef = coefficients.pop("balance")
    text.router_z_loss_coef = coefficients.pop("z")
    text.router_losses = coefficients or None
    text.validate_architecture()


__all__ = ["set_coefficients"]
