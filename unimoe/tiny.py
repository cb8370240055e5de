"""A tiny random checkpoint with every modality, for the tests of programs that use unimoe: no download, a second."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import ASTFeatureExtractor, PreTrainedTokenizerFast, ViTImageProcessor, WhisperFeatureExtractor

from .configuration_unimoe import UniMoEConfig
from .modality import MEDIA
from .modeling_unimoe import UniMoEForConditionalGeneration
from .processing_unimoe import UniMoEProcessor, add_placeholder_tokens

_LAYERS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
}
_VISION = {"model_type": "vit", **_LAYERS, "image_size": 32, "patch_size": 8}
_AUDIO = {"model_type": "audio-spectrogram-transformer", **_LAYERS, "max_length": 56, "num_mel_bins": 32}
_SPEECH = {
    "model_type": "whisper",
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "max_source_positions": 50,
    "num_mel_bins": 80,
}


def byte_tokenizer(**kwargs: Any) -> PreTrainedTokenizerFast:
    """Make a tokenizer of which a token is one byte, with the placeholders of media; every text round-trips."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", **kwargs)
    add_placeholder_tokens(tokenizer)
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


def save_tiny_checkpoint(folder: str | Path, *, seed: int = 0, **text: Any) -> Path:
    """Save a model with random weights and every modality, and its processor, as users save theirs.

    Args:
        folder: Where to; it is made if there is none.
        seed: Of the weights; the global random state is left as it was.
        **text: Fields of `UniMoETextConfig`, such as `num_experts` or `router_type`.

    Returns:
        The folder, which every Auto class loads.
    """
    tokenizer = byte_tokenizer()
    ids: dict[str, Any] = {
        f"{modality.key}_token_id": tokenizer.convert_tokens_to_ids(str(modality.token)) for modality in MEDIA
    }
    special: dict[str, Any] = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = UniMoEConfig(
        text_config={**_LAYERS, "num_experts": 4, "vocab_size": len(tokenizer), **special, **text},
        vision_config={"tower_config": _VISION},
        audio_config={"tower_config": _AUDIO},
        speech_config={"tower_config": _SPEECH},
        speech_connector_config={"stack": 10},
        video_max_frames=4,
        **ids,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        UniMoEForConditionalGeneration(config).save_pretrained(folder)
    UniMoEProcessor.from_config(
        config,
        tokenizer,
        image_processor=ViTImageProcessor(size={"height": 32, "width": 32}),
        audio_feature_extractor=ASTFeatureExtractor(max_length=56, num_mel_bins=32),
        speech_feature_extractor=WhisperFeatureExtractor(chunk_length=1, feature_size=80),
    ).save_pretrained(folder)
    return Path(folder)


__all__ = ["byte_tokenizer", "save_tiny_checkpoint"]
