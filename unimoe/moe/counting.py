"""What a model costs, by counting: parameters, and what one token of each modality meets, multiplies and reads."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import nn

from ..modality import Modality
from .block import SparseMoeBlock
from .routers import Router
from .soft import SoftMoeBlock


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

    def __str__(self) -> str:
        return (
            f"meets {self.parameters:,} parameters, multiplies {self.flops / 1e6:,.1f} MFLOPs and reads "
            f"{self.weight_bytes / 1e6:,.1f} MB of weights in the language model"
        )

    def utilisation(self, tokens_per_second: float, *, bandwidth: float, flops: float) -> tuple[float, float]:
        """Say how much of a device decoding one sequence uses: S-MBU and S-MFU of MoE-CAP (arXiv 2412.07067).

        Only what a token meets of a sparse model counts, so that the numbers compare with those of dense models.

        Args:
            tokens_per_second: Measured, of one sequence.
            bandwidth: Peak of the device's memory, bytes per second.
            flops: Peak of the device, floating-point operations per second.

        Returns:
            Share of the bandwidth, for weights alone, and share of the operations.
        """
        return self.weight_bytes * tokens_per_second / bandwidth, self.flops * tokens_per_second / flops


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count parameters exactly; tied ones once.

    Returns:
        `total`: all parameters. `active`: those that one token can meet, which is all but the experts that it is not
        routed to: of E experts the K largest count (a token sent to a null expert meets fewer). What experts share,
        embeddings, encoders and connectors count in full, but for parameters that change nothing (the pooler of a
        ViT).
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    names = _unread(model)
    unread = sum(parameter.numel() for name, parameter in model.named_parameters() if name in names)
    return {"total": total, "active": total - unread - sum(_unmet(block) for block in _blocks(model))}


def count_per_token(model: nn.Module, *, context: int = 0) -> dict[str, TokenCost]:
    """Count what a token of each modality costs in a `UniMoEForConditionalGeneration` or `UniMoEForCausalLM`.

    Every family of experts uses each of its weights once for a token, so its FLOPs are twice the parameters met: with
    K experts of width I, hidden size D, rank or latent size r and G latent groups, 6*K*I*D for MLP experts, 6*I*D +
    6*K*r*(D+I) for LoRA experts and 6*G*r*D + 6*K*I*r for latent ones; a router adds 2*(E+N)*D.

    Args:
        model: Whose configuration and modules are counted.
        context: Tokens that the token attends to, itself among them.

    Returns:
        Modality key -> cost, for text and every modality that the model takes.

    Raises:
        ValueError: If routing is soft, where the cost is that of the slots of a sequence.
    """
    if any(isinstance(module, SoftMoeBlock) for module in model.modules()):
        raise ValueError("Soft routing has no cost for one token: each sequence costs its slots, however long it is.")
    own: dict[str, int] = {}  # encoder key -> parameters of that encoder and its connector
    language: dict[str, nn.Parameter] = {}
    unread = _unread(model)
    for name, parameter in model.named_parameters():
        if name in unread:
            continue
        scope = name.removeprefix("model.").split(".")
        if scope[0] in ("encoders", "connectors"):
            own[scope[1]] = own.get(scope[1], 0) + parameter.numel()
        else:
            language[name] = parameter
    parameters, weight_bytes = count_weights(model, language.values())
    flops = sum(_flops(model, context))
    every = sum(sum(_sizes(block)) for block in _blocks(model))
    costs = {}
    for modality in Modality:
        if modality is not Modality.TEXT and modality.encoder_key not in own:
            continue
        unmet = [_unmet(block, modality) for block in _blocks(model)]
        unmet_bytes = [number * _element_size(block) for number, block in zip(unmet, _blocks(model), strict=True)]
        costs[modality.key] = TokenCost(
            parameters=parameters - sum(unmet) + own.get(modality.encoder_key or "", 0),
            flops=flops - 2 * (every - sum(_met(block, modality, again=True) for block in _blocks(model))),
            weight_bytes=weight_bytes - sum(unmet_bytes),
        )
    return costs


def count_weights(model: nn.Module, weights: Collection[nn.Parameter]) -> tuple[int, int]:
    """Count parameters, and the bytes that are read of them for one token: of embeddings that are no head, one row.

    Args:
        model: That they belong to.
        weights: Of its language model.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    read_in_full = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    rows = [p for p in weights if id(p) in tables - read_in_full]
    parameters = sum(p.numel() for p in weights)
    return parameters, sum(p.nbytes for p in weights) - sum(p.nbytes - p[0].nbytes for p in rows)


def _flops(model: nn.Module, context: int) -> Iterator[int]:
    """Yield the FLOPs of one token in each matrix product of the language model, were it routed to all experts."""
    for name, module in model.named_modules():
        if {"encoders", "connectors", "experts"} & set(name.split(".")[:-1]):
            continue
        if isinstance(module, nn.Linear):
            yield 2 * module.weight.numel()
        elif isinstance(module, Router):
            added = ("modality_bias", "noise_weight")  # added, and for training
            own = module.named_parameters(recurse=False)  # the rows of reserved experts are linear maps
            yield 2 * sum(p.numel() for name, p in own if name not in added)
        elif isinstance(module, SparseMoeBlock):
            yield 2 * sum(p.numel() for stack in module.expert_stacks for p in stack.parameters())
        elif name.endswith("self_attn"):  # queries with keys, and weights with values
            yield 4 * context * module.o_proj.in_features


def _unread(model: nn.Module) -> set[str]:
    """Name the parameters that change nothing of what a model gives, as far as it says so."""
    names: set[str] = getattr(model, "unread_parameters", set)()
    return names


def _blocks(model: nn.Module) -> list[SparseMoeBlock]:
    return [module for module in model.modules() if isinstance(module, SparseMoeBlock)]


def _unmet(block: SparseMoeBlock, modality: Modality | None = None) -> int:
    """Count parameters of the experts that a token is not routed to; with a modality, of the experts open to it."""
    return sum(_sizes(block)) - _met(block, modality)


def _met(block: SparseMoeBlock, modality: Modality | None = None, *, again: bool = False) -> int:
    """Count parameters of the experts that a token is routed to; `again`: each time that a merged one is asked."""
    sizes = _sizes(block)
    experts = [*range(len(sizes))] if modality is None else block.config.permitted_experts(modality)
    if modality is not None and block.aliases is not None:
        experts = [block.aliases[expert] for expert in experts]
    asked = [sizes[expert] for expert in (experts if again else set(experts))]
    return sum(sorted(asked, reverse=True)[: block.router.top_k])


def _sizes(block: SparseMoeBlock) -> list[int]:
    return [size for stack in block.expert_stacks for size in stack.expert_sizes()]


def _element_size(block: SparseMoeBlock) -> int:
    return next(block.experts.parameters()).element_size()


__all__ = ["TokenCost", "count_parameters", "count_per_token", "count_weights"]
