"""What an extended model is: its configuration, its processor, and the parts that are of the new modality or task."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..configuration.moe_checks import TASK_PREFIX
from ..configuration_unimoe import UniMoEConfig
from ..errors import UniMoEError
from ..modality import ENCODER_OPTIONS, MEDIA, Modality
from ..modeling.parts import part_of
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..processing.placeholders import add_placeholder_tokens, placeholder_id
from ..processing_unimoe import UniMoEProcessor


def reserved_key(modality: str | None, task: str | None) -> str:
    """Say by which key of `reserved_experts` a model is extended.

    Args:
        modality: Key of a modality. None: it is a task.
        task: Name of a task. None: it is a modality.

    Raises:
        UniMoEError: If it is neither, or both.
    """
    if modality is not None and task is None:
        return Modality.from_key(modality).key
    if task is not None and modality is None:
        return TASK_PREFIX + task
    given = "neither is given" if task is None else f"both are given, {modality!r} and {task!r}"
    raise UniMoEError("modality or task", f"{given}.", "Extend by one of them.")


def extended_config(
    config: UniMoEConfig,
    modality: str | None = None,
    *,
    task: str | None = None,
    num_experts: int = 2,
    encoder_of: UniMoEConfig | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **others: Any,
) -> UniMoEConfig:
    """Describe the model that `extend` would make.

    Args:
        config: Of the model.
        modality: As in `extend`.
        task: As in `extend`.
        num_experts: As in `extend`.
        encoder_of: Configuration of the model that the encoder is from.
        tokenizer: As in `extend`.
        **others: Arguments of `extend` that decide weights only.

    Raises:
        UniMoEError: As `extend`.
    """
    text, key = config.text_config, reserved_key(modality, task)
    if key == Modality.TEXT.key:
        raise UniMoEError("modality", "text is in every row, so that nothing would stay as it is.", "Name a medium.")
    if num_experts < 1:
        raise UniMoEError("num_experts", f"it is {num_experts}; at least 1 is added.", "Choose a number from 1 on.")
    if not text.num_experts:
        raise UniMoEError("model", "it is dense, and has no experts to add to.", "Upcycle or assemble it first.")
    what = "modality" if task is None else "task"
    if key in (reserved := text.reserved_experts or {}):
        problem = f"{modality or task} has the experts {reserved[key]} reserved for it already."
        raise UniMoEError(what, problem, f"Train these, or extend by another {what}.")
    values = config.to_dict()
    count = text.num_experts
    values["text_config"] |= {
        "num_experts": count + num_experts,
        "reserved_experts": {**reserved, key: list(range(count, count + num_experts))},
    }
    if task is None:
        kind = Modality.from_key(key)
        values |= _encoder_fields(config, kind, encoder_of)
        values |= _placeholder_fields(values, kind, tokenizer)
    elif encoder_of is not None:
        raise UniMoEError("encoder_of", "a task has no encoder of its own.", "Leave encoder_of out.")
    return UniMoEConfig.from_dict(values)


def extended_processor(
    processor: UniMoEProcessor, config: UniMoEConfig, encoder_of: UniMoEProcessor | None
) -> UniMoEProcessor:
    """Make the processor of an extended model.

    Args:
        processor: Of the model before.
        config: Of the extended one.
        encoder_of: Processor of the model that the encoder is from, if there is one.
    """
    names = {str(modality.extractor_name) for modality in MEDIA}
    parts = {name: getattr(processor, name) or getattr(encoder_of, name, None) for name in names}
    return UniMoEProcessor.from_config(config, processor.tokenizer, chat_template=processor.chat_template, **parts)


def trained_parts(model: UniMoEForConditionalGeneration, key: str) -> list[str]:
    """Name the parts that belong to a modality or task alone: train these, and all else stays as it is.

    Args:
        model: That was extended.
        key: Of `reserved_experts`.
    """
    names = [f"{part}.{key}" for part in ("reserved_experts", "reserved_router", "encoders", "connectors")]
    return [name for name in names if name in model.parts()]


def added_parameters(old: UniMoEForConditionalGeneration, new: UniMoEForConditionalGeneration) -> dict[str, int]:
    """Count the parameters that one model has beyond another, by part.

    Args:
        old: The one with fewer.
        new: The other.
    """
    before = {name: parameter.numel() for name, parameter in old.named_parameters()}
    added: dict[str, int] = {}
    for name, parameter in new.named_parameters():
        if more := parameter.numel() - before.get(name, 0):
            added[part_of(name)] = added.get(part_of(name), 0) + more
    return added


def changes(modality: Modality, extended: str) -> bool:
    """Say whether extending changes what a modality gets: its own, and video, which is served as images are.

    Args:
        modality: Asked about.
        extended: Key of the modality by which a model is extended; that of a task changes none, while it is off.
    """
    return extended in (modality.key, modality.encoder_key)


def _encoder_fields(config: UniMoEConfig, modality: Modality, donor: UniMoEConfig | None) -> dict[str, Any]:
    """Say which encoder the new model gets; nothing if it has one."""
    key, has = modality.encoder_key, modality.encoder_key in config.encoder_keys
    if has and donor is None:
        return {}
    if has:
        raise UniMoEError("encoder_of", f"the model has an encoder for {key} already.", "Leave encoder_of out.")
    if key != modality.key:
        raise UniMoEError("modality", f"{modality.key} needs an encoder for {key}.", f"Extend by {key} first.")
    if donor is None or key not in donor.encoder_keys:
        what = "the model" if donor is None else "neither the model nor that of encoder_of"
        cure = f"Give in encoder_of a model of this package that takes {key}; `unimoe build` makes one."
        raise UniMoEError("encoder_of", f"{what} has {'no' if donor is None else 'an'} encoder for {key}.", cure)
    widths = donor.text_config.hidden_size, config.text_config.hidden_size
    if widths[0] != widths[1]:
        problem = f"its connector gives embeddings of size {widths[0]}, and the model takes {widths[1]}."
        raise UniMoEError("encoder_of", problem, "Build one with a language model of that size.")
    fields = (f"{ENCODER_OPTIONS[key]}_config", f"{key}_connector_config")
    return {field: getattr(donor, field).to_dict() for field in fields}


def _placeholder_fields(
    values: Mapping[str, Any], modality: Modality, tokenizer: PreTrainedTokenizerBase | None
) -> dict[str, Any]:
    """Give the media that the encoder of a modality serves an id for their placeholders, where they have none."""
    served = [m for m in MEDIA if m.encoder_key == modality.encoder_key and values.get(f"{m.key}_token_id") is None]
    if not served:
        return {}
    if tokenizer is None:
        raise UniMoEError("tokenizer", f"the model has no id for {served[0].token}.", "Pass its tokenizer.")
    if any(placeholder_id(tokenizer, m) is None for m in served):
        add_placeholder_tokens(tokenizer)
    text = values["text_config"] | {"vocab_size": max(values["text_config"]["vocab_size"], len(tokenizer))}
    return {"text_config": text, **{f"{m.key}_token_id": placeholder_id(tokenizer, m) for m in served}}


__all__ = ["added_parameters", "changes", "extended_config", "extended_processor", "reserved_key", "trained_parts"]
