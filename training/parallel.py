"""DeepSpeed for a stage: its configuration, made from the stage's."""

import importlib.util
import os
import socket
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from unimoe.settings import ConfigError

from .config import StageConfig

INSTALL = "Run: pip install 'unimoe[train]'"


def deepspeed_arguments(config: StageConfig) -> dict[str, Any]:
    """Make the arguments of transformers' trainer that put DeepSpeed to work; none if the stage does not use it.

    Batch sizes and clipping follow `trainer`; the optimizer is transformers' own, sharded by ZeRO. `bf16` computes in
    bf16 under autocast and keeps float32 weights, as it does without DeepSpeed, whose own bf16 breaks batch norms:
    it rounds their weights and not their statistics.

    Raises:
        ConfigError: If DeepSpeed is not installed, or float16 is asked for.
    """
    if config.parallel.zero is None:
        return {}
    if config.trainer.get("fp16"):
        raise ConfigError("trainer.fp16 is not supported under parallel.zero. Use trainer.bf16.")
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(f"parallel.zero needs DeepSpeed, which is not installed. {INSTALL}")
    settings = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": config.parallel.zero},
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": bool(config.trainer.get("bf16")), "dtype": "bfloat16"},
    }
    return {"deepspeed": settings, "bf16": False, "use_cpu": not torch.cuda.is_available()}


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
