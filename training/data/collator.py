"""Samples in, one batch out: the processor's tensors, labels on the assistant's tokens, and the rows' ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unimoe import Modality, UniMoEProcessor

from .augment import mask_windows
from .dataset import Sample
from .schema import DataError

IGNORED = -100
"""Label that takes no part in the loss."""

_EXTRACTORS = {Modality.AUDIO: "audio_feature_extractor", Modality.SPEECH: "speech_feature_extractor"}


@dataclass
class Collator:
    """Turn samples into a batch.

    Args:
        processor: The model's processor.
        max_length: Longest row in tokens. A longer one is refused, never cut: a cut within a medium cannot be run.
    """

    processor: UniMoEProcessor
    max_length: int | None = None

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Process a batch.

        Returns:
            The processor's tensors, `labels` (B, S) with -100 wherever the assistant does not speak, and `row_ids`.

        Raises:
            DataError: If the processor refuses a row, or rows are too long or have no token to learn; they are named.
        """
        batch = self._process(samples)
        self._check_lengths(batch["attention_mask"], samples)
        learned = batch.pop("assistant_masks").bool() & batch["attention_mask"].bool()  # (B, S)
        if empty := [sample for sample, row in zip(samples, learned.tolist(), strict=True) if not any(row)]:
            raise DataError(
                f"{name_rows(empty)}: no token of the assistant to learn. Check that the answer is not empty, and "
                "that the chat template marks what the assistant says with {% generation %}."
            )
        batch["labels"] = batch["input_ids"].masked_fill(~learned, IGNORED)
        self._mask_spectrograms(batch, samples)
        batch["row_ids"] = [sample.id for sample in samples]
        return batch

    def _process(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Call the processor; what it refuses in a batch is processed row by row, to find the row."""
        try:
            inputs = self.processor.apply_chat_template(
                [sample.messages for sample in samples],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                padding=True,
                return_assistant_tokens_mask=True,
            )
        except (ImportError, OSError, ValueError) as error:
            if len(samples) > 1:
                for sample in samples:
                    self._process([sample])
            problem = str(error).removeprefix("Row 0").removeprefix("row 0").lstrip(":, ")
            raise DataError(f"{name_rows(samples)}: {problem}") from error
        return dict(inputs)

    def _check_lengths(self, attention_mask: Tensor, samples: Sequence[Sample]) -> None:
        lengths = attention_mask.sum(dim=-1).tolist()
        limit = self.max_length or max(lengths)
        if too_long := [sample for sample, length in zip(samples, lengths, strict=True) if length > limit]:
            raise DataError(
                f"{name_rows(too_long)}: {max(lengths)} tokens at most, but data.max_length is {limit}. Rows are "
                "never cut: raise max_length, or take these rows out."
            )

    def _mask_spectrograms(self, batch: dict[str, Any], samples: Sequence[Sample]) -> None:
        """Mask stretches of time and frequency in windows of sound and speech, where the augmentation asks for it."""
        for modality, extractor_name in _EXTRACTORS.items():
            features = batch.get(modality.feature_name or "")
            configs = [getattr(sample.augment, modality.key) for sample in samples]
            if features is None or not any(
                config and (config.mask_time or config.mask_frequency) for config in configs
            ):
                continue
            tokens = (batch["mm_token_type_ids"] == modality).sum(dim=-1) // self.processor.layout.num_tokens[
                modality.key
            ]
            owners = torch.arange(len(samples)).repeat_interleave(tokens)  # row of each window, (N,)
            extractor = getattr(self.processor, extractor_name)
            bins = getattr(extractor, "num_mel_bins", None) or extractor.feature_size
            mask_windows(
                features,
                [configs[owner] for owner in owners],
                [samples[owner].generator for owner in owners],
                time_axis=0 if features.shape[-1] == bins else 1,
            )


def name_rows(samples: Sequence[Sample], limit: int = 5) -> str:
    """Name rows by place and id, the first few of them."""
    names = ", ".join(f"{sample.where} ({sample.id})" for sample in samples[:limit])
    return names + (f" and {len(samples) - limit} more" if len(samples) > limit else "")
