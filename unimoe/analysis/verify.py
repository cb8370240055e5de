"""Verify that a model's answers depend on its inputs alone: not on kernels, batches, padding, or expert order."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..errors import UniMoEError
from ..modality import Modality
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..moe import SparseMoeBlock
from ..moe.experts import GroupedExperts
from ..moe.routers import HashRouter, Router
from ..processing_unimoe import UniMoEProcessor
from .replay import record, replay

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-5}
"""Largest difference that is rounding, relative to the largest absolute logit."""

ATTENTION_KERNELS = {torch.float64: (), torch.float32: ("eager", "sdpa")}  # eager's softmax is float32, always
STEPS = 4
"""Tokens decoded one by one."""


class Check(NamedTuple):
    """One invariance: what was changed, and by how much the logits moved."""

    name: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the logits are equal to rounding."""
        return self.difference <= self.tolerance


class _Probe(NamedTuple):
    """A model, its processor, and conversations of unequal length: one with every medium, others with text alone."""

    model: UniMoEForConditionalGeneration
    processor: UniMoEProcessor
    conversations: list[list[dict[str, Any]]]

    def inputs(self, rows: list[int], **options: Any) -> dict[str, Tensor]:
        batch = self.processor.apply_chat_template(
            [self.conversations[row] for row in rows],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
            **options,
        )
        floating = {name: value.to(self.model.dtype) for name, value in batch.items() if value.is_floating_point()}
        return {name: value.to(self.model.device) for name, value in {**batch, **floating}.items()}

    def logits(self, rows: list[int] | None = None, **options: Any) -> list[Tensor]:
        """Compute the logits of the real tokens of each row, (tokens, V), in the order of the conversations."""
        rows = list(range(len(self.conversations))) if rows is None else rows
        inputs = self.inputs(rows, **options)
        logits = self.model(**inputs, use_cache=False).logits
        found = {row: logits[index][inputs["attention_mask"][index].bool()] for index, row in enumerate(rows)}
        return [found[row] for row in sorted(found)]


@torch.no_grad()
def verify(model: UniMoEForConditionalGeneration, processor: UniMoEProcessor, *, seed: int = 0) -> list[Check]:
    """Compare a model's logits on random pictures, sounds and texts under changes that must not matter.

    Args:
        model: In float32 or float64; put into evaluation mode, and left as it was found.
        processor: Its processor.
        seed: Seed of the inputs and of the order of the experts.

    Returns:
        One check for each invariance: kernels of attention and experts, rows alone, row order, side of the padding,
        step by step decoding, replayed routing, order of the experts.

    Raises:
        ValueError: If the model is in another dtype, in which rounding hides defects, or quantised.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        problem = "it is quantised, and its experts have no other kernel to compare with."
        raise UniMoEError(type(model).__name__, problem, "Verify the model in floats.")
    if model.dtype not in TOLERANCE:
        raise ValueError(f"The model is in {model.dtype}. Load it with dtype=torch.float32 or torch.float64.")
    training = model.training
    model.eval()
    probe = _Probe(model, processor, _conversations(processor, np.random.default_rng(seed)))
    with _experts_computed_by("eager", model):
        expected = probe.logits()
        checks = [
            Check(name, _difference(actual(), expected), TOLERANCE[model.dtype])
            for name, actual in _changes(probe, seed)
        ]
    model.train(training)
    return checks


def _changes(probe: _Probe, seed: int) -> Iterator[tuple[str, Callable[[], list[Tensor]]]]:
    """Yield what must not matter: a name, and the logits under that change."""
    model, rows = probe.model, list(range(len(probe.conversations)))
    for kernel in ATTENTION_KERNELS[model.dtype]:
        yield f"attention computed by {kernel}", partial(_with_attention, probe, kernel)
    yield "every row alone", lambda: [logits for row in rows for logits in probe.logits([row])]
    yield "rows in another order", lambda: probe.logits(rows[::-1])
    yield "padding on the left", lambda: probe.logits(padding_side="left")
    yield f"last {STEPS} tokens decoded one by one", lambda: [_decode(probe, row) for row in rows]
    if not any(isinstance(module, SparseMoeBlock) for module in model.modules()):
        return
    if model.dtype == torch.float32:  # grouped_mm has no other that is precise enough
        yield "experts computed by grouped_mm", partial(_with_experts, probe, "grouped_mm")
    # batched_mm copies an expert's weights for every token, so it is for decoding alone.
    yield "experts computed by batched_mm, token by token", lambda: [_decode(probe, row, "batched_mm") for row in rows]
    yield "routing recorded and replayed", lambda: _replayed(probe)
    if _movable(model):
        yield "experts in another order", lambda: _permuted(probe, seed)


def _conversations(processor: UniMoEProcessor, generator: np.random.Generator) -> list[list[dict[str, Any]]]:
    """Make one conversation with every medium that the processor takes, filled with noise, and two with text alone."""
    picture = Image.fromarray(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    sound = {"array": generator.normal(0, 0.1, 16_000).astype(np.float32), "sampling_rate": 16_000}
    media = {
        Modality.IMAGE: picture,
        Modality.VIDEO: {
            "frames": [picture] * processor.layout.video_max_frames,
            "fps": processor.layout.video_frame_rate or 1.0,
        },
        Modality.AUDIO: sound,
        Modality.SPEECH: sound,
    }
    items = [{"type": modality.key, modality.key: media[modality]} for modality in processor.modalities]
    question = {"type": "text", "text": "What do you see, and what do you hear? Answer in one word."}
    return [
        [{"role": "user", "content": [*items, question]}, {"role": "assistant", "content": "Noise."}],
        [{"role": "user", "content": "Name three colours."}, {"role": "assistant", "content": "Red, green and blue."}],
        [{"role": "user", "content": "Hello there, how are you today?"}],
    ]


def _difference(actual: list[Tensor], expected: list[Tensor]) -> float:
    """Find the largest difference of the logits compared (the last ones of each row, where fewer are given)."""
    pairs = list(zip(actual, expected, strict=True))
    largest = max(float((a - e[-len(a) :]).abs().max()) for a, e in pairs)
    return largest / max(float(e.abs().max()) for _, e in pairs)


def _with_attention(probe: _Probe, kernel: str) -> list[Tensor]:
    decoder = probe.model.model.language_model
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation(kernel)
    try:
        return probe.logits()
    finally:
        decoder.set_attn_implementation(before)


def _with_experts(probe: _Probe, kernel: str) -> list[Tensor]:
    with _experts_computed_by(kernel, probe.model):
        return probe.logits()


@contextmanager
def _experts_computed_by(kernel: str, model: UniMoEForConditionalGeneration) -> Iterator[None]:
    decoder = model.model.language_model
    before = decoder.config._experts_implementation
    decoder.set_experts_implementation(kernel)
    try:
        yield
    finally:
        decoder.set_experts_implementation(before)


def _decode(probe: _Probe, row: int, kernel: str = "eager") -> Tensor:
    """Compute the logits of the last tokens of a row, computed with the cache: first all before them, then one by one.

    Args:
        probe: Model and rows.
        row: Number of the row.
        kernel: Computes the experts of the tokens that come one by one.
    """
    inputs = probe.inputs([row])
    mask = inputs.pop("attention_mask")
    by_token = ("input_ids", "mm_token_type_ids", "position_ids")  # the last only with positions in time and space
    tokens = {name: inputs.pop(name) for name in by_token if name in inputs}
    start = mask.shape[1] - STEPS
    first = {name: values[..., :start] for name, values in tokens.items()}
    output = probe.model(attention_mask=mask[:, :start], use_cache=True, **first, **inputs)
    steps = []
    with _experts_computed_by(kernel, probe.model):
        for position in range(start, mask.shape[1]):
            output = probe.model(
                **{name: values[..., position : position + 1] for name, values in tokens.items()},
                attention_mask=mask[:, : position + 1],
                cache=output.cache,
                use_cache=True,
            )
            steps.append(output.logits[0])
    return torch.cat(steps)


def _replayed(probe: _Probe) -> list[Tensor]:
    with record(probe.model) as routing:
        probe.logits()
    routers = [module.router for module in probe.model.modules() if isinstance(module, SparseMoeBlock)]
    with replay(probe.model, routing), _negated(routers):
        return probe.logits()


@contextmanager
def _negated(routers: list[Router]) -> Iterator[None]:
    """Turn the preferences of routers around, so that they would choose otherwise."""
    weights = [weight for router in routers for weight in router.parameters()]
    for weight in weights:
        weight.neg_()
    try:
        yield
    finally:
        for weight in weights:
            weight.neg_()


def _permuted(probe: _Probe, seed: int) -> list[Tensor]:
    """Compute logits with the experts of every layer shifted round, none where it was, and the router with them."""
    generator = np.random.default_rng(seed)
    blocks = _movable(probe.model)
    orders = [_order(block, generator) for block in blocks]
    with _reordered(blocks, orders):
        return probe.logits()


@contextmanager
def _reordered(blocks: list[SparseMoeBlock], orders: list[Tensor]) -> Iterator[None]:
    for block, order in zip(blocks, orders, strict=True):
        _reorder(block, order)
    try:
        yield
    finally:
        for block, order in zip(blocks, orders, strict=True):
            _reorder(block, order.argsort())


def _reorder(block: SparseMoeBlock, order: Tensor) -> None:
    """Put the experts of a block into another order, in place; reserved, null and shared ones stay last."""
    router, number = block.router, block.config.num_unreserved_experts
    if block.alias_index is not None:  # which of the merged experts answer for those of the router
        block.alias_index[:number] = block.alias_index[:number][order]
    for name, weights in block.experts.named_parameters(recurse=False) if block.alias_index is None else ():
        if not name.startswith("latent_"):  # shared by a group
            weights.copy_(weights[order])
    rows = router.weight.transpose(0, -2)  # with separate routers, (E+N, M, D)
    rows[:number] = rows[:number][order]
    for by_modality in (router.modality_bias, router.permitted, router.balance_bias):
        if by_modality is not None:
            by_modality[:, :number] = by_modality[:, :number][:, order]


def _movable(model: nn.Module) -> list[SparseMoeBlock]:
    """List the blocks whose experts have no fixed place: not a hash table's, nor one in a group of its width."""
    blocks = [module for module in model.modules() if isinstance(module, SparseMoeBlock)]
    fixed = (HashRouter, GroupedExperts)
    return [block for block in blocks if not isinstance(block.router, fixed) and not isinstance(block.experts, fixed)]


def _order(block: SparseMoeBlock, generator: np.random.Generator) -> Tensor:
    """Shift experts round, each within the groups that it shares something with."""
    config, number = block.config, block.config.num_unreserved_experts
    size = number // math.lcm(config.n_group, config.expert_latent_groups if config.expert_type == "latent" else 1)
    shifted = torch.arange(size).roll(int(generator.integers(1, max(size, 2))))
    return (torch.arange(0, number, size)[:, None] + shifted).flatten()


__all__ = ["Check", "verify"]
