"""Tiny parts with random weights, saved as a hub would have them."""

from pathlib import Path

import torch
from tiny import AST, TEXT, WHISPER
from tiny_processor import byte_tokenizer, image_processor
from transformers import (
    ASTFeatureExtractor,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    WhisperFeatureExtractor,
)

CLIP_PART = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CLIP = CLIPConfig(
    text_config={**CLIP_PART, "vocab_size": 16},
    vision_config={**CLIP_PART, "image_size": 32, "patch_size": 16},
    projection_dim=8,
)


def save(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    model.save_pretrained(folder)
    return model.eval()


def save_parts(root: Path) -> dict[str, PreTrainedModel]:
    """Write the folders language/, vision/, speech/ and audio/, and return their models."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(placeholders=False)
    config = AutoConfig.for_model("qwen3", **{**TEXT, "vocab_size": len(tokenizer), "head_dim": 8})
    models = {
        "language": save(AutoModelForCausalLM.from_config(config), root / "language"),
        "vision": save(CLIPModel(CLIP), root / "vision"),
        "speech": save(
            AutoModel.from_config(AutoConfig.for_model(**WHISPER, decoder_layers=1, decoder_attention_heads=2)),
            root / "speech",
        ),
        "audio": save(AutoModel.from_config(AutoConfig.for_model(**AST)), root / "audio"),
    }
    tokenizer.save_pretrained(root / "language")
    image_processor().save_pretrained(root / "vision")
    WhisperFeatureExtractor(feature_size=80, chunk_length=1).save_pretrained(root / "speech")
    ASTFeatureExtractor(max_length=56, num_mel_bins=32).save_pretrained(root / "audio")
    return models
