"""Towers read through `Encoder`, and the whole path of a picture, equal transformers' classes with copied weights."""

from typing import Any

import pytest
import torch
from tiny import AST, PLACEHOLDERS, TEXT, WHISPER, randomise, tiny_model
from torch import Tensor
from transformers import (
    ASTModel,
    AutoConfig,
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    SiglipVisionModel,
    WhisperModel,
)

from unimoe import (
    UniMoEAudioConfig,
    UniMoEConfig,
    UniMoEForConditionalGeneration,
    UniMoESpeechConfig,
    UniMoEVisionConfig,
)
from unimoe.build.language_models import convert_language_model
from unimoe.encoders import Encoder

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
CLIP = {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, **SMALL}
SIGLIP = {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, **SMALL}
LARGE_V3 = {**WHISPER, "d_model": 24, "encoder_layers": 3, "encoder_attention_heads": 4, "num_mel_bins": 128}
# Configuration, class, encoder configuration, shape of one unit, prefix tokens.
TOWERS: dict[str, tuple[dict[str, Any], Any, Any, tuple[int, ...], int]] = {
    "clip": (CLIP, CLIPVisionModel, UniMoEVisionConfig, (3, 32, 32), 1),
    "siglip": (SIGLIP, SiglipVisionModel, UniMoEVisionConfig, (3, 32, 32), 0),
    "whisper": (
        {**WHISPER, "encoder_layers": 3, "decoder_attention_heads": 2},
        WhisperModel,
        UniMoESpeechConfig,
        (80, 100),
        0,
    ),
    "whisper-large-v3": (LARGE_V3, WhisperModel, UniMoESpeechConfig, (128, 100), 0),
    "ast": ({**AST, "num_hidden_layers": 3}, ASTModel, UniMoEAudioConfig, (56, 32), 2),
}
PRECISION = [(torch.float32, 1e-5), (torch.float64, 1e-7)]


def their_tower(name: str, dtype: torch.dtype) -> PreTrainedModel:
    config, tower_class, *_ = TOWERS[name]
    torch.manual_seed(0)
    model = tower_class._from_config(AutoConfig.for_model(**config), attn_implementation="eager").to(dtype).eval()
    randomise(model, scale=0.1)
    return model.encoder if name.startswith("whisper") else model


def close(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    return actual.shape == expected.shape and bool((actual - expected).abs().max() <= tolerance * expected.abs().max())


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
@torch.no_grad()
def test_towers_equal_transformers_at_every_layer(name: str, dtype: torch.dtype, tolerance: float) -> None:
    config, _, encoder_config, shape, prefix = TOWERS[name]
    theirs = their_tower(name, dtype)
    features = torch.randn(2, *shape, dtype=dtype)
    expected = theirs(features, output_hidden_states=True, output_attentions=True)
    for keep in (False, True):
        start = 0 if keep else prefix
        for layer in (-1, 0, 1, 2, 3, -2, -4, [-1], [1, -2, -1]):
            # None: the configuration tells tokens and width by itself.
            encoder = Encoder(encoder_config(tower_config=config, feature_layer=layer, keep_prefix=keep))
            encoder.to(dtype).eval()
            encoder.tower.load_state_dict(theirs.state_dict())
            tokens = encoder(features).last_hidden_state
            layers = [layer] if isinstance(layer, int) else layer
            states = [expected.last_hidden_state if at == -1 else expected.hidden_states[at] for at in layers]
            assert close(tokens, torch.cat(states, dim=-1)[:, start:], tolerance), (layer, keep)
    encoder.tower.set_attn_implementation("eager")
    output = encoder(features, output_hidden_states=True, output_attentions=True)
    for kind in ("hidden_states", "attentions"):
        pairs = [*zip(getattr(output, kind), getattr(expected, kind), strict=True)]
        assert len(pairs) >= 3 and all(close(actual, value, tolerance) for actual, value in pairs)
    assert encoder(features).hidden_states is None


def test_a_models_towers_show_their_hidden_states_and_attentions() -> None:
    model = tiny_model()
    model.set_attn_implementation("eager")
    speech, audio = torch.randn(2, 80, 100), torch.randn(1, 56, 32)
    heard = model.model.get_speech_features(speech, output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in heard.hidden_states] == [(2, 50, 16)] * 2
    assert [weights.shape for weights in heard.attentions] == [(2, 2, 50, 50)]
    assert len(heard.pooler_output) == 2
    assert len(model.model.get_audio_features(audio, output_hidden_states=True).hidden_states) == 2
    clip = torch.randn(1, 4, 3, 32, 32)
    assert model.model.get_video_features(clip, output_hidden_states=True).hidden_states[0].shape[0] == 4
    plain = model.model.get_image_features(clip[0], return_dict=True)
    assert plain.hidden_states is None and len(plain.pooler_output) == 4


LLAMA = {**TEXT, "model_type": "llama", "rms_norm_eps": 1e-6}
IMAGE_ID = PLACEHOLDERS["image_token_id"]


def llava(dtype: torch.dtype, vision: dict[str, Any], **fields: Any) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=AutoConfig.for_model(**vision),
            text_config=AutoConfig.for_model(**LLAMA),
            image_token_index=IMAGE_ID,
            **fields,
        )
    )
    randomise(model, scale=0.1)
    return model.to(dtype).eval()


def as_unimoe(theirs: LlavaForConditionalGeneration, vision: dict[str, Any]) -> UniMoEForConditionalGeneration:
    """The same model as unimoe: tower, connector and language model with copied weights."""
    language = convert_language_model(language_part(theirs))
    config = theirs.config
    model = UniMoEForConditionalGeneration(
        UniMoEConfig(
            text_config=language.config.to_dict(),
            vision_config={
                "tower_config": vision,
                "feature_layer": config.vision_feature_layer,
                "keep_prefix": config.vision_feature_select_strategy == "full",
            },
            image_token_id=IMAGE_ID,
            video_token_id=PLACEHOLDERS["video_token_id"],
        )
    ).to(theirs.dtype)
    model.model.encoders["image"].tower.load_state_dict(theirs.model.vision_tower.state_dict())
    model.model.connectors["image"].load_state_dict(theirs.model.multi_modal_projector.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.generation_config.suppress_tokens = None
    return model.eval()


def language_part(theirs: LlavaForConditionalGeneration) -> PreTrainedModel:
    language = LlamaForCausalLM(theirs.config.text_config).to(theirs.dtype)
    language.model.load_state_dict(theirs.model.language_model.state_dict())
    language.lm_head.load_state_dict(theirs.lm_head.state_dict())
    return language.eval()


def picture_batch(tokens: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Two rows, one picture and two, the shorter padded on the left."""
    rows = [[5, *[IMAGE_ID] * tokens, 6, 7], [*[IMAGE_ID] * tokens, 8, *[IMAGE_ID] * tokens, 9, 10]]
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[0] * (longest - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
        "pixel_values": torch.randn(3, 3, 32, 32, dtype=dtype),
    }


@pytest.mark.parametrize(
    ("vision", "fields", "tokens"),
    [
        (CLIP, {"vision_feature_layer": -2}, 16),
        (CLIP, {"vision_feature_layer": [-2, 1]}, 16),
        (CLIP, {"vision_feature_layer": -2, "vision_feature_select_strategy": "full"}, 17),
        (SIGLIP, {"vision_feature_layer": -2, "vision_feature_select_strategy": "full"}, 16),
    ],
    ids=["llava-1.5", "two layers", "class token", "siglip"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
def test_a_llava_is_reproduced_from_picture_to_logits(
    vision: dict[str, Any], fields: dict[str, Any], tokens: int, dtype: torch.dtype, tolerance: float
) -> None:
    theirs = llava(dtype, vision, **fields)
    ours = as_unimoe(theirs, vision)
    batch = picture_batch(tokens, dtype)
    real = batch["attention_mask"].bool()
    labels = batch["input_ids"].masked_fill(~real, -100)
    expected, actual = theirs(**batch, labels=labels), ours(**batch, labels=labels)
    assert close(actual.logits[real], expected.logits[real], tolerance)
    assert close(actual.loss, expected.loss, tolerance)
    other = {**batch, "pixel_values": batch["pixel_values"].flip(0)}
    assert not close(ours(**other).logits[real], actual.logits[real], 1e-3), "the pictures matter"
    expected.loss.backward()
    actual.loss.backward()
    gradient = theirs.model.vision_tower.encoder.layers[0].self_attn.q_proj.weight.grad
    assert close(
        ours.model.encoders["image"].tower.encoder.layers[0].self_attn.q_proj.weight.grad, gradient, 10 * tolerance
    )
    generated = [
        model.generate(**batch, max_new_tokens=6, min_new_tokens=6, do_sample=False, suppress_tokens=None)
        for model in (theirs, ours)
    ]
    assert torch.equal(*generated)
