"""transformers' Trainer with what a mixture of experts needs: loss split, expert load, seeded order, stop at NaN."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from unimoe import UniMoETextConfig
from unimoe.moe import balance_routers, count_routing, weighted_router_loss

from ..checkpoint.folder import rows_of_step, write_checkpoint
from ..checkpoint.model_card import Metadata
from ..checkpoint.state import DESCRIPTION, load_optimizer, read_manifest, save_state
from ..config.train import LossConfig
from ..data import BatchSchedule, MixtureBatches, MixtureDataset
from ..distributed.deepspeed import keep_whole, make_leaves, order_reduction
from ..distributed.processes import limit_waiting, together
from ..distributed.sharding import share_buffers
from ..monitor.metrics import Meter, attended_tokens, router_entropy
from ..monitor.values import NonFiniteLoss, describe_failure, describe_gradients, find_bad_gradients
from ..trainable.optimizer import ParameterGroups, group_rates
from ..trainable.parts import keep_frozen_steady
from ..trainable.schedule import load_schedule, save_schedule
from .losses import count_labels, label_weights, set_coefficients, weighted_loss
from .validation import ValidateAtEnd, ValidationRows


class StageTrainer(Trainer):
    """Trainer of one stage.

    Under gradient accumulation and on several ranks, language and z-loss are those of one large batch: the language
    loss is divided by the number of labels of all of it, and a router loss, a mean over tokens, is weighted by its
    share of the tokens. (A balance loss is a product of two means, so that its weighted mean is an approximation.)
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args: Any,
        losses: LossConfig | None = None,
        schedule: BatchSchedule | None = None,
        groups: ParameterGroups | None = None,
        validation: ValidationRows | None = None,
        expert_parallel_size: int = 1,
        **kwargs: Any,
    ) -> None:
        kwargs["eval_dataset"] = validation and validation.dataset
        super().__init__(*args, **kwargs)
        self.groups = groups
        self.losses = losses or LossConfig()
        self.schedule = schedule
        self.validation = validation
        self.expert_parallel_size = expert_parallel_size
        self.metadata: Metadata | None = None
        self.prior: dict[str, float] = {}
        self.cached_encoders: dict[str, nn.Module] = {}
        self._began = time.monotonic()
        self.add_callback(EndStep(self))
        if validation is not None:
            self.add_callback(ValidateAtEnd())
        # Trainer sets `use_cache` on the model's own configuration, where it would be saved as an unknown key.
        vars(self.accelerator.unwrap_model(self.model).config).pop("use_cache", None)
        if self.losses.language == "modalities":
            self.accelerator.unwrap_model(self.model).loss_function = weighted_loss
        self._batches: Any = None
        self._batch_tokens: Tensor | None = None
        self._batch_labels: Tensor | None = None
        self._rows: Tensor | int | None = None
        self._rates: dict[str, float] = {}
        self._step_routing: Tensor | None = None
        self._step_rows: list[str] = []
        self.meter = Meter()
        self.details: dict[str, Any] = {}

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As in Trainer, with the groups that the stage's learning rates and warm-up ask for."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.groups is not None:
            self.groups.split(optimizer)
        if is_new and self.expert_parallel_size > 1:
            from ..distributed.expert_parallel import split_sharded

            split_sharded(optimizer)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """As in Trainer, with the stage's stretch of a schedule, and parts that wait while others warm up."""
        is_new = self.lr_scheduler is None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if is_new and self.groups is not None:
            self.groups.schedule(scheduler, self.args, num_training_steps)
        return scheduler

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint from which any number of processes can go on, under any stage of ZeRO."""
        self.store_flos()
        output, step, best = Path(str(self.args.output_dir)), self.state.global_step, self.state.best_global_step
        if best and (best == step or (output / f"checkpoint-{best}").is_dir()):  # the best measured one may have none
            self.state.best_model_checkpoint = str(output / f"checkpoint-{best}")
        args = self.args
        rows = rows_of_step(args, args.world_size)
        write_checkpoint(
            output,
            step,
            self._write_state,
            facts={"step": step, "processes": args.world_size, "rows": rows},
            limit=args.save_total_limit,
            best=self.state.best_model_checkpoint,
        )

    def _write_state(self, folder: Path) -> None:
        model: Any = self.accelerator.unwrap_model(self.model)
        save_state(folder, model, self.optimizer, self.cached_encoders)

        def write() -> None:
            self._save_random_states(folder)
            if self.is_world_process_zero():
                save_schedule(folder, self.lr_scheduler)
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
                if self.metadata is not None:
                    self.metadata.describe(folder / DESCRIPTION, model)
                if self.schedule is not None and self.schedule.lengths is not None:
                    self.schedule.lengths.save(folder)  # going on from it measures no row again

        together(write)

    def _save_random_states(self, folder: Path) -> None:
        """Write the states of random generators, and of the gradient scaler of fp16.

        Raises:
            OSError: If they cannot be written, which torch calls a RuntimeError.
        """
        try:
            self._save_rng_state(str(folder))
            if self.is_world_process_zero():
                self._save_scaler(str(folder))
        except RuntimeError as error:
            raise OSError(f"{folder}: {error}") from error

    @property
    def seconds(self) -> float:
        """Since the training began, or was last resumed."""
        return time.monotonic() - self._began

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Weights are put into the model before it comes here."""

    def _load_best_model(self) -> None:
        """Leave the weights: the best ones are put into the model when it is whole again."""

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """As in Trainer, with experts sharded before, and with states of the optimizer from our own checkpoints."""
        model: Any = self.accelerator.unwrap_model(self.model)
        partitions = self.is_deepspeed_enabled and self.args.hf_deepspeed_config.is_zero3()
        if self.expert_parallel_size > 1:
            from ..distributed.expert_parallel import check_groups, shard_experts

            shard_experts(model, self.expert_parallel_size, partitions=partitions)
        if partitions:
            make_leaves(model)
        self._began = time.monotonic()
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if self.expert_parallel_size > 1:
            check_groups(model)
        limit_waiting(self.args.ddp_timeout)
        if partitions:
            keep_whole(model, self.model_wrapped.optimizer)
        if resume_from_checkpoint is not None:
            load_optimizer(Path(resume_from_checkpoint), model, self.optimizer)
            load_schedule(Path(resume_from_checkpoint), self.lr_scheduler)
            self._load_scaler(str(resume_from_checkpoint))
        return prepared

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """As in Trainer; other processes than wrote the checkpoint draw what follows from the seed and the step."""
        if checkpoint is not None and read_manifest(Path(checkpoint))["processes"] != self.args.world_size:
            set_seed(self.args.seed + self.state.global_step)
            return
        super()._load_rng_state(checkpoint)

    def get_train_dataloader(self) -> DataLoader:
        """Load the batches of a mixture; each process knows its own, so that accelerate has nothing to share out."""
        if not isinstance(self.train_dataset, MixtureDataset) or self.schedule is None:
            return super().get_train_dataloader()
        dataset, self._batches = self.make_batches()
        loader = DataLoader(
            dataset,
            batch_sampler=self._batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
        )
        return prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    def make_batches(self) -> tuple[Dataset, Any]:
        """Say what the batches of this process are read from, and their sampler."""
        assert isinstance(self.train_dataset, MixtureDataset) and self.schedule is not None
        return self.train_dataset, MixtureBatches(
            self.train_dataset,
            self.schedule,
            batch_size=self._train_batch_size,
            process=self.args.process_index,
            processes=self.args.world_size,
        )

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:  # type: ignore[override]
        """Run an epoch, in its own order; none where a training goes on from its last step.

        After a resume, batches are read through one more wrapper, through which Trainer's epoch does not reach them.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        if self._batches is not None:
            self._batches.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, **kwargs)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        """As in Trainer; the real tokens and the rows of all batches of the step are counted beside their labels."""
        fetch = super().get_batch_samples
        batches, num_items = self.meter.begin_step(lambda: fetch(epoch_iterator, num_batches, device))
        self._step_rows = []
        if batches:
            tokens = torch.stack([attended_tokens(batch) for batch in batches]).sum().to(device)
            self._batch_tokens = self.accelerator.gather(tokens).sum()
            if self.losses.language == "modalities":
                labels = torch.stack([count_labels(batch) for batch in batches]).sum(dim=0).to(device)
                self._batch_labels = self.accelerator.reduce(labels, "sum")
            self.meter.tokens = self.meter.tokens + self._batch_tokens
            rows = torch.tensor(sum(len(batch.get("row_ids", ())) for batch in batches), device=device)
            self._rows = self._logged_rows() if self._rows is None else self._rows
            self._rows = self._rows + self.accelerator.gather(rows).sum()
        return batches, num_items

    @property
    def rows_shown(self) -> int:
        """Rows that all processes have been shown in the whole stage, repetitions counted."""
        return int(self._rows or 0)

    def _logged_rows(self) -> int:
        """Rows up to the checkpoint that the training went on from, by its log; 0 without one."""
        return next((int(entry["rows"]) for entry in reversed(self.state.log_history) if "rows" in entry), 0)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As in Trainer, with the step's coefficients; under DeepSpeed, gradients are reduced in one order for all.

        Raises:
            NonFiniteLoss: If a gradient of the whole step is NaN or infinite, before it can reach the weights (under
                DeepSpeed, before they can be saved).
        """
        set_coefficients(self.text_config, self.losses, step=self.state.global_step)
        self._rates = group_rates(self.optimizer)
        if self.is_deepspeed_enabled:
            order_reduction(self)
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients and not self.args.fp16:  # whose scaler passes such steps over
            self._check_gradients()
        return loss

    def _check_gradients(self) -> None:
        wrapper = getattr(self.accelerator, "deepspeed_engine_wrapped", None)
        bad: list[str] = []
        if wrapper is None:
            bad = find_bad_gradients(self.accelerator.unwrap_model(self.model))
        elif (norm := wrapper.get_global_grad_norm()) is not None and not 0 <= norm < math.inf:
            bad = ["that of the whole step"]
        if bad:
            raise NonFiniteLoss(describe_gradients(bad, self._step_rows, step=self.state.global_step + 1))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Run the model and add up its losses.

        Raises:
            NonFiniteLoss: If the loss is NaN or infinite, before it can reach the weights.
        """
        row_ids = inputs.pop("row_ids", [])
        self._step_rows += row_ids
        if model.training:
            keep_frozen_steady(model)
        own: dict[str, Any] = {"num_items_in_batch": num_items_in_batch}
        if self.losses.language == "tokens":
            own = {"num_items_in_batch": self._batch_tokens}
        elif self._batch_labels is not None:
            own = {"label_weights": label_weights(inputs, self._batch_labels)}
        outputs = model(**inputs, **own, output_router_logits=True, use_cache=False)
        loss = self._total_loss(outputs.losses, inputs) * self.accelerator.num_processes
        if not torch.isfinite(loss):
            raise NonFiniteLoss(describe_failure(outputs, inputs, row_ids, step=self.state.global_step + 1))
        if model.training:
            self._record(outputs, inputs)
        return (loss, outputs) if return_outputs else loss

    def _total_loss(self, losses: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
        """Language loss, and router losses with their coefficients and this batch's share of the step's tokens."""
        return losses["language"] + self._share(inputs) * weighted_router_loss(self.text_config, losses)

    @property
    def text_config(self) -> UniMoETextConfig:
        """Configuration of the language model that trains."""
        return self.accelerator.unwrap_model(self.model).config.get_text_config()

    def _share(self, inputs: dict[str, Any]) -> Tensor | float:
        """Return this batch's share of the tokens of the step, all its batches on all ranks counted."""
        return attended_tokens(inputs) / self._batch_tokens if self._batch_tokens is not None else 1.0

    @torch.no_grad()
    def _record(self, outputs: Any, inputs: dict[str, Any]) -> None:
        """Add losses and routing to what the next log shows; nothing is copied from the device until then."""
        parts = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        for name, value in outputs.losses.items():
            # The language loss is a part of the sum over the step's batches on all ranks; the others are means.
            part = value.detach() if name == "language" else value.detach() * self._share(inputs)
            self.meter.add_loss(name, part * parts)
        if outputs.expert_mask:
            mask = inputs.get("attention_mask")
            counts = count_routing(outputs.expert_mask, inputs["mm_token_type_ids"], mask)
            self.meter.add_routing(counts, router_entropy(outputs.router_probs, outputs.router_logits, mask))
            self._step_routing = counts if self._step_routing is None else self._step_routing + counts

    def balance(self) -> None:
        """Move the balance biases of the routers against the load of the step, over all its batches and processes."""
        if self._step_routing is not None and self.text_config.balance_bias:
            load = self.accelerator.reduce(self._step_routing, "sum")
            balance_routers(self.accelerator.unwrap_model(self.model), load)
        self._step_routing = None

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """As in Trainer; the rows that are looked at before the first step are not again where a training goes on."""
        is_resumed = skip_scheduler and self.state.global_step > 0
        return {} if is_resumed else super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Look at the validation rows and log what is seen, over all processes.

        Raises:
            NonFiniteLoss: If a loss is NaN or infinite.
        """
        if self.validation is None:
            return super().evaluate(*args, **kwargs)
        # Not DDP, which would wait for processes that have fewer rows. DeepSpeed's engine knows the dtype.
        model: Any = self.deepspeed if self.is_deepspeed_enabled else self.model
        share_buffers(model)
        model.eval()
        try:
            metrics = self.validation.measure(model, self._prepare_inputs, self.choose_specialist)
        except ArithmeticError as error:
            raise NonFiniteLoss(f"Step {self.state.global_step}: {error} Look at these rows.") from None
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def choose_specialist(self, key: str | None) -> None:
        """Choose the specialist of a validation batch; there is one here."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with what the meter measured since the last log; its details stand in `details` while others log."""
        self.details = {}
        if "loss" in logs:  # else of validation rows, or the last one
            numbers, self.details = self.meter.collect(self.accelerator)
            logs |= numbers | self._rates | self.prior
        logs["rows"] = self.rows_shown
        super().log(logs, start_time)


class EndStep(TrainerCallback):
    """Balances the routers after each step of the optimiser, before a checkpoint can be written; stops the clock."""

    def __init__(self, trainer: StageTrainer) -> None:
        self.trainer = trainer

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Balance the routers, once for all accumulated batches."""
        self.trainer.balance()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop the clock before logs, validation rows and checkpoints."""
        self.trainer.meter.end_step()
