"""DeepSpeed under a trainer: what it must be told of a model, and the order in which gradients are reduced."""

import os
import socket
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from unimoe import UniMoETextConfig
from unimoe.errors import ConfigError
from unimoe.moe.block import SparseMoeBlock
from unimoe.moe.routers.router import Router
from unimoe.moe.soft import SoftMoeBlock

from ..config.stage import ParallelConfig, StageConfig

_APART = ("encoders", "connectors")
"""Parts of a model whose modules run only in processes whose rows need them."""


def make_models_whole() -> None:
    """Let transformers make models whole under ZeRO-3 too; it would leave each process a part of every new one."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def stand_alone() -> None:
    """Let a process that no launcher started be a group of one, which DeepSpeed wants."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in group.items()})


def check_engaged(trainer: Trainer, config: StageConfig) -> None:
    """Refuse to train without DeepSpeed where a stage asks for it.

    Raises:
        ConfigError: If accelerate left it out, as it does where `ACCELERATE_USE_CPU` is set.
    """
    if config.parallel.zero is not None and not trainer.is_deepspeed_enabled:
        raise ConfigError(
            "parallel.zero asks for DeepSpeed, but accelerate does not use it. Unset the environment variable "
            "ACCELERATE_USE_CPU, and what else of ACCELERATE_* is set."
        )


def check_experts(parallel: ParallelConfig, text: UniMoETextConfig, *, processes: int) -> None:
    """Refuse expert parallelism that would be wrong, before a model is loaded.

    Args:
        parallel: How a stage is shared out to processes.
        text: Of the model that it starts from.
        processes: That share it.

    Raises:
        ConfigError: If the processes, or the experts of a layer, cannot be shared out evenly, if there are none, if
            they are merged, or if the router needs what all experts of a layer answer to a token.
    """
    size = parallel.expert_parallel_size
    key = f"parallel.expert_parallel_size {size}"
    if not text.num_experts:
        raise ConfigError(f"{key}: the model has no experts. Leave it out.")
    if text.router_gradient == "dense":
        raise ConfigError(
            f"{key}: the model's router_gradient is 'dense', for which every process would need the answers of all "
            "experts. Choose another router_gradient, or leave expert_parallel_size out."
        )
    if text.expert_aliases is not None:
        raise ConfigError(f"{key}: the model's experts are merged (expert_aliases). Leave it out.")
    widths = text.expert_widths()
    counts = {f"experts of width {width}": widths.count(width) for width in sorted(set(widths))}
    counts |= {f"experts reserved for {key}": len(own) for key, own in text.reserved_in_order}
    if text.expert_type == "latent" and text.expert_latent_groups > 1:
        counts["latent groups"] = text.expert_latent_groups
    for what, number in counts.items():
        if number % size:
            raise ConfigError(f"{key} does not divide the {number} {what} of a layer. Choose a divisor of {number}.")
    if processes % size:
        raise ConfigError(f"{key} does not divide the {processes} process(es). Start a multiple of {size}.")


def make_leaves(model: Any) -> None:
    """Let ZeRO-3 fetch each sparse feed-forward as a whole: which of its experts run depends on a process's tokens.

    What comes into one must have a gradient, for by it DeepSpeed learns that the gradients of its weights are there.
    """
    from deepspeed.utils import set_z3_leaf_modules

    model.enable_input_require_grads()

    found = {type(module) for module in model.modules() if isinstance(module, SparseMoeBlock | SoftMoeBlock)}
    if found:
        set_z3_leaf_modules(model, list(found))


def keep_whole(model: Any, optimizer: Any) -> None:
    """Keep what only some processes run, and routers, whole in all of them under ZeRO-3.

    Fetching is a call that all processes must make in one order. Routers are small, and losses read their weights.
    """
    apart = [getattr(model.model, part) for part in _APART]
    for module in [module for part in apart for module in part.modules()]:
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if _is_deepspeed(hook)]:
                del hooks[key]
    routers = [module for module in model.modules() if isinstance(module, Router)]
    kept = [parameter for module in [*apart, *routers] for parameter in module.parameters()]
    for parameter in kept:
        parameter.ds_persist = True
    if kept:
        optimizer.persistent_parameters += kept
        kept[0].all_gather(kept)


def _is_deepspeed(hook: Any) -> bool:
    return getattr(hook, "__module__", "").startswith("deepspeed.")


class OrderedReduction:
    """Backward passes of DeepSpeed whose gradients are reduced at the end of a step, in the order of the parameters.

    ZeRO-2 reduces gradients as they come, in buckets, and trusts that they come in the same order in all processes.
    They do not where one process has a picture and another one speech: buckets of unlike parameters would be added up
    without an error. (A parameter that took no part gets a zero gradient, so that all processes reduce as many.)
    Gradients stay whole until the end of the step, so this is used only where a modality's own parts train.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.trained = [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
        self.step: ExitStack | None = None

    def backward(self, loss: Tensor, sync_gradients: bool = True, **kwargs: Any) -> None:
        """Run one backward pass, and with `sync_gradients` the optimizer's step: accelerate's contract."""
        if self.step is None:
            self.step = ExitStack()
            self.step.enter_context(self.engine.coalesce_grad_reduction())
        self.engine.backward(loss, **kwargs)
        if not sync_gradients:
            return
        for parameter in self.trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.step.close()
        self.step = None
        self.engine.set_gradient_accumulation_boundary(is_boundary=True)
        self.engine.step()


def order_reduction(trainer: Trainer) -> None:
    """Let a trainer that uses DeepSpeed reduce the gradients of modalities' own parts in order."""
    wrapper = getattr(trainer.accelerator, "deepspeed_engine_wrapped", None)
    if wrapper is None or isinstance(getattr(wrapper.backward, "__self__", None), OrderedReduction):
        return
    names = [name for name, parameter in wrapper.engine.module.named_parameters() if parameter.requires_grad]
    if any(".encoders." in name or ".connectors." in name for name in names):
        wrapper.backward = OrderedReduction(wrapper.engine).backward
