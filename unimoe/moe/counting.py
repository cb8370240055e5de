"""What a model costs, by counting: parameters, and what one token of each modality meets, multiplies and reads."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ..modality import Modality
from .block import SparseMoeBlock
from .experts import Experts


@dataclass(frozen=True)
class TokenCost:
    """What one token of a modality costs.

    A token that is sent to null experts meets fewer experts than counted here.

    Args:
        parameters: Parameters that the token can meet: the language model without the experts it is not routed to, and
            the modality's own encoder and connector. Embeddings count in full.
        flops: Floating-point operations of the language model's forward pass, a multiply-add as two: all matrix
            products, and attention to `context` tokens. Norms, activations and softmax are not counted.
        weight_bytes: Bytes of the language model's weights that the pass reads; of the embeddings, one row.
    """

    parameters: int
    flops: int
    weight_bytes: int


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count parameters exactly; tied ones once.

    Returns:
        `total`: all parameters. `active`: those that one token can meet, which is all but the experts that it is not
        routed to: of E stacked experts, K count (all E if K is larger; a token sent to a null expert meets fewer).
        Embeddings, encoders and connectors count in full.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    idle = sum(_idle(block.experts, block.router.top_k) for block in _blocks(model))
    return {"total": total, "active": total - idle}


def count_per_token(model: nn.Module, *, context: int = 0) -> dict[str, TokenCost]:
    """Count what a token of each modality costs in a `UniMoEForConditionalGeneration` or `UniMoEForCausalLM`.

    Args:
        context: Tokens that the token attends to, itself among them.

    Returns:
        Modality key -> cost, for text and every modality that the model takes.
    """
    own: dict[str, int] = {}  # encoder key -> parameters of that encoder and its connector
    language: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        scope = name.removeprefix("model.").split(".")
        if scope[0] in ("encoders", "connectors"):
            own[scope[1]] = own.get(scope[1], 0) + parameter.numel()
        else:
            language[name] = parameter
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    read_in_full = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    rows = [p for p in language.values() if id(p) in tables - read_in_full]
    bytes_read = sum(p.nbytes for p in language.values()) - sum(p.nbytes - p[0].nbytes for p in rows)
    flops = sum(_dense_flops(model, context))
    costs = {}
    for modality in Modality:
        if modality is not Modality.TEXT and modality.encoder_key not in own:
            continue
        idle = [(block.experts, _idle(block.experts, _chosen(block, modality))) for block in _blocks(model)]
        met = sum(p.numel() for p in language.values()) - sum(number for _, number in idle)
        routed = sum(experts.gate_up_proj.numel() + experts.down_proj.numel() - number for experts, number in idle)
        costs[modality.key] = TokenCost(
            parameters=met + own.get(modality.encoder_key or "", 0),
            flops=flops + 2 * routed,
            weight_bytes=bytes_read - sum(number * experts.down_proj.element_size() for experts, number in idle),
        )
    return costs


def _dense_flops(model: nn.Module, context: int) -> Iterator[int]:
    """FLOPs of one token in each matrix product of the language model but those of the routed experts."""
    for name, module in model.named_modules():
        if {"encoders", "connectors"} & set(name.split(".")):
            continue
        if isinstance(module, nn.Linear):
            yield 2 * module.weight.numel()
        elif isinstance(module, SparseMoeBlock):
            yield 2 * module.router.weight.numel()
        elif name.endswith("self_attn"):  # queries with keys, and weights with values
            yield 4 * context * module.o_proj.in_features


def _blocks(model: nn.Module) -> list[SparseMoeBlock]:
    return [module for module in model.modules() if isinstance(module, SparseMoeBlock)]


def _chosen(block: SparseMoeBlock, modality: Modality) -> int:
    """Experts that a token of a modality passes, at most."""
    permitted = block.router.permitted
    number = block.experts.num_experts
    return min(block.router.top_k, number if permitted is None else int(permitted[modality, :number].sum()))


def _idle(experts: Experts, chosen: int) -> int:
    """Parameters of the experts that a token which passes `chosen` of them does not meet."""
    stacked = sum(parameter.numel() for parameter in experts.parameters())
    return stacked // experts.num_experts * max(experts.num_experts - chosen, 0)


__all__ = ["TokenCost", "count_parameters", "count_per_token"]
