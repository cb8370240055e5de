"""Build a multimodal model from pretrained parts: a language model, towers, and connectors with random weights.

What comes out is dense or sparse as its language model is, and answers text as it did; the connectors are what the
first stage of training is for.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    CLIPImageProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from .configuration_parts import prefix_tokens
from .configuration_unimoe import UniMoEConfig
from .encoders import measure_tower
from .language_models import build_language_model
from .loading import LOADING_ERRORS, explain, load_weights, read_config
from .modality import MEDIA
from .modeling_unimoe import UniMoEForConditionalGeneration
from .modeling_unimoe_text import UniMoEForCausalLM
from .placeholders import CHAT_TOKENS
from .processing_unimoe import UniMoEProcessor, add_placeholder_tokens

WINDOW_TOKENS = 160
"""Most tokens that a window of sound or speech becomes where neighbours are joined and nobody says how many."""


# Types of connectors that join neighbours -> fields that say how many.
_JOINING = {"mlp": {"stack"}, "pooling": {"stride", "output_grid"}, "pixel_shuffle": {"stride"}}


class PartError(ValueError):
    """A part that a model cannot be composed of; one line with its option, where it is, and what is wrong."""


def build_model(
    language: str | Path,
    *,
    vision: str | Path | None = None,
    speech: str | Path | None = None,
    audio: str | Path | None = None,
    connectors: dict[str, dict[str, Any]] | None = None,
    dtype: torch.dtype | str = "auto",
    seed: int = 0,
) -> tuple[UniMoEForConditionalGeneration, UniMoEProcessor]:
    """Compose a model and its processor.

    Args:
        language: Folder or Hub id of a causal language model of a kind in `LANGUAGE_MODELS`.
        vision: Of an image tower: CLIP, SigLIP, ViT, a CNN, any timm model.
        speech: Of a Whisper model; its encoder is taken.
        audio: Of an audio spectrogram transformer (AST).
        connectors: Encoder key (`image`, `audio`, `speech`) -> fields of `UniMoEConnectorConfig`. What is not given
            is its default, but for sounds and speech: there neighbours are joined to at most `WINDOW_TOKENS`. The
            decoder of a `query_decoder` is that of the encoder's Whisper, with its weights, unless it is described.
        dtype: Of the language model and the towers.
        seed: Of the connectors' random weights.

    Returns:
        A model in evaluation mode, and its processor.

    Raises:
        PartError: If a part cannot be loaded, or is of a kind that cannot be used; the message names it.
    """
    sources = {key: source for key, source in {"image": vision, "audio": audio, "speech": speech}.items() if source}
    connectors = connectors or {}
    refuse_idle_connectors(connectors, sources)
    with naming("language", language):
        decoder, tokenizer = load_language(language, dtype)
        extend_vocabulary(decoder, tokenizer)
        values: dict[str, Any] = {
            "text_config": decoder.config.to_dict(),
            "tie_word_embeddings": decoder.config.tie_word_embeddings,
        }
    towers: dict[str, PreTrainedModel] = {}
    query_decoders: dict[str, PreTrainedModel] = {}
    extractors: dict[str, Any] = {}
    for key, source in sources.items():
        option = "vision" if key == "image" else key
        with naming(option, source):
            towers[key], extractors[key] = load_tower(source, dtype), load_extractor(key, source)
            fields = encoder_config(key, towers[key], extractors[key])
            connector = connector_config(key, fields["token_grid"], connectors.get(key, {}))
            if query_decoder := borrow_decoder(connector, source, dtype):
                query_decoders[key] = query_decoder
            values |= {f"{option}_config": fields, f"{key}_connector_config": connector}
    values |= {f"{modality.key}_token_id": tokenizer.convert_tokens_to_ids(str(modality.token)) for modality in MEDIA}
    config = UniMoEConfig(**values)
    model = draw_model(config, decoder.dtype, seed)
    copy_parts(model, decoder, towers, query_decoders)
    set_generation(model, decoder, tokenizer)
    names = {"image": "image_processor"} | {key: f"{key}_feature_extractor" for key in ("audio", "speech")}
    extracting = {names[key]: extractor for key, extractor in extractors.items()}
    return model, UniMoEProcessor.from_config(config, tokenizer, **extracting)


def refuse_idle_connectors(connectors: dict[str, dict[str, Any]], sources: dict[str, Any]) -> None:
    """Refuse a connector without an encoder.

    Raises:
        PartError: Naming it.
    """
    for key in connectors.keys() - sources.keys():
        have = ", ".join(sources) or "text only"
        raise PartError(f"connector {key}: there is no such encoder; this model takes {have}.")


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
        return decoder, AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError("it has no tokenizer. Save that of the language model into it (tokenizer.json).") from error


def encoder_config(key: str, tower: PreTrainedModel, extractor: Any) -> dict[str, Any]:
    """Fields of the encoder configuration of a loaded tower, its tokens measured."""
    shape = feature_shape(key, extractor)
    timm_model = getattr(tower, "timm_model", None)
    prefix = prefix_tokens(tower.config) if timm_model is None else getattr(timm_model, "num_prefix_tokens", 0)
    measured = measure_tower(tower.config, shape, num_prefix_tokens=prefix)
    return {"tower_config": tower.config.to_dict(), "num_prefix_tokens": prefix, **measured}


def connector_config(key: str, grid: list[int], fields: dict[str, Any]) -> dict[str, Any]:
    """Complete the fields of the configuration of a connector behind an encoder whose tokens lie in `grid`."""
    kind = fields.get("type", "mlp")
    if key == "image" or kind not in _JOINING or fields.keys() & _JOINING[kind]:
        return dict(fields)
    if kind == "mlp":
        return {**fields, "stack": next(n for n in divisors(math.prod(grid)) if math.prod(grid) // n <= WINDOW_TOKENS)}
    blocks = [block for block in product(*map(divisors, grid)) if math.prod(grid) // math.prod(block) <= WINDOW_TOKENS]
    return {**fields, "stride": list(min(blocks, key=math.prod))}


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


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


def load_tower(source: str | Path, dtype: torch.dtype | str) -> PreTrainedModel:
    """Load a tower with its weights: a whole CLIP or SigLIP gives its vision part, a Whisper its encoder."""
    read_config(source)
    config = AutoConfig.from_pretrained(source)
    config_of_tower = getattr(config, "vision_config", config)
    # An encoder reads hidden states; a classifier's checkpoint has no pooler.
    model = load_weights(AutoModel, source, dtype=dtype, exact=False, unread="pooler", config=config_of_tower)
    return model.encoder if config.model_type == "whisper" else model


def borrow_decoder(connector: dict[str, Any], source: str | Path, dtype: torch.dtype | str) -> PreTrainedModel | None:
    """Load the decoder of the encoder's Whisper, without word embeddings, for a connector that states none of its own.

    Args:
        connector: Its fields; `decoder_config` is filled in.
        source: Folder or Hub id of the encoder.
        dtype: Of the weights.

    Returns:
        None if the connector takes no decoder, or describes it.

    Raises:
        ValueError: If the encoder is no Whisper.
    """
    if connector.get("type") != "query_decoder" or "decoder_config" in connector:
        return None
    if (kind := read_config(source).get("model_type")) != "whisper":
        raise ValueError(
            f"a query_decoder connector takes the decoder of a Whisper; this is a {kind!r}. Choose another type, or "
            "state decoder_config."
        )
    decoder: PreTrainedModel = load_weights(AutoModel, source, dtype=dtype, exact=False).decoder
    del decoder.embed_tokens
    connector["decoder_config"] = decoder.config.to_dict()
    return decoder


def load_extractor(key: str, source: str | Path) -> Any:
    """Load the image processor or feature extractor that a tower was trained with."""
    try:
        extractor = (AutoImageProcessor if key == "image" else AutoFeatureExtractor).from_pretrained(source)
        return from_timm(extractor) if isinstance(extractor, TimmWrapperImageProcessor) else extractor
    except (OSError, ValueError) as error:
        name = "image processor" if key == "image" else "feature extractor"
        raise ValueError(f"it has no {name}. Give a model for {key} with its preprocessor_config.json.") from error


def from_timm(processor: TimmWrapperImageProcessor) -> CLIPImageProcessor:
    """Make an image processor that can be saved in a model folder out of timm's, which cannot.

    Raises:
        ValueError: If the pictures are not resized by their shorter side and cropped at the centre.
    """
    data = processor.data_config
    if data["crop_mode"] != "center":
        raise ValueError(f"its crop_mode {data['crop_mode']!r} is not supported; a tower with 'center' is.")
    height, width = data["input_size"][1:]
    return CLIPImageProcessor(
        size={"shortest_edge": int(min(height, width) / data["crop_pct"])},
        crop_size={"height": height, "width": width},
        resample=Image.Resampling[data["interpolation"].upper()],
        image_mean=list(data["mean"]),
        image_std=list(data["std"]),
    )


def feature_shape(key: str, extractor: Any) -> tuple[int, ...]:
    """Shape of one unit of features, found by extracting them from a blank picture or a moment of silence."""
    if key == "image":
        pixels = extractor(Image.new("RGB", (64, 64)), return_tensors="pt")["pixel_values"]
        return tuple(pixels.shape[1:])
    silence = np.zeros(extractor.sampling_rate // 10, dtype=np.float32)
    features = extractor(silence, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    return tuple(features[extractor.model_input_names[0]].shape[1:])


def copy_parts(
    model: UniMoEForConditionalGeneration,
    decoder: UniMoEForCausalLM,
    towers: dict[str, PreTrainedModel],
    query_decoders: dict[str, PreTrainedModel],
) -> None:
    """Copy the weights of the language model, the towers and the decoders of connectors; every name must be found on
    both sides.
    """
    model.model.language_model.load_state_dict(decoder.model.state_dict())
    model.lm_head.load_state_dict(decoder.lm_head.state_dict())
    for key, tower in towers.items():
        model.model.encoders[key].tower.load_state_dict(tower.state_dict())
    for key, query_decoder in query_decoders.items():
        model.model.connectors[key].decoder.load_state_dict(query_decoder.state_dict())


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
