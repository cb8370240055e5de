"""Build a multimodal model from pretrained parts: a language model, towers, and connectors with random weights.

What comes out is dense or sparse as its language model is, and answers text as it did; the connectors are what the
first stage of training is for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from ..checkpoint.loading import LOADING_ERRORS, explain, read_config
from ..configuration.media_layout import MediaLayout
from ..configuration_unimoe import UniMoEConfig, UniMoETextConfig
from ..errors import UniMoEError
from ..errors.suggest import did_you_mean
from ..modality import ENCODER_OPTIONS, MEDIA, Modality
from ..modeling.head import UniMoEForCausalLM
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..processing.placeholders import CHAT_TOKENS
from ..processing_unimoe import UniMoEProcessor, add_placeholder_tokens
from .language_models import LANGUAGE_MODELS, build_language_model, text_config
from .towers import Part, connector_config, draw_tower, encoder_config, fit_qformer, load_extractor, load_part


class PartError(UniMoEError):
    """A part that a model cannot be composed of; one line with its option, where it is, and what is wrong."""


def build_model(
    language: str | Path,
    *,
    vision: str | Path | None = None,
    speech: str | Path | None = None,
    audio: str | Path | None = None,
    encoders: dict[str, dict[str, Any]] | None = None,
    connectors: dict[str, dict[str, Any]] | None = None,
    media: dict[str, Any] | None = None,
    dtype: torch.dtype | str = "auto",
    seed: int = 0,
) -> tuple[UniMoEForConditionalGeneration, UniMoEProcessor]:
    """Compose a model and its processor.

    Args:
        language: Folder or Hub id of a causal language model of a kind in `LANGUAGE_MODELS`.
        vision: Of an image tower: CLIP, SigLIP, ViT, a CNN, any timm model.
        speech: Of a Whisper model; its encoder is taken.
        audio: Of a tower for sounds: an audio spectrogram transformer (AST), or BEATs.
        encoders: Encoder key (`image`, `audio`, `speech`) -> `feature_layer`, `keep_prefix` or `num_prefix_tokens` of
            its configuration.
        connectors: Encoder key -> fields of `UniMoEConnectorConfig`. What is not given is its default, but for sounds
            and speech: there neighbours are joined to at most `WINDOW_TOKENS`. The decoder of a `query_decoder` is
            that of the encoder's Whisper, with its weights, unless it is described. A `blip2_qformer` reads features
            of the encoder's width.
        media: Fields of `MediaLayout` by name, e.g. `{"image_max_tiles": 4}`.
        dtype: Of the whole model. `auto`: as the language model was saved.
        seed: Of the connectors' random weights.

    Returns:
        A model in evaluation mode, and its processor.

    Raises:
        PartError: If a part cannot be loaded, or is of a kind that cannot be used; the message names it.
    """
    sources = {key: source for key, source in {"image": vision, "audio": audio, "speech": speech}.items() if source}
    encoders, connectors, media = encoders or {}, connectors or {}, media or {}
    refuse_strangers(sources, media, encoder=encoders, connector=connectors)
    with naming("language", language):
        decoder, tokenizer = load_language(language, dtype)
        extend_vocabulary(decoder, tokenizer)
    parts: dict[str, Part] = {}
    for key, source in sources.items():
        with naming(ENCODER_OPTIONS[key], source):
            parts[key] = load_part(key, source, dtype, encoders.get(key, {}), connectors.get(key, {}))
    described = {key: (part.encoder, part.connector) for key, part in parts.items()}
    config = compose_config(decoder.config, placeholder_ids(tokenizer), described, media)
    model = draw_model(config, decoder.dtype, seed)
    copy_parts(model, decoder, parts)
    set_generation(model, decoder, tokenizer)
    extractors = {str(Modality.from_key(key).extractor_name): part.extractor for key, part in parts.items()}
    return model, UniMoEProcessor.from_config(config, tokenizer, **extractors)


def describe_model(
    language: str | Path,
    *,
    vision: str | Path | None = None,
    speech: str | Path | None = None,
    audio: str | Path | None = None,
    encoders: dict[str, dict[str, Any]] | None = None,
    connectors: dict[str, dict[str, Any]] | None = None,
    media: dict[str, Any] | None = None,
) -> tuple[UniMoEConfig, UniMoEProcessor]:
    """Describe the model that `build_model` would compose, and make its processor; no weight is read.

    Args:
        language: As in `build_model`.
        vision: As in `build_model`.
        speech: As in `build_model`.
        audio: As in `build_model`.
        encoders: As in `build_model`.
        connectors: As in `build_model`.
        media: As in `build_model`.

    Raises:
        PartError: As `build_model`, as far as configurations tell.
    """
    sources = {key: source for key, source in {"image": vision, "audio": audio, "speech": speech}.items() if source}
    encoders, connectors, media = encoders or {}, connectors or {}, media or {}
    refuse_strangers(sources, media, encoder=encoders, connector=connectors)
    with naming("language", language):
        text, tokenizer = describe_language(language)
    described, extractors = {}, {}
    for key, source in sources.items():
        with naming(ENCODER_OPTIONS[key], source):
            extractor = extractors[str(Modality.from_key(key).extractor_name)] = load_extractor(key, source)
            encoder = encoder_config(key, draw_tower(source), extractor, **encoders.get(key, {}))
            connector = connector_config(key, encoder["token_grid"], connectors.get(key, {}))
            connector = fit_qformer(connector, encoder["hidden_size"])
            if connector.get("type") == "query_decoder" and "decoder_config" not in connector:
                connector["decoder_config"] = AutoConfig.from_pretrained(source, trust_remote_code=False).to_dict()
            described[key] = (encoder, connector)
    config = compose_config(text, placeholder_ids(tokenizer), described, media)
    return config, UniMoEProcessor.from_config(config, tokenizer, **extractors)


def describe_language(source: str | Path) -> tuple[UniMoETextConfig, PreTrainedTokenizerBase]:
    """Return the configuration and tokenizer of a language model with the vocabulary that `extend_vocabulary` makes.

    Raises:
        ValueError: As `load_language`, but that no weight is looked at.
    """
    if (kind := read_config(source).get("model_type")) not in LANGUAGE_MODELS:
        raise ValueError(f"A {kind!r} language model cannot be used; {', '.join(LANGUAGE_MODELS)} models can.")
    config = UniMoETextConfig(**text_config(AutoConfig.from_pretrained(source, trust_remote_code=False)))
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    add_placeholder_tokens(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    config.vocab_size = max(config.vocab_size, len(tokenizer))
    return config, tokenizer


def compose_config(
    text: UniMoETextConfig,
    token_ids: dict[str, int],
    parts: dict[str, tuple[dict[str, Any], dict[str, Any]]],
    media: dict[str, Any],
) -> UniMoEConfig:
    """Put the configuration of a model together.

    Args:
        text: Of the language model.
        token_ids: Of the placeholders, by configuration field.
        parts: Encoder key -> fields of the configurations of encoder and connector.
        media: Fields of `MediaLayout`.
    """
    values: dict[str, Any] = {
        "text_config": text.to_dict(),
        "tie_word_embeddings": text.tie_word_embeddings,
        **token_ids,
        **media,
    }
    for key, (encoder, connector) in parts.items():
        values |= {f"{ENCODER_OPTIONS[key]}_config": encoder, f"{key}_connector_config": connector}
    return UniMoEConfig(**values)


def placeholder_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Ids of the placeholders of a tokenizer that has them, by the field of the configuration."""
    ids: Any = tokenizer.convert_tokens_to_ids([str(modality.token) for modality in MEDIA])
    return {f"{modality.key}_token_id": number for modality, number in zip(MEDIA, ids, strict=True)}


def refuse_strangers(sources: dict[str, Any], media: dict[str, Any], **described: dict[str, Any]) -> None:
    """Refuse fields of an encoder or connector that the model does not have, and of media that there are not.

    Raises:
        PartError: Naming it.
    """
    for kind, values in described.items():
        for key in values.keys() - sources.keys():
            have = ", ".join(sources) or "text only"
            raise PartError(f"{kind} {key}: there is no such encoder; this model takes {have}.")
    known = [f.name for f in fields(MediaLayout) if f.name not in ("grids", "time_axes")]
    for name in media.keys() - set(known):
        raise PartError(f"media {name}: there is no such field.{did_you_mean(name, known)}")


@contextmanager
def naming(option: str, source: str | Path) -> Iterator[None]:
    """Turn whatever is wrong with a part into one line that starts with its name: `vision models/x: ...`."""
    try:
        yield
    except LOADING_ERRORS as error:
        raise PartError(f"{option} {source}: {explain(source, error)}") from error


def load_language(source: str | Path, dtype: torch.dtype | str) -> tuple[UniMoEForCausalLM, PreTrainedTokenizerBase]:
    """Load the language model, which must have all its weights, and its tokenizer.

    Raises:
        ValueError: If `UniMoEForCausalLM` does not reproduce the decoder, or a weight or the tokenizer is missing.
    """
    decoder = build_language_model(source, dtype)
    try:
        return decoder, AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError("it has no tokenizer. Save that of the language model into it (tokenizer.json).") from error


def draw_model(config: UniMoEConfig, dtype: torch.dtype, seed: int) -> UniMoEForConditionalGeneration:
    """Make a model with random weights, in evaluation mode; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: UniMoEForConditionalGeneration = UniMoEForConditionalGeneration._from_config(config, dtype=dtype)
    return model.eval()


def extend_vocabulary(decoder: UniMoEForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the chat template's tokens and the placeholders; transformers draws new embeddings around the old mean."""
    add_placeholder_tokens(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if len(tokenizer) > decoder.config.vocab_size:
        decoder.resize_token_embeddings(len(tokenizer))


def copy_parts(model: UniMoEForConditionalGeneration, decoder: UniMoEForCausalLM, parts: dict[str, Part]) -> None:
    """Copy the weights of the language model, the towers and the decoders of connectors; every name must be found on
    both sides.
    """
    model.model.language_model.load_state_dict(decoder.model.state_dict())
    model.lm_head.load_state_dict(decoder.lm_head.state_dict())
    for key, part in parts.items():
        model.model.encoders[key].tower.load_state_dict(part.tower.state_dict())
        if part.query_decoder is not None:
            model.model.connectors[key].decoder.load_state_dict(part.query_decoder.state_dict())


def set_generation(
    model: UniMoEForConditionalGeneration, decoder: UniMoEForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Keep the language model's generation settings, and stop also where the chat template ends a turn."""
    model.generation_config.update(**decoder.generation_config.to_diff_dict())
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    end_of_turn = tokenizer.convert_tokens_to_ids(CHAT_TOKENS[1])
    model.generation_config.eos_token_id = [*ends, *({end_of_turn} - set(ends))]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
