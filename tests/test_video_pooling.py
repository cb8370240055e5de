"""Clips whose frames, however many, are averaged behind the connector, as in the released weights of Uni-MoE v1."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import save_tiny
from tiny_processor import LAYOUT, item, make_processor, picture, process, runs, turn
from torch import Tensor
from transformers import AutoModelForMultimodalLM, AutoProcessor

from training.config.data import AugmentConfig
from training.data import Collator, Sample
from training.encoder_cache.settings import choose_modalities
from training.monitor.values import find_bad_inputs
from unimoe import Modality, UniMoEConfig, UniMoEProcessor
from unimoe.analysis import verify
from unimoe.errors import ConfigError, DataError
from unimoe.media import FrameSampling, load_clip

POOLED: dict[str, Any] = {"video_pooling": "clip", "video_temporal_stride": 1, "video_max_frames": 6}


def frames(count: int) -> list[Image.Image]:
    pixels = np.random.default_rng(count).integers(0, 255, (count, 40, 48, 3), dtype=np.uint8)
    return [Image.fromarray(frame) for frame in pixels]


def processor_of(**layout: Any) -> UniMoEProcessor:
    return make_processor(media_layout={**LAYOUT, **POOLED, **layout})


def slow_mean(model: Any, processor: Any, clip: list[Image.Image]) -> Tensor:
    """Each frame alone through encoder and connector, then their sum over their number."""
    total: Any = 0
    for frame in clip:
        pixels = processor.image_processor([frame], return_tensors="pt")["pixel_values"]
        states = model.model.encoders["image"](pixels).last_hidden_state
        total = total + model.model.connectors["image"](states)[0]
    return total / len(clip)


@pytest.fixture(scope="module", params=["plain", "omni"])
def parts(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    media = {**POOLED, "position_type": request.param}
    folder = save_tiny(tmp_path_factory.mktemp("pooled"), media, num_experts=4)
    return AutoModelForMultimodalLM.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder), folder


@torch.no_grad()
def test_a_clip_is_the_mean_of_its_frames_behind_the_connector(parts: tuple[Any, Any, Path]) -> None:
    model, processor, _ = parts
    clips = [frames(count) for count in (3, 1, 6)]
    out = process(processor, [[turn(item("video", clip), "?")] for clip in clips])
    assert out["pixel_values_videos"].shape[:2] == (3, 6)
    found = model.model.encode(Modality.VIDEO, out["pixel_values_videos"]).pooler_output
    for clip, embeddings in zip(clips, found, strict=True):
        torch.testing.assert_close(embeddings, slow_mean(model, processor, clip), atol=1e-6, rtol=1e-5)
    in_front = model.model.connectors["image"](
        model.model.encoders["image"](out["pixel_values_videos"][2]).last_hidden_state.mean(dim=0, keepdim=True)
    )
    assert not torch.allclose(found[2], in_front[0], atol=1e-4)


@torch.no_grad()
def test_a_row_of_a_batch_equals_the_row_alone(parts: tuple[Any, Any, Path]) -> None:
    model, processor, _ = parts
    rows = [
        [turn(item("video", frames(2)), "a", item("video", frames(5)), "b")],
        [turn("c", item("video", frames(1)))],
        [turn(item("image", picture()), "d")],
    ]
    logits = model(**process(processor, rows, padding_side="right")).logits
    for index, row in enumerate(rows):
        alone = process(processor, row)
        assert processor.count_tokens(row) == alone["input_ids"].shape[1]
        expected = model(**alone).logits[0]
        torch.testing.assert_close(logits[index, : len(expected)], expected, atol=1e-5, rtol=1e-4)


def test_every_clip_is_one_unit() -> None:
    for count in (1, 4, 6, 9):
        out = process(processor_of(), [turn(item("video", frames(count)), "?")])
        assert runs(out["mm_token_type_ids"][0].tolist()) == [(2, 5)]
        pixels = out["pixel_values_videos"]
        assert pixels.shape[:2] == (1, min(count, 6)) and pixels.isfinite().all()
    few = load_clip(frames(4), sampling=FrameSampling(minimum=2, maximum=6, repeats=False))
    assert [np.array_equal(a, b) for a, b in zip(few.frames, frames(4), strict=True)] == [True] * 4


def test_frames_of_padding_are_not_named_as_bad_inputs() -> None:
    out = process(processor_of(), [[turn(item("video", frames(count)), "?")] for count in (1, 3)])
    assert out["pixel_values_videos"].isnan().any() and find_bad_inputs(dict(out)) == []
    out["pixel_values_videos"][0, 0, 0, 3, 3] = torch.nan
    assert find_bad_inputs(dict(out)) == ["pixel_values_videos"]


def learn(model: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    model.zero_grad()
    output = model(**{name: value for name, value in batch.items() if name != "row_ids"}, use_cache=False)
    output.loss.backward()
    return output, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_packed_rows_have_the_losses_and_gradients_of_a_padded_batch(parts: tuple[Any, Any, Path]) -> None:
    model, processor, _ = parts
    samples = [
        Sample(str(n), f"data:{n}", [turn(item("video", frames(n)), "x"), turn("y" * n, role="assistant")],
               AugmentConfig(), torch.Generator())
        for n in (1, 4)
    ]  # fmt: skip
    (padded, expected), (packed, found) = (
        learn(model, Collator(processor, packing=packing)(samples)) for packing in (False, True)
    )
    torch.testing.assert_close(packed.loss, padded.loss, rtol=1e-5, atol=1e-6)
    assert expected.keys() == found.keys() and all(gradient.isfinite().all() for gradient in found.values())
    for name, gradient in expected.items():
        assert (gradient - found[name]).abs().max() <= 1e-5 * gradient.abs().max() + 1e-8, name


def test_generation_in_a_batch_equals_generation_row_by_row(parts: tuple[Any, Any, Path]) -> None:
    model, processor, _ = parts
    rows = [[turn(item("video", frames(count)), "?")] for count in (5, 2)]
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": -1, "num_beams": 2}
    batch = process(processor, rows, add_generation_prompt=True)
    found = model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
    for index, row in enumerate(rows):
        inputs = process(processor, row, add_generation_prompt=True)
        assert found[index].tolist() == model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :].tolist()


def test_the_pooling_survives_saving_and_loading(parts: tuple[Any, Any, Path]) -> None:
    model, processor, folder = parts
    assert model.config.video_pooling == processor.layout.video_pooling == "clip"
    assert UniMoEConfig.from_pretrained(folder).media_layout == processor.layout


def test_verify_finds_nothing(parts: tuple[Any, Any, Path]) -> None:
    assert [check.name for check in verify(*parts[:2]) if not check.passed] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_pooling": "mean"}, "video_pooling is 'mean'; choose stride or clip"),
        (
            {"video_temporal_stride": 2},
            r"video_pooling 'clip' averages all frames at once, and video_temporal_stride is 2",
        ),
    ],
)
def test_a_pooling_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor_of(**changes)


def test_tokens_of_frames_are_neither_cached_nor_connected(parts: tuple[Any, Any, Path]) -> None:
    model = parts[0]
    with pytest.raises(
        DataError, match=r"encoder_states\['video'\]: video_pooling is 'clip'\. Pass pixel_values_videos"
    ):
        model.model.connect(Modality.VIDEO, torch.zeros(1, 16, 24))
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"video_pooling 'clip', frames of a clip are averaged .* Leave video out"):
        choose_modalities(["video"], model)
    assert "video" not in [modality.key for modality in choose_modalities(None, model)]
    model.requires_grad_(True)
