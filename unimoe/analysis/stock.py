"""What a mixture of transformers is made of, counted on the meta device: no weight is read.

Its experts are those behind `use_experts_implementation` (see `unimoe.experts_as_linears`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from ..checkpoint.loading import CheckpointError, auto_class_of
from ..modeling.parts import part_of
from ..moe.counting import TokenCost, count_weights
from ..moe.experts.linears import stacked_weights


def build_stock(source: str | Path) -> Any:
    """Build the model of a folder of transformers on the meta device.

    Raises:
        CheckpointError: If it is none that transformers knows, or none whose experts are stacked.
    """
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        with torch.device("meta"):
            model = auto_class_of(config).from_config(config)
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise CheckpointError(source, f"transformers cannot build it ({' '.join(str(error).split())}).") from error
    if not _experts(model):
        raise CheckpointError(source, f"it holds a {type(model).__name__}, which has no stacked experts.")
    return model


def count_stock(model: nn.Module, *, context: int = 0) -> tuple[dict[str, int], TokenCost]:
    """Count parameters, and what one token of text costs, as `unimoe.moe.counting` does.

    Args:
        model: With stacked experts; its tensors may be on the meta device.
        context: Tokens that the token attends to, itself among them.

    Returns:
        `total` and `active` parameters, and the cost of a token in the language model.
    """
    language = [p for name, p in model.named_parameters() if part_of(name) not in ("encoders", "connectors")]
    experts = _experts(model).values()
    unmet = sum(_unmet(module) for module in experts)
    size = next(iter(experts)).down_proj.element_size()
    parameters, weight_bytes = count_weights(model, language)
    cost = TokenCost(parameters - unmet, sum(_flops(model, context)), weight_bytes - size * unmet)
    total = sum(parameter.numel() for parameter in model.parameters())
    return {"total": total, "active": total - unmet}, cost


def describe_stock(model: Any) -> Iterator[tuple[str, str]]:
    """Yield the parts of a model that `build_stock` gave, and what each is: the rows of `unimoe info`."""
    text = model.config.get_text_config()
    yield "model", f"{type(model).__name__} of transformers"
    kind = f"{text.num_hidden_layers} layers, hidden size {text.hidden_size}, vocabulary {text.vocab_size:,}"
    yield "language model", kind
    experts = _experts(model)
    layers = [name.split("layers.")[1].split(".")[0] for name in experts]
    yield "sparse layers", ", ".join(layers)
    first = next(iter(experts.values()))
    width = first.down_proj.shape[1 if first.is_transposed else 2]
    yield "experts", f"{first.num_experts} of width {width}, {text.num_experts_per_tok} for a token"
    counts, cost = count_stock(model)
    yield "parameters", f"{counts['total']:,}, of which {counts['active']:,} active for a token"
    yield "one text token", str(cost)


def _experts(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if stacked_weights(module)}


def _unmet(experts: Any) -> int:
    """Parameters of the experts of a layer that a token is not routed to."""
    size = sum(parameter[0].numel() for parameter in experts.parameters(recurse=False))
    return size * (experts.num_experts - experts.config.num_experts_per_tok)


def _flops(model: Any, context: int) -> Iterator[int]:
    """Yield the FLOPs of one token in each matrix product of the language model."""
    for name, module in model.named_modules():
        if part_of(f"{name}.") in ("encoders", "connectors"):
            continue
        if isinstance(module, nn.Linear) or part_of(f"{name}.weight") == "router":
            yield from (2 * p.numel() for p in module.parameters(recurse=False) if p.dim() == 2)
        elif weights := stacked_weights(module):
            met = module.config.num_experts_per_tok
            yield from (2 * met * getattr(module, weight)[0].numel() for weight in weights)
        elif name.endswith("self_attn"):
            yield 4 * context * module.o_proj.in_features


__all__ = ["build_stock", "count_stock", "describe_stock"]
