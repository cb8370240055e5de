"""How many parameters a model has, and how many of them one token meets."""

from torch import nn

from .block import SparseMoeBlock


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count parameters exactly; tied ones once.

    Returns:
        `total`: all parameters. `active`: those that one token can meet, which is all but the experts that it is not
        routed to: of E stacked experts, K count (all E if K is larger; a token sent to a null expert meets fewer).
        Embeddings, encoders and connectors count in full.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    idle = sum(_idle_parameters(module) for module in model.modules() if isinstance(module, SparseMoeBlock))
    return {"total": total, "active": total - idle}


def _idle_parameters(block: SparseMoeBlock) -> int:
    num_experts = block.experts.num_experts
    stacked = sum(parameter.numel() for parameter in block.experts.parameters())
    return stacked // num_experts * max(num_experts - block.router.top_k, 0)


__all__ = ["count_parameters"]
