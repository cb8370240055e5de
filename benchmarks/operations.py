"""What a decoder layer asks of torch: dispatched operations, ours against transformers' mixtures of the same sizes.

Each operation costs a launch on a GPU, and microseconds of Python everywhere. They are counted under a
`TorchDispatchMode`: for decoding one token, by a model of 4 layers and per layer, and for a training step, forward and
backward, with a balance and a z-loss in every model.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from unimoe import UniMoEForCausalLM, UniMoETextConfig

from .timing import Case

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts_per_tok": 2,
}
EXPERTS, WIDTH, LAYERS = 8, 32, 4
WAITS = ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.equal.default", "aten.is_nonzero.default")
"""Operations that wait for the device."""


class Count(TorchDispatchMode):
    """Count the operations that torch dispatches in the block."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def ours(layers: int, **fields: Any) -> UniMoEForCausalLM:
    """Our model of these sizes."""
    experts: dict[str, Any] = {"num_experts": EXPERTS, "moe_intermediate_size": WIDTH, "intermediate_size": WIDTH}
    return UniMoEForCausalLM(UniMoETextConfig(**SIZES, **experts, num_hidden_layers=layers, **fields))


def qwen3_moe(layers: int) -> Qwen3MoeForCausalLM:
    """Return transformers' Qwen3-MoE of these sizes."""
    experts: dict[str, Any] = {"num_experts": EXPERTS, "moe_intermediate_size": WIDTH, "norm_topk_prob": True}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **experts, num_hidden_layers=layers))


def mixtral(layers: int) -> MixtralForCausalLM:
    """Return transformers' Mixtral of these sizes."""
    experts: dict[str, Any] = {"num_local_experts": EXPERTS, "intermediate_size": WIDTH}
    return MixtralForCausalLM(MixtralConfig(**SIZES, **experts, num_hidden_layers=layers))


PAIRS: dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]] = {
    "Qwen3-MoE": (qwen3_moe, lambda layers: ours(layers, qk_norm="head")),
    "Mixtral": (mixtral, ours),
}


def decoding(model: Any) -> Callable[[], Any]:
    """Decode one token behind 8 cached ones."""
    model.eval()
    with torch.no_grad():
        cache = model(torch.randint(3, 128, (1, 8)), use_cache=True).cache

    def run() -> Any:
        with torch.no_grad():
            return model(torch.tensor([[5]]), cache=cache, use_cache=True, output_router_logits=False)

    return run


def training(model: Any) -> Callable[[], Any]:
    """Run a training step but for the optimizer; transformers' models get the z-loss that ours has."""
    model.train()
    ids = torch.randint(3, 128, (2, 16))
    mask = torch.ones_like(ids)

    def run() -> Any:
        output = model(ids, attention_mask=mask, labels=ids, use_cache=False, output_router_logits=True)
        loss = output.loss
        if not isinstance(model, UniMoEForCausalLM):
            loss = loss + 0.001 * z_loss(output.router_logits)
        loss.backward()
        return loss.detach()

    return run


def z_loss(router_logits: tuple[Tensor, ...]) -> Tensor:
    """Mean over tokens and layers of the squared log-sum-exp of router logits (ST-MoE, arXiv 2202.08906, eq. 5)."""
    return torch.stack([logits.float().logsumexp(dim=-1).square().mean() for logits in router_logits]).mean()


def count(run: Callable[[], Any]) -> Counter[str]:
    """Operations of one run, after a first one that makes what is kept."""
    run()
    with Count() as mode:
        run()
    return mode.counts


def count_task(task: Callable[[Any], Callable[[], Any]], make: Callable[[int], Any]) -> dict[str, float]:
    """Count a task by a model of LAYERS layers: all operations, those of a layer (which twice as many layers take
    more), and those that wait for the device.
    """
    few, many = (count(task(with_kernel(make(layers)))) for layers in (LAYERS, 2 * LAYERS))
    return {
        "operations": float(few.total()),
        "per layer": (many.total() - few.total()) / LAYERS,
        "waits": float(sum(few[name] for name in WAITS)),
    }


def with_kernel(model: Any) -> Any:
    """Let a model compute its experts by `grouped_mm`."""
    model.set_experts_implementation("grouped_mm")
    return model


def operations() -> Iterator[Case]:
    """Time and count decoding and training, for each of transformers' mixtures against ours of the same sizes."""
    for name, (theirs, own) in PAIRS.items():
        for title, task in {"decoding a token": decoding, "a training step": training}.items():
            peers = {f"transformers {name}": theirs, "unimoe": own}
            yield Case(
                f"operations, {title}, {LAYERS} layers, sizes of {name}",
                {peer: task(with_kernel(make(LAYERS))) for peer, make in peers.items()},
                {peer: count_task(task, make) for peer, make in peers.items()},
            )


__all__ = ["PAIRS", "count_task", "decoding", "operations", "training"]
