"""Pretrained towers and what goes with them: their extractors, and the fields of encoder and connector."""

import math
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    CLIPImageProcessor,
    PreTrainedModel,
)
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from ..checkpoint.loading import load_weights, read_config
from ..encoders import measure_tower

WINDOW_TOKENS = 160
"""Most tokens that a window of sound or speech becomes where neighbours are joined and nobody says how many."""


# Types of connectors that join neighbours -> fields that say how many.
_JOINING = {"mlp": {"stack"}, "pooling": {"stride", "output_grid"}, "pixel_shuffle": {"stride"}}

ENCODER_FIELDS = ("feature_layer", "keep_prefix", "num_prefix_tokens")
"""Fields of an encoder's configuration that can be chosen; the others follow from its tower."""


def draw_tower(source: str | Path) -> PreTrainedModel:
    """Return the tower that `load_tower` would load, on the meta device, without weights."""
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModel.from_config(getattr(config, "vision_config", config))
    return model.encoder if config.model_type == "whisper" else model


class Part(NamedTuple):
    """One encoder and its connector: what was loaded, and the fields of their configurations."""

    tower: PreTrainedModel
    extractor: Any
    query_decoder: PreTrainedModel | None
    encoder: dict[str, Any]
    connector: dict[str, Any]


def load_part(
    key: str, source: str | Path, dtype: torch.dtype | str, encoder: dict[str, Any], connector: dict[str, Any]
) -> Part:
    """Load the tower of an encoder and what goes with it; complete the chosen fields of encoder and connector."""
    tower, extractor = load_tower(source, dtype), load_extractor(key, source)
    encoder = encoder_config(key, tower, extractor, **encoder)
    connector = fit_qformer(connector_config(key, encoder["token_grid"], connector), encoder["hidden_size"])
    return Part(tower, extractor, borrow_decoder(connector, source, dtype), encoder, connector)


def encoder_config(key: str, tower: PreTrainedModel, extractor: Any, **fields: Any) -> dict[str, Any]:
    """Fields of the encoder configuration of a loaded tower, its tokens measured; some may be given.

    Raises:
        ValueError: If a field cannot be given, or the tower cannot be read so.
    """
    if unknown := sorted(fields.keys() - set(ENCODER_FIELDS)):
        raise ValueError(f"encoder {key}: {unknown[0]!r} cannot be given; {', '.join(ENCODER_FIELDS)} can.")
    measured = measure_tower(tower.config, feature_shape(key, extractor), **fields)
    return {"tower_config": tower.config.to_dict(), **fields, **measured}


def connector_config(key: str, grid: list[int], fields: dict[str, Any]) -> dict[str, Any]:
    """Complete the fields of the configuration of a connector behind an encoder whose tokens lie in `grid`."""
    kind = fields.get("type", "mlp")
    if key == "image" or kind not in _JOINING or fields.keys() & _JOINING[kind]:
        return dict(fields)
    if kind == "mlp":
        return {**fields, "stack": next(n for n in divisors(math.prod(grid)) if math.prod(grid) // n <= WINDOW_TOKENS)}
    blocks = [block for block in product(*map(divisors, grid)) if math.prod(grid) // math.prod(block) <= WINDOW_TOKENS]
    return {**fields, "stride": list(min(blocks, key=math.prod))}


def fit_qformer(fields: dict[str, Any], width: int) -> dict[str, Any]:
    """Let the Q-Former of a `blip2_qformer` with these fields read features of a width, unless it states another."""
    given = fields.get("qformer_config", {})
    if fields.get("type") != "blip2_qformer" or not isinstance(given, dict):
        return fields
    return {**fields, "qformer_config": {"encoder_hidden_size": width, **given}}


def divisors(number: int) -> list[int]:
    """Numbers that divide another one, rising."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def load_tower(source: str | Path, dtype: torch.dtype | str) -> PreTrainedModel:
    """Load a tower with its weights: a whole CLIP or SigLIP gives its vision part, a Whisper its encoder."""
    read_config(source)
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
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
    """Load the image processor or feature extractor that a tower was trained with.

    Raises:
        ValueError: If the source has none.
    """
    try:
        extractor = (AutoImageProcessor if key == "image" else AutoFeatureExtractor).from_pretrained(
            source, trust_remote_code=False
        )
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
