"""transformers' Trainer with what a mixture of experts needs: loss split, expert load, seeded order, stop at NaN."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer

from unimoe import Modality
from unimoe.moe.statistics import count_routing

from .data import MixtureDataset, MixtureSampler
from .parts import keep_frozen_steady


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message names the rows of the batch."""


class StageTrainer(Trainer):
    """Trainer of one stage.

    Under gradient accumulation and on several ranks, language and z-loss are those of one large batch: the language
    loss is divided by the number of labels of all of it, and a router loss, a mean over tokens, is weighted by its
    share of the tokens. (A balance loss is a product of two means, so that its weighted mean is an approximation.)
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Trainer sets `use_cache` on the model's own configuration, where it would be saved as an unknown key.
        vars(self.accelerator.unwrap_model(self.model).config).pop("use_cache", None)
        self._batch_tokens: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._routing: Tensor | None = None

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        return MixtureSampler(dataset) if isinstance(dataset, MixtureDataset) else super()._get_train_sampler(dataset)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        """As in Trainer; the real tokens of all batches of the step are counted beside their labels."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            tokens = torch.stack([batch["attention_mask"].sum() for batch in batches]).sum().to(device)
            self._batch_tokens = self.accelerator.gather(tokens).sum()
        return batches, num_items

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
        if model.training:
            keep_frozen_steady(model)
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch, output_router_logits=True, use_cache=False)
        loss = self._total_loss(outputs.losses, inputs["attention_mask"]) * self.accelerator.num_processes
        if not torch.isfinite(loss):
            parts = ", ".join(f"{name} {float(value.detach()):g}" for name, value in outputs.losses.items())
            raise NonFiniteLoss(
                f"The loss is not finite at step {self.state.global_step + 1} ({parts}). Rows of the batch: "
                f"{', '.join(row_ids)}. Look at these rows, or lower the learning rate."
            )
        if model.training:
            self._record(outputs, inputs)
        return (loss, outputs) if return_outputs else loss

    def _total_loss(self, losses: dict[str, Tensor], attention_mask: Tensor) -> Tensor:
        """Language loss, and router losses with their coefficients and this batch's share of the step's tokens."""
        config = self.accelerator.unwrap_model(self.model).config.get_text_config()
        total = losses["language"]
        tokens = attention_mask.sum()
        share = tokens / self._batch_tokens if self._batch_tokens is not None else 1.0
        coefficients = {"balance": config.router_aux_loss_coef, "z": config.router_z_loss_coef}
        for name, coefficient in coefficients.items():
            if name in losses:
                total = total + coefficient * share * losses[name]
        return total

    @torch.no_grad()
    def _record(self, outputs: Any, inputs: dict[str, Any]) -> None:
        """Add losses and routing to what the next log shows; nothing is copied from the device until then."""
        for name, value in outputs.losses.items():
            # The language loss is a part of a sum over the step's batches on all ranks; the others are means.
            language = name == "language"
            steps = self.current_gradient_accumulation_steps * self.accelerator.num_processes if language else 1
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach() * steps
            self._counts[name] += 1
        if outputs.expert_mask:
            counts = count_routing(outputs.expert_mask, inputs["mm_token_type_ids"], inputs["attention_mask"])
            self._routing = counts if self._routing is None else self._routing + counts

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the loss split and the experts' shares of each modality since the last log, over all ranks."""
        for name, total in self._sums.items():
            logs[f"loss_{name}"] = float(self.accelerator.reduce(total, "mean")) / self._counts[name]
        if self._routing is not None:
            logs |= expert_load(self.accelerator.reduce(self._routing, "sum"))
        self._sums, self._counts, self._routing = {}, defaultdict(int), None
        super().log(logs, start_time)


def expert_load(counts: Tensor) -> dict[str, float]:
    """Name each expert's share of each modality's tokens, all layers together.

    Args:
        counts: Assignments (layers, modalities, experts).

    Returns:
        `load_MODALITY/EXPERT` -> share; the shares of a modality sum to 1. Modalities without tokens are left out.
    """
    totals = counts.sum(dim=0).double().cpu()  # (M, E)
    shares = totals / totals.sum(dim=-1, keepdim=True).clamp(min=1)
    return {
        f"load_{modality.key}/{expert}": round(float(share), 4)
        for modality in Modality
        if totals[modality].sum() > 0
        for expert, share in enumerate(shares[modality])
    }
