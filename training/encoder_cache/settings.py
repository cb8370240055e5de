"""Which encoders can run once, and on what their tokens depend: what changed runs anew."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from unimoe import Modality, UniMoEConfig, UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.errors import ConfigError

from ..data import MixtureDataset
from ..data.mixture.dataset import SAMPLING_RATE

FORMAT = 1
"""Of the files; another number has them made anew."""

_VOLATILE = ("architectures", "dtype", "torch_dtype", "transformers_version", "processor_class", "auto_map")


def choose_modalities(wanted: Sequence[str] | None, model: UniMoEForConditionalGeneration) -> list[Modality]:
    """Choose the modalities whose tokens can be cached, as their encoders do not train.

    Args:
        wanted: Their keys; None: all.
        model: What trains in it is chosen already.

    Raises:
        ConfigError: If one that is wanted cannot be cached, or there is none.
    """
    training = {
        key
        for key, encoder in model.model.encoders.items()
        if any(parameter.requires_grad for parameter in encoder.parameters())
    }
    known = {modality.key: modality for modality in model.config.media}
    for key in wanted or ():
        if key not in known:
            raise ConfigError(
                f"data.cache_encoders.modalities: this model takes no {key}, but {', '.join(known) or 'text only'}."
            )
        if (encoder := known[key].encoder_key) in training:
            raise ConfigError(
                f"data.cache_encoders.modalities: encoders.{encoder} trains, so that the tokens of {key} change with "
                f"every step. Leave {key} out, or encoders.{encoder} out of train.parts."
            )
        if problem := uncacheable(known[key], model.config):
            raise ConfigError(f"data.cache_encoders.modalities: {problem} Leave {key} out.")
    chosen = [
        known[key]
        for key in wanted or known
        if known[key].encoder_key not in training and not uncacheable(known[key], model.config)
    ]
    if not chosen:
        raise ConfigError("data.cache_encoders: there is no encoder that does not train. Leave it out.")
    return chosen


def uncacheable(modality: Modality, config: UniMoEConfig) -> str | None:
    """Say why the encoder's tokens of a medium cannot stand for it; None if they can."""
    if modality is Modality.VIDEO and config.video_pooling == "clip":
        return "with video_pooling 'clip', frames of a clip are averaged behind the connector."
    if modality is Modality.VIDEO and config.video_max_frames_with_sound is not None:
        return (
            "with video_max_frames_with_sound, how many frames are taken of a clip depends on whether its row has a "
            "sound."
        )
    return None


def replaced_encoders(cached: Sequence[Modality], model: UniMoEForConditionalGeneration) -> list[str]:
    """Name the encoders that the cache replaces whole, where the tokens of some modalities are cached."""
    needed = {modality.encoder_key for modality in model.config.media if modality not in cached}
    return sorted({modality.encoder_key for modality in cached} - needed)


def check_augmentation(dataset: MixtureDataset, modalities: Sequence[Modality]) -> None:
    """Refuse media that are another at every step.

    Raises:
        ConfigError: If media of one of the modalities are augmented.
    """
    for source in dataset.sources:
        for key in (modality.key for modality in modalities):
            augment = getattr(source.augment, key, None)
            if augment is not None and any(augment.model_dump().values()):
                rest = [modality.key for modality in modalities if modality.key != key]
                others = f", or cache only others (data.cache_encoders.modalities: {rest})" if rest else ""
                raise ConfigError(
                    f"data.cache_encoders: {source.path} augments {key}, which is then another at every step. Take "
                    f"the augmentation of {key} out{others}."
                )


def settings_of(
    modality: Modality, model: UniMoEForConditionalGeneration, processor: UniMoEProcessor
) -> dict[str, Any]:
    """Say what the tokens of a medium depend on beside the medium and the encoder's weights."""
    encoder, layout = model.config.encoder_config(modality.encoder_key), processor.layout
    units = {
        Modality.IMAGE: ["image_max_tiles", "image_grids"],
        Modality.VIDEO: [
            "video_frame_rate",
            "video_min_frames",
            "video_max_frames",
            "video_temporal_stride",
            "video_sampling",
        ],
    }
    return {
        "format": FORMAT,
        "modality": modality.key,
        "encoder": {
            "tower": stable(encoder.tower_config.to_dict()),
            "layers": encoder.feature_layers,
            "prefix_tokens": encoder.num_prefix_tokens,
            "keep_prefix": encoder.keep_prefix,
        },
        "extractor": stable(getattr(processor, str(modality.extractor_name)).to_dict()),
        "sampling_rate": SAMPLING_RATE,
        "layout": {name: getattr(layout, name) for name in units.get(modality, [])},
    }


def stable(values: dict[str, Any]) -> dict[str, Any]:
    """Of a configuration, what does not change by saving and loading it."""
    return {name: value for name, value in values.items() if not name.startswith("_") and name not in _VOLATILE}


def fingerprint(module: nn.Module) -> str:
    """Hash all weights and buffers, with their names."""
    digest = blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def precision(args: TrainingArguments) -> torch.dtype | None:
    """In what the training computes under autocast; None: in that of the weights."""
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None


__all__ = ["check_augmentation", "choose_modalities", "fingerprint", "precision", "replaced_encoders", "settings_of"]
