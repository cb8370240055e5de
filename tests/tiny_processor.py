"""A tiny processor for tests (bytes as tokens, CLIP, AST, Whisper of one second), and media and messages for it."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    ASTFeatureExtractor,
    BatchFeature,
    CLIPImageProcessor,
    PreTrainedTokenizerFast,
    WhisperFeatureExtractor,
)

from unimoe.processing_unimoe import UniMoEProcessor, add_placeholder_tokens

FOLDER = Path(__file__).parents[1] / "training/quickstart/media"
GRIDS = {"image": [1, 5], "video": [1, 5], "audio": [1, 3], "speech": [1, 2]}
NUM_TOKENS = {"image": 5, "video": 5, "audio": 3, "speech": 2}
LAYOUT = {"grids": GRIDS, "video_max_frames": 4, "video_temporal_stride": 2}
RATE = 16_000
AST_WINDOW = 32 * 160


def byte_tokenizer(placeholders: bool = True, **kwargs: Any) -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges: every text round-trips, and a token is one byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", **kwargs)
    if placeholders:
        add_placeholder_tokens(tokenizer)
        tokenizer.eos_token = "<|im_end|>"
    return tokenizer


def image_processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def make_processor(**kwargs: Any) -> UniMoEProcessor:
    parts: dict[str, Any] = {
        "tokenizer": byte_tokenizer(),
        "image_processor": image_processor(),
        "audio_feature_extractor": ASTFeatureExtractor(max_length=32, num_mel_bins=16),
        "speech_feature_extractor": WhisperFeatureExtractor(chunk_length=1, feature_size=80),
        "media_layout": LAYOUT,
    }
    return UniMoEProcessor(**{**parts, **kwargs})


def picture(shade: int = 128) -> Image.Image:
    return Image.new("RGB", (48, 40), (shade, shade, shade))


def sound(seconds: float = 0.2) -> np.ndarray:
    generator = np.random.default_rng(round(seconds * 1000))
    return (0.1 * generator.standard_normal(round(seconds * RATE))).astype(np.float32)


def turn(*items: Any, role: str = "user") -> dict[str, Any]:
    """A message; strings among the items become text items."""
    return {"role": role, "content": [{"type": "text", "text": i} if isinstance(i, str) else i for i in items]}


def item(kind: str, medium: Any) -> dict[str, Any]:
    return {"type": kind, kind: medium}


def process(processor: UniMoEProcessor, conversation: Any, **kwargs: Any) -> BatchFeature:
    """The call that training and evaluation make."""
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "padding": True}
    return processor.apply_chat_template(conversation, **{**options, **kwargs})


def runs(row: list[int]) -> list[tuple[int, int]]:
    """Modality ids of a row as (modality, length) of each run that is not text; neighbours of one kind are one run."""
    found: list[tuple[int, int]] = []
    previous = 0
    for kind in row:
        if kind and kind == previous:
            found[-1] = (kind, found[-1][1] + 1)
        elif kind:
            found.append((kind, 1))
        previous = kind
    return found


EVERYTHING = [
    turn(
        item("image", picture()), "a", item("speech", sound(0.5)), "b", item("audio", sound(0.2)), "c",
        item("video", [picture(shade) for shade in (0, 80, 160)]), "what is it?",
    ),
    turn("a cat", role="assistant"),
]  # fmt: skip


def first(kind: str, pattern: str) -> Path:
    """A real file of the quickstart."""
    return sorted((FOLDER / kind).glob(pattern))[0]
