"""From raw media to logits, our model in the layout of Uni-MoE-2.0 beside a slow one of its code, and each rule left
out. Releases of v1 and 8e: `convert/test_media_logits.py`.
"""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference.test_uni_moe_language import BOUNDS, FIELDS, OMNI, SIZES, D, draw, under_our_names
from reference.uni_moe_language import Weights
from reference.uni_moe_media import MediaOfV2, below, omni_positions, splice
from tiny_processor import byte_tokenizer, sound
from torch import Tensor
from transformers import (
    DynamicCache,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from unimoe import Modality, UniMoEConfig, UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.presets import text_config

TOKENIZER = byte_tokenizer()
VISION = SiglipVisionConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=28,
    patch_size=4,
    vision_use_head=False,
)
WHISPER = WhisperConfig(
    vocab_size=8,
    d_model=16,
    encoder_layers=1,
    encoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_layers=2,
    decoder_attention_heads=2,
    decoder_ffn_dim=24,
    max_target_positions=200,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0),
)
EYE = SiglipImageProcessor(size={"height": VISION.image_size, "width": VISION.image_size})
EAR = WhisperFeatureExtractor(feature_size=80)
SIDE, QUERIES, GRIDS = 3, 200, [[rows, columns] for columns in (1, 2) for rows in (1, 2)]
FRAMES = {"video_frame_rate": 1.0, "video_min_frames": 4, "video_max_frames": 8}


def picture(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


CLIP = {"frames": [picture(seed, 40, 20) for seed in range(13)], "fps": 2.0}
ROWS: dict[str, list[tuple[str, Any]]] = {
    "text": [],
    "a small picture": [("image", picture(0, 20, 9))],
    "a large picture": [("image", picture(1, 70, 50))],
    "a clip": [("video", CLIP)],
    "a sound": [("speech", sound(0.5))],
    "a picture and a sound": [("image", picture(2, 60, 20)), ("speech", sound(0.3))],
    "a long sound and a clip": [("speech", sound(30.5)), ("video", CLIP)],
}


def drawn(module: torch.nn.Module, start: str) -> Weights:
    """Random weights of a module under names that start so; norms stay near 1."""
    generator = torch.Generator().manual_seed(len(start))
    return {
        f"{start}{name}": value.double() + 0.2 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in module.state_dict().items()
    }


@cache
def released(dtype: torch.dtype) -> Weights:
    """Weights under the names of the released files."""
    torch.manual_seed(0)
    whisper = WhisperModel(WHISPER)
    first, second = torch.nn.Linear(16, D), torch.nn.Linear(D, D)
    weights = {
        **draw(OMNI),
        **drawn(torch.nn.Embedding(len(TOKENIZER), D), "model.embed_tokens."),
        **drawn(torch.nn.Linear(D, len(TOKENIZER), bias=False), "lm_head."),
        **drawn(SiglipVisionModel(VISION), "vision_tower.vision_tower.vision_model."),
        **drawn(first, "vision_aligner.0."),
        **drawn(second, "vision_aligner.2."),
        **drawn(whisper.encoder, "audio_tower.audio_tower."),
        **drawn(whisper.decoder, "audio_aligner.decoder.audio_decoder."),
        **drawn(torch.nn.Linear(16, D), "audio_aligner.projector."),
        "audio_aligner.query_tokens": torch.randn(1, QUERIES, 16, dtype=torch.float64),
    }
    return {name: weight.to(dtype) for name, weight in weights.items()}


def our_names(weights: Weights) -> Weights:
    """The same weights as `UniMoEForConditionalGeneration` holds them."""
    language = {name: weight for name, weight in weights.items() if name.startswith(("model.", "lm_head."))}
    ours = {
        name.replace("model.", "model.language_model."): weight
        for name, weight in under_our_names(language, OMNI).items()
    }
    starts = {
        "vision_tower.vision_tower.vision_model.": "model.encoders.image.tower.",
        "vision_aligner.0.": "model.connectors.image.linear_1.",
        "vision_aligner.2.": "model.connectors.image.linear_2.",
        "audio_tower.audio_tower.": "model.encoders.speech.tower.",
        "audio_aligner.decoder.audio_decoder.": "model.connectors.speech.decoder.",
        "audio_aligner.projector.": "model.connectors.speech.output_proj.",
    }
    for theirs, start in starts.items():
        ours |= {f"{start}{name}": weight for name, weight in below(weights, theirs).items()}
    del ours["model.connectors.speech.decoder.embed_tokens.weight"]
    return {**ours, "model.connectors.speech.queries": weights["audio_aligner.query_tokens"][0]}


@cache
def our_config() -> UniMoEConfig:
    """The preset in small, with towers, connectors and media as 2.0 has them."""
    text = text_config("uni-moe-2.0", **{**SIZES, **FIELDS["uni-moe-2.0"], "vocab_size": len(TOKENIZER)})
    return UniMoEConfig(
        text_config=text.to_dict(),
        vision_config={"tower_config": VISION.to_dict(), "feature_layer": VISION.num_hidden_layers},
        image_connector_config={"type": "pooling", "output_grid": [SIDE, SIDE]},
        speech_config={"tower_config": WHISPER.to_dict()},
        speech_connector_config={
            "type": "query_decoder",
            "num_queries": QUERIES,
            "decoder_config": WHISPER.to_dict(),
        },
        image_grids=GRIDS,
        video_sampling="linspace",
        video_max_frames_with_sound=6,
        position_type="omni",
        sound_group_tokens=20,
        **FRAMES,
        **{f"{m.key}_token_id": TOKENIZER.convert_tokens_to_ids(m.token) for m in Modality if m.token},
    )


@cache
def our_model(dtype: torch.dtype) -> UniMoEForConditionalGeneration:
    config = our_config()
    model = UniMoEForConditionalGeneration._from_config(config, dtype=dtype, experts_implementation="eager").eval()
    model.load_state_dict(our_names(released(dtype)))
    return model


def our_inputs(row: str) -> dict[str, Any]:
    extractors = {"image_processor": EYE, "speech_feature_extractor": EAR}
    processor = UniMoEProcessor.from_config(our_config(), TOKENIZER, **extractors)
    names = {"image": "images", "video": "videos", "speech": "speech"}
    media = {names[kind]: medium for kind, medium in ROWS[row]}
    text = "abc" + "".join(f"<|{kind}|>abc" for kind, _ in ROWS[row])
    return dict(processor(text=text, return_tensors="pt", return_mm_token_type_ids=True, **media))


def expected(row: str, dtype: torch.dtype = torch.float64, *, plain_sounds: bool = True, **rules: Any) -> Tensor:
    """Logits (S, V) of the slow model, with rules left out."""
    weights, kinds = released(dtype), [kind for kind, _ in ROWS[row]]
    most = 6 if "speech" in kinds else 8
    reader = MediaOfV2(weights, VISION, WHISPER, EYE, EAR, SIDE, GRIDS, rate=1.0, least=4, most=most)
    words, counted = TOKENIZER("abc")["input_ids"], ("text", [(word, word, word) for word in range(3)])
    pieces: list[list[int] | Tensor] = [words]
    parts = [counted]
    for kind, medium in ROWS[row]:
        tokens, places = replace(reader, **rules).read(medium, kind)
        pieces += [tokens, words]
        parts += [(kind, places), counted]
    return OMNI.row(weights, splice(weights, pieces), omni_positions(parts, plain_sounds=plain_sounds))


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, of the largest logit."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("row", ROWS)
@torch.no_grad()
def test_logits_are_those_of_the_slow_model(row: str, dtype: torch.dtype) -> None:
    assert distance(our_model(dtype)(**our_inputs(row)).logits[0], expected(row, dtype)) <= BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@torch.no_grad()
def test_prefill_and_single_steps_on_a_cache_give_them_too(dtype: torch.dtype) -> None:
    row, cache, parts = "a picture and a sound", DynamicCache(), []
    inputs = our_inputs(row)
    ids, mask, kinds, places = (
        inputs.pop(name) for name in ("input_ids", "attention_mask", "mm_token_type_ids", "position_ids")
    )
    prompt = ids.shape[1] - 3
    for begin, end in [(0, prompt), *((step, step + 1) for step in range(prompt, prompt + 3))]:
        tokens = {"input_ids": ids[:, begin:end], "mm_token_type_ids": kinds[:, begin:end]}
        tokens |= {"position_ids": places[..., begin:end], "attention_mask": mask[:, :end]}
        media = inputs if begin == 0 else {}
        parts.append(our_model(dtype)(**tokens, **media, cache=cache).logits)
    assert distance(torch.cat(parts, dim=1)[0], expected(row, dtype)) <= BOUNDS[dtype]


RULES: list[tuple[str, dict[str, Any]]] = [
    ("a small picture", {"boxed": False}),
    ("a small picture", {"normed": True}),
    ("a small picture", {"pools_first": True}),
    ("a large picture", {"down": True}),
    ("a large picture", {"apart": True}),
    ("a clip", {"rounding": math.floor}),
    ("a sound", {"causal": False}),
    ("a sound", {"plain_sounds": False}),
    ("a picture and a sound", {"group": 1}),
]


@pytest.mark.parametrize(("row", "rule"), RULES, ids=str)
@torch.no_grad()
def test_no_rule_can_be_left_out(row: str, rule: dict[str, Any]) -> None:
    ours = our_model(torch.float64)(**our_inputs(row)).logits[0]
    assert distance(ours, expected(row, **rule)) > 10 * BOUNDS[torch.float64]
