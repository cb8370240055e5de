"""Skip: at inference, leave out the experts of a token whose weight is small beside its largest, by modality.

Saves time, not memory. Thresholds by modality, since tokens of media tolerate larger ones than text (MoDES).
T tokens, K experts per token, M modalities, E experts.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ..checkpoint.loading import load_mixture
from ..errors import UniMoEError
from ..modality import Modality
from ..moe import SparseMoeBlock
from .certificate import Certificate
from .damage import Answers
from .folders import Losses, Rows, certify
from .mixture import SparseLayer, sparse_layers

Rest = Literal["as_is", "renormalised"]
_SKIPPING_KERNELS = ("grouped_mm", "batched_mm")
"""Of transformers, those that know the index E, "no expert", of experts that believe to be sharded."""


@dataclass
class Skipped:
    """What was skipped so far; padding does not count.

    Args:
        counts: Index of a sparse layer -> assignments that the router made, and those that were skipped, (2, M).
    """

    counts: dict[int, Tensor] = field(default_factory=dict)
    operation: ClassVar[str] = "skip"

    @property
    def losses(self) -> Losses:
        """Layer, and `all` -> modality key -> share of its assignments that were `skipped`."""
        every: dict[int | str, Tensor] = {layer: counts.cpu() for layer, counts in self.counts.items()}
        every["all"] = torch.stack([*every.values()]).sum(dim=0)
        return {
            layer: {
                modality.key: {"skipped": float(dropped[modality] / asked[modality])}
                for modality in Modality
                if asked[modality]
            }
            for layer, (asked, dropped) in every.items()
        }


@contextmanager
def skip_experts(model: nn.Module, thresholds: Mapping[str, float], *, rest: Rest = "as_is") -> Iterator[Skipped]:
    """Skip experts in the block: of a token of modality m, those with a weight below tau_m times its largest.

    What is skipped has weight 0. It costs nothing with `grouped_mm`, and with experts of this package by `eager`;
    other kernels compute it all the same.

    Args:
        model: Of this package, or of transformers with stacked experts, in evaluation mode. Of the latter, the
            modality of tokens is `mm_token_type_ids` of the call; without them, and in steps of `generate`, text.
        thresholds: Modality key -> tau, from 0, which skips nothing, to 1. Video without one has that of images, other
            modalities 0.
        rest: Weights of the experts that are left: as they are, or renormalised to the sum of all.

    Yields:
        What was skipped, up to date after each forward pass.

    Raises:
        UniMoEError: If a modality or threshold is none, or the model has no sparse layers.
    """
    tau = _by_modality(thresholds)
    if rest not in get_args(Rest):
        raise UniMoEError("rest", f"it is {rest!r}.", f"Choose one of {', '.join(get_args(Rest))}.")
    skipped, tokens, layers = Skipped(), _Tokens(), sparse_layers(model)
    with ExitStack() as stack:
        for handle in tokens.follow(model, layers):
            stack.callback(handle.remove)
        for layer in layers:
            skipper = _Skipper(layer, tau, tokens, skipped, rest == "renormalised")
            stack.callback(layer.experts.register_forward_pre_hook(skipper).remove)
            stack.enter_context(_know_no_expert(layer.experts))
        yield skipped


def measure_skipping(
    folder: str | Path, thresholds: Mapping[str, float], rows: Rows, *, rest: Rest = "as_is"
) -> tuple[Skipped, Certificate]:
    """Run the model of a folder over rows with and without skipping.

    Args:
        folder: Of a mixture, of this package or of transformers.
        thresholds: As in `skip_experts`.
        rows: Of each modality.
        rest: As in `skip_experts`.

    Returns:
        What was skipped, and a certificate of the damage by modality, `exact` if there is none.

    Raises:
        UniMoEError: If the folder or a row cannot be read, or as in `skip_experts`.
    """
    model, processor = load_mixture(folder)
    calibration = rows.read(model, processor)
    answers = Answers.of(model, calibration)
    with skip_experts(model, thresholds, rest=rest) as skipped:
        found = answers.compare(model)
    details = {"thresholds": dict(thresholds), "rest": rest}
    return skipped, certify("skip", folder, found, calibration, details)


def _by_modality(thresholds: Mapping[str, float]) -> Tensor:
    """Lay thresholds out over the modalities, (M,)."""
    for key, value in thresholds.items():
        Modality.from_key(key)
        if not 0 <= value <= 1:
            raise UniMoEError("thresholds", f"that of {key} is {value}.", "Choose one from 0 to 1.")
    return torch.tensor([thresholds.get(own.key, thresholds.get(own.encoder_key, 0.0)) for own in Modality])


class _Tokens:
    """Modality of the tokens (T,) that come to the experts, and which are padding, as models are told of them."""

    def __init__(self) -> None:
        self.kinds: Tensor | None = None
        self.mask: Tensor | None = None

    def follow(self, model: nn.Module, layers: list[SparseLayer]) -> list[Any]:
        """Register the hooks that see them in time for each layer."""
        own = [layer.block for layer in layers if isinstance(layer.block, SparseMoeBlock)]
        if own:
            return [block.register_forward_pre_hook(self._see_context) for block in own]
        return [model.register_forward_pre_hook(self._see_call, with_kwargs=True)]

    def of(self, experts_index: Tensor) -> tuple[Tensor, Tensor]:
        """Give the modality of the tokens that chose experts (T, K), and False for padding, (T,) both.

        Raises:
            UniMoEError: If they are not those of a call of the model.
        """
        tokens = len(experts_index)
        if self.kinds is None or len(self.kinds) != tokens:
            raise UniMoEError("skip_experts", "its model was not called as a whole.", "Call the model that was given.")
        mask = torch.ones(tokens, dtype=torch.bool) if self.mask is None else self.mask
        return self.kinds.to(experts_index.device), mask.to(experts_index.device)

    def _see_context(self, block: nn.Module, arguments: tuple[Any, ...]) -> None:
        context = arguments[1]
        self.kinds, self.mask = context.modality_ids, context.attention_mask

    def _see_call(self, model: nn.Module, arguments: tuple[Any, ...], given: dict[str, Any]) -> None:
        kinds, mask = given.get("mm_token_type_ids"), given.get("attention_mask")
        ids = arguments[0] if arguments else given.get("input_ids")
        shape = given["inputs_embeds"].shape[:2] if ids is None else ids.shape
        if kinds is None or kinds.shape != shape:
            kinds = torch.zeros(shape, dtype=torch.long)
        self.kinds = kinds.flatten()
        self.mask = mask[:, -shape[1] :].bool().flatten() if mask is not None and mask.dim() == 2 else None


@dataclass
class _Skipper:
    """Takes assignments of a layer away before its experts compute.

    Args:
        layer: The layer.
        tau: Thresholds, (M,).
        tokens: What is known of the tokens.
        skipped: Where it is counted.
        renormalise: Whether the weights that are left get the sum of all.
    """

    layer: SparseLayer
    tau: Tensor
    tokens: _Tokens
    skipped: Skipped
    renormalise: bool

    def __call__(self, experts: Any, arguments: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Skip, for hidden states (T, D), expert indices (T, K) and combine weights (T, K)."""
        hidden_states, index, weights = arguments
        kinds, mask = self.tokens.of(index)
        before = weights.to(torch.promote_types(weights.dtype, torch.float32))
        tau = self.tau.to(before)[kinds][:, None]
        is_asked = index < experts.num_experts
        drop = (before < tau * before.amax(dim=-1, keepdim=True)) & is_asked
        self._count(kinds, torch.stack([is_asked, drop]).sum(dim=-1) * mask)
        kept = before.masked_fill(drop, 0.0)
        if self.renormalise:
            kept = kept * (before.sum(dim=-1, keepdim=True) / kept.sum(dim=-1, keepdim=True).clamp(min=1e-20))
        if knows_no_expert(experts):
            index = index.masked_fill(drop, experts.num_experts)
        return hidden_states, index, torch.where(drop.any(dim=-1, keepdim=True), kept.to(weights.dtype), weights)

    def _count(self, kinds: Tensor, seen: Tensor) -> None:
        """Add assignments (2, T) of tokens by their modality."""
        zero = seen.new_zeros(2, len(Modality))
        found = self.skipped.counts.get(self.layer.index, zero)
        self.skipped.counts[self.layer.index] = found + zero.index_add(1, kinds, seen)


def knows_no_expert(experts: Any) -> bool:
    """Say whether experts, by the kernel that is chosen, take the index E for "no expert", in the block above."""
    is_own = hasattr(experts, "token_dispatcher") or hasattr(experts, "banks")
    return is_own or experts.config._experts_implementation in _SKIPPING_KERNELS


@contextmanager
def _know_no_expert(experts: nn.Module) -> Iterator[None]:
    """Let kernels of transformers honour the index E in the block: they do for experts that believe to be sharded."""
    own: list[Any] = [module for module in experts.modules() if hasattr(module, "_is_expert_parallel")]
    before = [module._is_expert_parallel for module in own]
    try:
        for module in own:
            module._is_expert_parallel = True
        yield
    finally:
        for module, value in zip(own, before, strict=True):
            module._is_expert_parallel = value


__all__ = ["Rest", "Skipped", "knows_no_expert", "measure_skipping", "skip_experts"]
