"""Packed rows train as they would in a padded batch: the same loss for each token, the same gradients."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TEXT
from tiny_model import save_tiny
from tiny_processor import item, picture, sound, turn
from transformers import AttentionInterface, AutoModelForMultimodalLM, AutoProcessor

from training.config.data import AugmentConfig, DataConfig
from training.data import Collator, Sample
from training.stage.run import run_stage
from training.trainer.data import check_packing
from training.trainer.trainer import attended_tokens
from unimoe import UniMoEForCausalLM, UniMoETextConfig
from unimoe.errors import ConfigError

CONVERSATIONS = [
    [turn(item("image", picture(40)), "what?"), turn("grey", role="assistant")],
    [turn("text alone"), turn("so it is", role="assistant"), turn("more?"), turn("no", role="assistant")],
    [turn(item("speech", sound(1.4)), "x", item("image", picture(90))), turn("ja", role="assistant")],
    [
        turn("a", item("video", [picture(shade) for shade in (0, 80, 160)]), item("audio", sound(0.3))),
        turn("b", role="assistant"),
    ],
    [turn(item("audio", sound(0.2))), turn("bell", role="assistant")],
]
SAMPLES = [
    Sample(str(number), f"data.jsonl:{number}", messages, AugmentConfig(), torch.Generator())
    for number, messages in enumerate(CONVERSATIONS)
]
POSITIONS = {
    "plain": {},
    "omni": {"position_type": "omni", "image_max_tiles": 2},
    "as released": {
        "position_type": "omni",
        "image_grids": [[1, 1], [1, 2]],
        "sound_group_tokens": 1,
        "video_temporal_stride": 1,
        "video_pooling": "clip",
        "video_sampling": "linspace",
        "video_max_frames_with_sound": 2,
    },
}
LAYERS = {"dense": {}, "MoE": {"num_experts": 4, "router_aux_loss_coef": 0.1, "router_z_loss_coef": 0.1}}


@pytest.fixture(scope="module", params=[(p, layers) for p in POSITIONS for layers in LAYERS], ids=" ".join)
def parts(request, tmp_path_factory):
    positions, layers = request.param
    folder = save_tiny(tmp_path_factory.mktemp("packing"), POSITIONS[positions], **LAYERS[layers])
    return AutoModelForMultimodalLM.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def learn(model, batch):
    batch = {name: value for name, value in batch.items() if name != "row_ids"}
    model.zero_grad()
    output = model(**batch, output_router_logits=True, use_cache=False)
    output.loss.backward()
    return output, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_rows_have_the_losses_and_gradients_of_a_padded_batch(parts, attention):
    model, processor = parts
    model.set_attn_implementation({"text_config": attention})
    check_packs(model, processor)


def check_packs(model, processor):
    """Each loss, each gradient and the logits of packed rows are those of a padded batch; return the gradients."""
    padded, packed = (Collator(processor, packing=packing)(SAMPLES) for packing in (False, True))
    assert "attention_mask" not in packed and packed["input_ids"].shape == (1, int(attended_tokens(padded)))
    assert attended_tokens(packed) == attended_tokens(padded)
    expected, expected_grads = learn(model, padded)
    found, grads = learn(model, packed)
    for name, loss in expected.losses.items():
        torch.testing.assert_close(found.losses[name], loss, rtol=1e-5, atol=1e-6, msg=name)
    assert expected_grads.keys() == grads.keys()
    for name, gradient in expected_grads.items():
        assert (gradient - grads[name]).abs().max() <= 1e-5 * gradient.abs().max() + 1e-8, name
    real = padded["attention_mask"].bool()
    torch.testing.assert_close(found.logits[0], expected.logits[real], atol=1e-5, rtol=1e-5)
    return grads


def test_a_pack_keeps_labels_media_and_positions_of_its_rows(parts):
    _, processor = parts
    packed = Collator(processor, packing=True)(SAMPLES)
    alone = [Collator(processor)([sample]) for sample in SAMPLES]
    for name in ("input_ids", "labels", "mm_token_type_ids"):
        assert torch.equal(packed[name], torch.cat([row[name] for row in alone], dim=1)), name
    for name in ("pixel_values", "audio_features", "speech_features", "pixel_values_videos"):
        torch.testing.assert_close(packed[name], torch.cat([row[name] for row in alone if name in row]), msg=name)
    plain = torch.cat([torch.arange(row["input_ids"].shape[1]) for row in alone])[None]
    if "position_ids" in alone[0]:
        spatial = torch.cat([row["position_ids"] for row in alone], dim=2)
        assert torch.equal(packed["position_ids"], torch.cat([plain[None], spatial]))
    else:
        assert torch.equal(packed["position_ids"], plain)
    assert packed["row_ids"] == [sample.id for sample in SAMPLES]


def test_the_first_token_of_a_row_is_never_foretold_by_the_row_before(parts):
    _, processor = parts
    speaks_first = AutoProcessor.from_pretrained(
        processor.tokenizer.name_or_path,
        chat_template="{%- for m in messages -%}{%- generation -%}{{- m['content'][0]['text'] -}}{%- endgeneration -%}"
        "{%- endfor -%}",
    )
    text = Sample("t", "t", [turn("abc", role="assistant")], AugmentConfig(), torch.Generator())
    labels = Collator(speaks_first, packing=True)([text, text])["labels"][0].tolist()
    assert labels[0] == labels[3] == -100 and -100 not in labels[1:3] + labels[4:]


def test_flash_attention_is_told_where_rows_begin(parts):
    """It reads the plain positions, whatever the model's own are."""
    model, processor = parts
    seen = []

    def attend(module, query, key, value, mask, position_ids=None, **kwargs):
        seen.append(position_ids)
        return torch.zeros_like(query).transpose(1, 2), None

    AttentionInterface.register("seeing", attend)
    batch = Collator(processor, packing=True)(SAMPLES)
    before = model.config.text_config._attn_implementation
    model.model.language_model.config._attn_implementation = "seeing"
    try:
        learn(model, batch)
    finally:
        model.model.language_model.config._attn_implementation = before
    plain = batch["position_ids"] if batch["position_ids"].dim() == 2 else batch["position_ids"][0]
    assert seen and all(torch.equal(positions, plain) for positions in seen)


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def language_model(request):
    torch.manual_seed(0)
    model = UniMoEForCausalLM(UniMoETextConfig(**TEXT, num_experts=4)).eval()
    model.set_attn_implementation(request.param)
    return model


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), data=st.data(), omni=st.booleans())
def test_attention_never_crosses_rows(language_model, lengths, data, omni):
    """What a row's logits are made of is the row itself: all other embeddings have no gradient."""
    model, total = language_model, sum(lengths)
    generator = torch.Generator().manual_seed(total)
    embeds = torch.randn(1, total, TEXT["hidden_size"], generator=generator, requires_grad=True)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    if omni:
        positions = torch.cat([positions[None], torch.randint(0, 50, (3, 1, total), generator=generator)])
    row = data.draw(st.integers(0, len(lengths) - 1))
    start = sum(lengths[:row])
    own = torch.zeros(total, dtype=torch.bool)
    own[start : start + lengths[row]] = True
    logits = model(inputs_embeds=embeds, position_ids=positions).logits[0]
    (gradient,) = torch.autograd.grad(logits[own].square().sum(), embeds)
    assert (gradient[0, ~own] == 0).all() and (gradient[0, own] != 0).any()
    alone = model(inputs_embeds=embeds[:, own], position_ids=positions[..., own]).logits[0]
    torch.testing.assert_close(logits[own], alone, atol=1e-5, rtol=1e-5)


def metrics(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss_language" in line]


@pytest.mark.parametrize(
    ("language", "accumulate"),
    [
        ("tokens", 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("labels", 1), ("labels", 2), ("tokens", 1))),
    ],
)
def test_a_stage_learns_the_same_from_packs(make_stage, mixture_start, tmp_path, language, accumulate):
    """All rows in each step, in two packs or in a padded batch."""
    stages = [
        make_stage(
            start=mixture_start,
            train={
                "parts": ["router", "connectors", "experts"],
                "losses": {"language": language, "balance": 0, "z": 0.1},
            },
            data={"max_length": 2000, "packing": packing, "packing_buffer": 30},
            trainer={
                "max_steps": -1,
                "num_train_epochs": 2,
                "per_device_train_batch_size": size // accumulate,
                "gradient_accumulation_steps": accumulate,
                "learning_rate": 1e-3,
            },
            output=str(tmp_path / str(packing)),
        )
        for packing, size in ((False, 60), (True, 2))
    ]
    for stage in stages:
        run_stage(stage, name="stage")
    expected, found = (metrics(stage.output) for stage in stages)
    assert len(expected) == len(found) == 2
    for a, b in zip(expected, found, strict=True):
        assert a["rows"] == b["rows"]
        for name in ("loss", "loss_language", "loss_z", "grad_norm"):
            assert b[name] == pytest.approx(a[name], rel=1e-5), name
    models = [AutoModelForMultimodalLM.from_pretrained(stage.output).state_dict() for stage in stages]
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=1e-3, atol=1e-5, msg=name)
    history = json.loads((Path(stages[1].output) / "history.json").read_text())[-1]
    assert history["samples"] == found[-1]["rows"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ({"router_type": "soft"}, r"data\.packing: the model has router_type: soft"),
        ({"router_aux_loss_scope": "sequence"}, r"data\.packing: the model has router_aux_loss_scope: sequence"),
    ],
)
def test_packing_is_refused_where_it_would_change_the_model(text, reason):
    config = UniMoETextConfig(**TEXT, num_experts=4, **text)
    packing = DataConfig(mixture=["a.jsonl"], max_length=64, packing=True)
    with pytest.raises(ConfigError, match=reason):
        check_packing(config, packing)
    check_packing(config, packing.model_copy(update={"packing": False}))
    check_packing(UniMoETextConfig(**TEXT, num_experts=4), packing)
