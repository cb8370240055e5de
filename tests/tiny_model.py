"""A tiny model with every modality and its processor, saved as users save theirs."""

from pathlib import Path
from typing import Any

import torch
from tiny import tiny_config
from tiny_processor import byte_tokenizer, image_processor
from transformers import ASTFeatureExtractor, WhisperFeatureExtractor

from unimoe import Modality, UniMoEConfig, UniMoEForConditionalGeneration, UniMoEProcessor


def save_tiny(folder: Path, media: dict[str, Any] | None = None, **text: Any) -> Path:
    """Save a tiny model with every modality and its processor; `media` says how media become tokens, `text` describes
    the language model.
    """
    config = tiny_config(**text)
    for name, value in (media or {}).items():
        setattr(config, name, value)
    return save_config(folder, config, ASTFeatureExtractor(max_length=56, num_mel_bins=32))


def save_config(folder: Path, config: UniMoEConfig, audio: Any) -> Path:
    """Save a model of random weights and its processor, which take the tokens of bytes; `audio` extracts features."""
    tokenizer = byte_tokenizer()
    config.text_config.vocab_size = len(tokenizer)
    for modality in config.media:
        setattr(config, f"{modality.key}_token_id", tokenizer.convert_tokens_to_ids(Modality(modality).token))
    torch.manual_seed(0)
    UniMoEForConditionalGeneration(config).save_pretrained(folder)
    UniMoEProcessor.from_config(
        config,
        tokenizer,
        image_processor=image_processor(),
        audio_feature_extractor=audio,
        speech_feature_extractor=WhisperFeatureExtractor(chunk_length=1, feature_size=80),
    ).save_pretrained(folder)
    return folder
