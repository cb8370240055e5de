"""Samples in, one batch out: the processor's tensors, labels on the assistant's tokens, and the rows' ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unimoe import MEDIA, Modality, UniMoEProcessor

from ..mixture.augment import mask_windows
from ..mixture.dataset import Sample
from ..mixture.fitting import name_rows, too_long
from ..schema import DataError

IGNORED = -100
"""Label that takes no part in the loss."""


@dataclass
class Collator:
    """Turn samples into a batch.

    Args:
        processor: The model's processor.
        max_length: Longest row in tokens. A longer one is refused here; see `batches` for what else can become of it.
        packing: Put the rows one after the other into one, without padding.
    """

    processor: UniMoEProcessor
    max_length: int | None = None
    packing: bool = False

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Process a batch.

        Returns:
            The processor's tensors, `labels` (B, S) with -100 wherever the assistant does not speak, and `row_ids`.
            With packing, B is 1, and `position_ids` that begin again at each row take the place of the attention mask.

        Raises:
            DataError: If the processor refuses a row or leaves out one of its media, or rows are too long or have no
                token to learn; they are named.
        """
        batch = self._process(samples)
        self._check_media(batch, samples)
        self._check_lengths(batch["attention_mask"], samples)
        learned = batch.pop("assistant_masks").bool() & batch["attention_mask"].bool()  # (B, S)
        learned &= ~self._behind_cuts(batch["mm_token_type_ids"], samples)
        if empty := [sample for sample, row in zip(samples, learned.tolist(), strict=True) if not any(row)]:
            raise DataError(
                f"{name_rows(empty)}: no token of the assistant to learn. Check that the answer is not empty, and "
                "that the chat template marks what the assistant says with {% generation %}."
            )
        batch["labels"] = batch["input_ids"].masked_fill(~learned, IGNORED)
        self._mask_spectrograms(batch, samples)
        if self.packing:
            batch = pack_rows(batch)
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

    def _check_media(self, batch: dict[str, Any], samples: Sequence[Sample]) -> None:
        """Refuse a batch that lacks a medium of its rows: it would train on their text alone, without a word."""
        encoded = batch.get("encoder_states") or {}
        for modality in MEDIA:
            key = modality.key
            given = [media_of_kind(sample, key) for sample in samples]
            if not any(given):
                continue
            tokens = (batch["mm_token_type_ids"] == modality).sum(dim=-1)  # (B,)
            units = (tokens // self.processor.layout.num_tokens.get(key, 1)).tolist()
            for sample, media, kept in zip(samples, given, units, strict=True):
                if media > kept:
                    raise DataError(
                        f"{sample.where} ({sample.id}): {media} {key} item(s), but the processor gave placeholders of "
                        f"{kept}. Its chat template must write one for every item."
                    )
            if modality.feature_name not in batch and key not in encoded:
                raise DataError(
                    f"{name_rows(samples)}: {sum(given)} {key} item(s), but the processor gave no "
                    f"{modality.feature_name}. Its part for {key} is missing; take it from the model's folder."
                )

    def _check_lengths(self, attention_mask: Tensor, samples: Sequence[Sample]) -> None:
        lengths = attention_mask.sum(dim=-1).tolist()
        limit = self.max_length or max(lengths)
        if over := [sample for sample, length in zip(samples, lengths, strict=True) if length > limit]:
            raise DataError(too_long(name_rows(over), max(lengths), limit))

    def _behind_cuts(self, kinds: Tensor, samples: Sequence[Sample]) -> Tensor:
        """Tokens behind the last medium of rows that were cut there: the end of the turn, which is none. (B, S), bool.

        Args:
            kinds: Modality of each token, (B, S).
            samples: The rows.
        """
        is_cut = torch.tensor([sample.is_cut_inside for sample in samples])
        media_to_come = (kinds != Modality.TEXT).flip(-1).cumsum(dim=-1).flip(-1)
        return (media_to_come == 0) & is_cut[:, None]

    def _mask_spectrograms(self, batch: dict[str, Any], samples: Sequence[Sample]) -> None:
        """Mask stretches of time and frequency in windows of sound and speech, where the augmentation asks for it."""
        for modality in (Modality.AUDIO, Modality.SPEECH):
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
            extractor = getattr(self.processor, str(modality.extractor_name))
            bins = getattr(extractor, "num_mel_bins", None) or extractor.feature_size
            is_time_first = features.shape[-1] in (bins, bins + 1)  # BEATs may have a band more, which tells padding
            mask_windows(
                features[..., :bins] if is_time_first else features,
                [configs[owner] for owner in owners],
                [samples[owner].generator for owner in owners],
                time_axis=0 if is_time_first else 1,
            )


def media_of_kind(sample: Sample, key: str) -> int:
    """Media of one kind in a row."""
    contents = (message["content"] for message in sample.messages)
    return sum(item["type"] == key for content in contents for item in content)


def pack_rows(batch: dict[str, Any]) -> dict[str, Any]:
    """Put the rows of a padded batch one after the other into one row without padding.

    Attention tells rows apart by positions that begin again, so there is no mask; the first token of a row is nothing
    that the row before it should foretell, so it has no label. Features of media, in order of appearance, stay.

    Args:
        batch: Tensors (B, S) and, if positions are in time and space, `position_ids` (3, B, S).

    Returns:
        Tensors (1, T) for the T real tokens; `position_ids` (1, T), or (4, 1, T) with the plain positions first.
    """
    real = batch["attention_mask"].bool()  # (B, S)
    plain = (real.cumsum(dim=-1) - 1)[real][None]  # (1, T)
    packed = {name: value for name, value in batch.items() if name != "attention_mask"}
    for name in ("input_ids", "mm_token_type_ids", "labels"):
        packed[name] = batch[name][real][None]
    packed["labels"] = packed["labels"].masked_fill(plain == 0, IGNORED)
    packed["position_ids"] = plain
    if (positions := batch.get("position_ids")) is not None:
        packed["position_ids"] = torch.cat([plain[None], positions[:, real][:, None]])  # (4, 1, T)
    return packed
