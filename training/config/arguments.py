"""Which arguments of transformers' Trainer a stage passes on, and which it refuses, each with its reason and cure.

Each field of `TrainingArguments` stands in one of the two tables: a test fails when transformers adds one.
"""

PASSED_ON = frozenset(
    {
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "bf16",
        "dataloader_multiprocessing_context",
        "dataloader_persistent_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
        "ddp_backend",
        "ddp_broadcast_buffers",
        "ddp_bucket_cap_mb",
        "ddp_find_unused_parameters",
        "ddp_static_graph",
        "ddp_timeout",
        "debug",
        "eval_delay",
        "eval_on_start",
        "eval_steps",
        "eval_strategy",
        "fp16",
        "full_determinism",
        "gradient_accumulation_steps",
        "greater_is_better",
        "include_num_input_tokens_seen",
        "learning_rate",
        "load_best_model_at_end",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "logging_first_step",
        "logging_steps",
        "logging_strategy",
        "lr_scheduler_kwargs",
        "lr_scheduler_type",
        "max_grad_norm",
        "max_steps",
        "metric_for_best_model",
        "neftune_noise_alpha",
        "num_train_epochs",
        "optim",
        "optim_args",
        "optim_target_modules",
        "per_device_eval_batch_size",
        "per_device_train_batch_size",
        "project",
        "report_to",
        "run_name",
        "save_steps",
        "save_strategy",
        "save_total_limit",
        "skip_memory_metrics",
        "tf32",
        "torch_empty_cache_steps",
        "trackio_bucket_id",
        "trackio_space_id",
        "trackio_static_space_id",
        "use_cpu",
        "warmup_steps",
        "weight_decay",
    }
)
"""Arguments that have their effect under our trainer."""

STRATEGIES = ("eval_strategy", "logging_strategy", "save_strategy")
"""Arguments that are `no`, `steps` or `epoch`."""

VALIDATION_ONLY = (
    "eval_on_start",
    "eval_steps",
    "eval_delay",
    "per_device_eval_batch_size",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
)
"""Arguments of those that say something of validation rows alone."""

_MEASURED = "A validation measures what `train.validation` says; measure more with `python -m evaluation`."
_COMPILED = "A stage is not compiled: its batches differ in shape, media and experts."
_HUB = "A stage writes to its `output` alone; upload the finished folder with `hf upload`."
_LIGER = "Its kernels do not know this model, and would not be used."

REFUSED = {
    "output_dir": "Set the stage's `output`.",
    "seed": "Set the stage's `seed`.",
    "data_seed": "Set the stage's `seed`.",
    "dataloader_num_workers": "Set `data.num_workers`.",
    "dataloader_drop_last": "All rows of a pass are shown; the last batch of one may be smaller.",
    "dataloader_in_order": "Batches come in their order, which a training that goes on relies on.",
    "remove_unused_columns": "The data mixture needs it off.",
    "train_sampling_strategy": "The data mixture has its own seeded order.",
    "length_column_name": "Rows are measured by the processor. Set `data.group_by_length`.",
    "label_names": "The labels are those of what the assistant says.",
    "ignore_data_skip": "A training that goes on does so with the rows that would have come.",
    "accelerator_config": "Each process knows its own batches, so that accelerate has nothing to share out.",
    "parallelism_config": "Set the stage's `parallel`.",
    "gradient_checkpointing": "Its new name is `activation_checkpointing`.",
    "gradient_checkpointing_kwargs": "Its new name is `activation_checkpointing_kwargs`.",
    "average_tokens_across_devices": "Tokens are always counted over all ranks.",
    "auto_find_batch_size": (
        "A step must have the rows that it says. `python -m training plan` says the memory that it takes."
    ),
    "logging_nan_inf_filter": "A loss that is not finite always stops the training.",
    "disable_tqdm": "Progress is shown by our own bar.",
    "label_smoothing_factor": "The loss is the model's own, without smoothing.",
    "torch_compile": _COMPILED,
    "torch_compile_backend": _COMPILED,
    "torch_compile_mode": _COMPILED,
    "use_liger_kernel": _LIGER,
    "liger_kernel_config": _LIGER,
    "use_cache": "Training uses no cache.",
    "do_train": "A stage always trains.",
    "do_eval": "Set `data.validation`.",
    "do_predict": "A stage answers nothing; use `python -m evaluation`.",
    "prediction_loss_only": _MEASURED,
    "bf16_full_eval": _MEASURED + " It is in the precision of the training.",
    "fp16_full_eval": _MEASURED + " It is in the precision of the training.",
    "eval_accumulation_steps": _MEASURED,
    "eval_do_concat_batches": _MEASURED,
    "eval_use_gather_object": _MEASURED,
    "include_for_metrics": _MEASURED,
    "batch_eval_metrics": _MEASURED,
    "resume_from_checkpoint": "Resume with `python -m training FILE --resume`.",
    "restore_callback_states_from_checkpoint": "A checkpoint holds all that a training needs to go on.",
    "enable_jit_checkpoint": "A stage may be killed at any moment; set `trainer.save_steps` to lose less.",
    "deepspeed": "Set the stage's `parallel.zero`.",
    "save_only_model": "A checkpoint is what a training goes on from; `python -m training consolidate` makes models.",
    "save_on_each_node": "Checkpoints are written once, to an `output` that all nodes see.",
    "fsdp": "FSDP is not supported; several processes run with torchrun.",
    "fsdp_config": "FSDP is not supported; several processes run with torchrun.",
    "local_rank": "The launcher says it.",
    "push_to_hub": _HUB,
    "hub_model_id": _HUB,
    "hub_strategy": _HUB,
    "hub_token": _HUB,
    "hub_private_repo": _HUB,
    "hub_always_push": _HUB,
    "hub_revision": _HUB,
}
"""Arguments that a stage decides elsewhere, or that would have no effect, and what to do instead."""

FORMER = {
    "group_by_length": "Set `data.group_by_length`.",
    "predict_with_generate": _MEASURED,
    "generation_max_length": _MEASURED,
    "evaluation_strategy": "Its new name is `eval_strategy`.",
    "no_cuda": "Its new name is `use_cpu`.",
    "warmup_ratio": "Write the share as `warmup_steps`, such as 0.03.",
    "max_seq_length": "Set `data.max_length`.",
    "max_length": "Set `data.max_length`.",
    "packing": "Set `data.packing`.",
    "jit_mode_eval": _COMPILED,
    "torchdynamo": _COMPILED,
}
"""Names of other versions and other trainers, and what to do instead."""


__all__ = ["FORMER", "PASSED_ON", "REFUSED", "STRATEGIES", "VALIDATION_ONLY"]
