"""transformers' arguments of a stage, made once from its YAML: whoever needs rows, steps or rates reads them here."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from unimoe.errors import ConfigError
from unimoe.errors.suggest import did_you_mean

from .data import DataConfig
from .stage import StageConfig

# A batch without pictures leaves a trained image encoder without a gradient, so unused parameters are expected.
DEFAULT_ARGUMENTS = {"logging_steps": 10, "save_steps": 500, "save_total_limit": 1, "ddp_find_unused_parameters": True}
INSTALL = "Run: pip install 'unimoe[train]'"
WHOLE_MODULES = {
    "stage3_param_persistence_threshold": 0,
    "stage3_prefetch_bucket_size": 0,
    "stage3_max_reuse_distance": 0,
}
"""ZeRO-3 fetches what a module needs when it needs it, and nothing ahead: processes whose rows have other media would
fetch ahead in another order, and wait for each other for ever."""
_OF_A_MACHINE = {"fp16", "tf32", "ddp_backend", "report_to"}
"""Arguments that this machine may not fulfil, and that no estimate reads."""


def training_arguments(config: StageConfig) -> TrainingArguments:
    """Make transformers' arguments from a stage's `trainer`, with our defaults under it.

    Raises:
        ConfigError: If a value does not fit.
    """
    values: dict[str, Any] = {
        "run_name": Path(config.output).name,
        "dataloader_persistent_workers": config.data.num_workers > 0,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **DEFAULT_ARGUMENTS,
        **validation_arguments(config.data, config.trainer),
        **config.trainer,
        **deepspeed_arguments(config),
        "report_to": choose_trackers(config.trainer),
        "output_dir": config.output,
        "seed": config.seed,
        **_data_arguments(config),
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "activation_checkpointing_kwargs": checkpointing_arguments(config),
    }
    if values.get("bf16") and not values.get("use_cpu") and not torch.accelerator.is_available():
        raise ConfigError(
            "trainer.bf16: there is no GPU here. Set trainer.use_cpu: true to compute in bf16 on the processor, or "
            "leave bf16 out."
        )
    arguments = _make(values)
    if arguments.n_gpu > 1:  # one process would split text and media of a batch at unrelated places
        raise ConfigError(
            f"One process sees {arguments.n_gpu} GPUs. Start one process for each with `torchrun --nproc_per_node "
            f"{arguments.n_gpu} -m training ...`, or show it one with CUDA_VISIBLE_DEVICES=0."
        )
    return arguments


def arguments_for_estimate(config: StageConfig) -> TrainingArguments:
    """Make the arguments of a stage that is estimated only, here and now: no device, process or package is needed.

    Raises:
        ConfigError: If a value does not fit.
    """
    given = {name: value for name, value in config.trainer.items() if name not in _OF_A_MACHINE}
    values = {**validation_arguments(config.data, config.trainer), **given, **_data_arguments(config)}
    return _make({**values, "output_dir": config.output, "use_cpu": True, "report_to": "none"})


def _data_arguments(config: StageConfig) -> dict[str, Any]:
    return {"dataloader_num_workers": config.data.num_workers, "remove_unused_columns": False}


def _make(values: dict[str, Any]) -> TrainingArguments:
    try:
        return TrainingArguments(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {error}") from error


def validation_arguments(data: DataConfig, trainer: dict[str, Any]) -> dict[str, Any]:
    """Arguments by which validation rows are looked at, under those that a stage gives.

    Before the first step, ten times while training, and at its end, in batches as large as those of the training; less
    often where that would take too much of it (`training.trainer.validation_plan`).
    """
    if not data.validation:
        return {}
    arguments = {"eval_strategy": "steps", "eval_steps": 0.1, "eval_on_start": True}
    size = 1 if data.packing else trainer.get("per_device_train_batch_size")
    return arguments if size is None else {**arguments, "per_device_eval_batch_size": size}


def checkpointing_arguments(config: StageConfig) -> dict[str, Any]:
    """Arguments of activation checkpointing: never re-entrant, or recorded router logits would carry no gradient."""
    given = config.trainer.get("activation_checkpointing_kwargs") or {}
    if given.get("use_reentrant"):
        raise ConfigError(
            "trainer.activation_checkpointing_kwargs.use_reentrant must be false: with re-entrant checkpointing the "
            "router losses have no gradient. Leave it out."
        )
    return {**given, "use_reentrant": False}


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
    given = config.parallel.settings()
    zero = {**given.get("zero_optimization", {}), "stage": config.parallel.zero}
    settings = {
        **given,
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": zero | (WHOLE_MODULES if config.parallel.zero == 3 else {}),
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": bool(config.trainer.get("bf16")), "dtype": "bfloat16"},
    }
    return {"deepspeed": settings, "bf16": False, "use_cpu": not torch.cuda.is_available()}


def choose_trackers(trainer: dict[str, Any]) -> list[str]:
    """Choose the trackers of a stage: those of its `trainer.report_to`, else TensorBoard if it is installed.

    Args:
        trainer: The stage's `trainer`.

    Raises:
        ConfigError: If there is no such tracker, or it is not installed.
    """
    given = trainer.get("report_to")
    if given is None:
        return ["tensorboard"] if _has_tensorboard() else []
    names = [given] if isinstance(given, str) else list(given)
    if names in (["none"], ["all"]):
        return names
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ConfigError(f"trainer.report_to: no tracker {name!r}.{did_you_mean(name, INTEGRATION_TO_CALLBACK)}")
        installed = _has_tensorboard() if name == "tensorboard" else importlib.util.find_spec(name.partition("_")[0])
        if not installed:
            raise ConfigError(f"trainer.report_to: {name} is not installed. Run: pip install {name}")
    return names


def _has_tensorboard() -> bool:
    return any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX"))


__all__ = [
    "arguments_for_estimate",
    "choose_trackers",
    "deepspeed_arguments",
    "training_arguments",
    "validation_arguments",
]
