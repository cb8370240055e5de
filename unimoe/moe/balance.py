"""Balance without a loss: a bias on the choice of experts that moves against uneven loads (DeepSeek-V3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .routers import Router


def update_balance_bias(bias: Tensor, load: Tensor, rate: float, permitted: Tensor | None = None) -> Tensor:
    """Move a balance bias one step (Wang et al. 2024, arXiv 2408.15664, algorithm 1).

    Args:
        bias: Of one layer, (R, E): one row, or one for each modality.
        load: How many tokens chose each target since the last step, (R, E); of all processes and accumulated batches.
        rate: Size of the step.
        permitted: Targets open to the tokens of each row, bool, (R, E). None: all.

    Returns:
        The new bias: raised where the load is below the mean of the row's open targets, lowered where it is above.
    """
    is_open = torch.ones_like(load, dtype=torch.bool) if permitted is None else permitted
    load = load.double()
    mean = (load * is_open).sum(dim=-1, keepdim=True) / is_open.sum(dim=-1, keepdim=True).clamp(min=1)
    return bias + rate * torch.sign((mean - load) * is_open).to(bias.dtype)


@torch.no_grad()
def balance_routers(model: nn.Module, load: Tensor) -> None:
    """Update the balance bias of every router that has one and is not frozen.

    Args:
        model: Its routers, in order, are those whose loads are given.
        load: (layers, M, E), as `count_routing` counts it, summed over processes and accumulated batches.

    Raises:
        ValueError: If the layers are not as many as the model's routers.
    """
    routers: Sequence[Router] = [module for module in model.modules() if isinstance(module, Router)]
    if len(routers) != len(load):
        raise ValueError(f"The load is of {len(load)} sparse layers, but the model has {len(routers)}.")
    for router, counts in zip(routers, load, strict=True):
        bias = router.balance_bias
        if bias is not None and router.weight.requires_grad:
            rows = counts if len(bias) > 1 else counts.sum(dim=0, keepdim=True)
            permitted = router.permitted
            if permitted is not None and len(bias) == 1:
                permitted = permitted.any(dim=0, keepdim=True)
            bias.copy_(update_balance_bias(bias, rows, router.config.balance_bias_update_rate, permitted))


__all__ = ["balance_routers", "update_balance_bias"]
