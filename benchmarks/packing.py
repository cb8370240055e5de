"""What packing saves: the same rows trained on in padded batches, grouped by length, and in packs."""

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from training.data.batching.collator import IGNORED, pack_rows
from training.data.batching.packing import chunk, groups, packs
from unimoe import UniMoEForCausalLM, UniMoETextConfig

from .timing import Case

MODEL: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
ROWS, BATCH, CAPACITY = 32, 4, 512


def lengths_of(rows: str) -> list[int]:
    """Tokens of each row: those of answers of any length behind a picture, or all nearly alike."""
    if rows == "short and long answers":
        drawn = torch.randn(ROWS).mul(0.8).add(4.5).exp()  # median 90
        return [int(length) for length in drawn.clamp(24, CAPACITY)]
    return torch.randint(80, 100, (ROWS,)).tolist()


def padded(rows: list[Tensor]) -> dict[str, Any]:
    """One batch of rows, padded on the right; all tokens are learned."""
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": torch.zeros_like(ids),
        "labels": ids.masked_fill(mask == 0, IGNORED),
    }


def steps(model: UniMoEForCausalLM, batches: list[dict[str, Any]]) -> Callable[[], Tensor]:
    """Forward and backward passes over all batches; the gradients are those of one large batch."""
    labels = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)

    def run() -> Tensor:
        model.zero_grad()
        total = torch.zeros(())
        for batch in batches:
            loss = model(**batch, num_items_in_batch=labels, use_cache=False).losses["language"]
            loss.backward()
            total = total + loss.detach()
        return total

    return run


def packing() -> Iterator[Case]:
    """Peers learn from the same rows; the ratio of their times is that of their tokens per second, the other way
    round.
    """
    model = UniMoEForCausalLM(UniMoETextConfig(**MODEL)).train()
    for name in ("short and long answers", "answers of one length"):
        lengths = lengths_of(name)
        rows = [torch.randint(MODEL["vocab_size"], (length,)) for length in lengths]
        seeds = repeat(torch.Generator())
        in_order = list(chunk(range(ROWS), BATCH))
        alike = list(groups(enumerate(lengths), size=BATCH, buffer=ROWS, seeds=seeds))
        packed = list(packs(enumerate(lengths), capacity=CAPACITY, buffer=ROWS, seeds=seeds))
        peers = {
            "padded": [padded([rows[row] for row in batch]) for batch in in_order],
            "grouped by length": [padded([rows[row] for row in batch]) for batch in alike],
            "packed": [pack_rows(padded([rows[row] for row in batch])) for batch in packed],
        }
        facts = {
            peer: {
                "batches": float(len(batches)),
                "tokens": float(sum(lengths)),
                "computed tokens": float(sum(batch["input_ids"].numel() for batch in batches)),
            }
            for peer, batches in peers.items()
        }
        yield Case(f"training, {name}", {peer: steps(model, batches) for peer, batches in peers.items()}, facts)


__all__ = ["packing"]
