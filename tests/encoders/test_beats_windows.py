"""Windows of BEATs as Uni-MoE v1 makes them: of so many samples, the last sample repeated, padding out of sight."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from beats_reference import encode, padding
from test_beats import CFG, TINY, as_numpy, kaldi, published, tiny_beats
from tiny import TEXT
from tiny_processor import byte_tokenizer, item, process, runs, turn
from transformers import AutoFeatureExtractor

from training.config.data import AugmentConfig, SoundAugment
from training.data import Collator, Sample
from unimoe import BeatsFeatureExtractor, UniMoEBeatsConfig, UniMoEConfig, UniMoEForConditionalGeneration
from unimoe.encoders import Encoder, measure_tower
from unimoe.encoders.beats.modeling import padded_patches
from unimoe.encoders.beats_checkpoint import load_beats_checkpoint
from unimoe.errors import LimitError
from unimoe.media import cut_windows, window_samples
from unimoe.processing_unimoe import UniMoEProcessor

SAMPLES = 5400  # 32 frames and a rest, as 480,000 samples are 2998 frames and a rest
FRAMES = 32
WINDOWS: dict[str, Any] = {"n_samples": SAMPLES, "max_windows": 3, "num_mel_bins": 16}
LENGTHS = [1, 159, 160, 161, 2000, 3199, SAMPLES - 1, SAMPLES]


def noise(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


def extract(samples: np.ndarray) -> torch.Tensor:
    features: torch.Tensor = BeatsFeatureExtractor(**WINDOWS)(samples, return_tensors="pt")["input_values"]
    return features


def test_the_windows_of_v1_have_2998_frames_and_187_rows_of_patches() -> None:
    extractor = BeatsFeatureExtractor(n_samples=480_000)
    assert (extractor.max_length, window_samples(extractor)) == (2998, 480_000)
    config = UniMoEBeatsConfig(max_length=2998, mask_padding=True)
    audio = {"tower_config": config.to_dict()}
    model = UniMoEConfig(text_config=TEXT, audio_config=audio, audio_token_id=1)
    assert model.audio_config.token_grid == [187, 8]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_short_sound_goes_on_with_its_last_sample(length: int) -> None:
    sound = noise(length)
    features = extract(sound)[0].numpy()
    repeated = np.concatenate([sound, np.full(SAMPLES - length, sound[-1])])
    assert features.shape == (FRAMES, 17)
    expected = (kaldi(repeated, 16) - 15.41663) / (2 * 6.55582)
    loud = kaldi(repeated, 16) > -5  # near the floor, a constant leaves what rounding leaves
    assert np.abs(features[:, :16] - expected)[loud].max(initial=0.0) <= 1e-3


@pytest.mark.parametrize("length", [1, 159, 160, 161, 320, 321, 5000, 100_000, 479_680, 479_681, 480_000])
def test_frames_and_patches_of_padding_are_those_of_the_published_code(length: int) -> None:
    extractor = BeatsFeatureExtractor(n_samples=480_000, num_mel_bins=4)
    features = extractor(np.zeros(length, np.float32), return_tensors="pt")["input_values"]
    found = padded_patches(features[..., -1] == 0, 187 * 8)[0]
    assert features.shape == (1, 2998, 5) and found.tolist() == padding(length, 480_000, 2998, 187 * 8)


@pytest.mark.parametrize("length", [1, 169, 2000, SAMPLES])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_masked_windows_equal_the_equations(length: int, attention: str) -> None:
    model = tiny_beats(torch.float64, mask_padding=True)
    model.set_attn_implementation(attention)
    features = extract(noise(length)).double()
    output = model(features, output_hidden_states=True)
    padded = padding(length, SAMPLES, FRAMES, 32)
    states, _ = encode(features[0, :, :16].numpy(), as_numpy(model), model.config, padded)
    for actual, expected in zip(output.hidden_states, states, strict=True):
        assert np.abs(actual[0].numpy() - expected).max() <= 1e-7 * np.abs(expected).max()
    assert sum(padded) == {1: 31, 169: 30, 2000: 20, SAMPLES: 0}[length]


@torch.no_grad()
def test_what_stands_in_padding_changes_no_patch_of_sound() -> None:
    model = tiny_beats(mask_padding=True)
    features = extract(noise(2560))  # 16 of 32 frames, the first 16 patches: four whole rows
    changed = features.clone()
    changed[:, 16:, :16] = 7.0
    expected, found = model(features).last_hidden_state, model(changed).last_hidden_state
    torch.testing.assert_close(found[:, :16], expected[:, :16])
    assert not torch.allclose(tiny_beats()(changed[..., :16]).last_hidden_state[:, :16], expected[:, :16], atol=1e-3)


def test_a_full_window_is_masked_nowhere() -> None:
    masked, plain = tiny_beats(mask_padding=True), tiny_beats()
    features = extract(noise(SAMPLES))
    with torch.no_grad():
        expected = plain(features[..., :16]).last_hidden_state
        torch.testing.assert_close(masked(features).last_hidden_state, expected)


def test_frames_behind_the_last_whole_patch_are_not_read() -> None:
    model = tiny_beats(mask_padding=True, max_length=35)
    features = torch.cat([extract(noise(SAMPLES)), torch.full((1, 3, 17), 9.0)], dim=1)
    with torch.no_grad():
        found = Encoder(UniMoEConfig(
            text_config=TEXT, audio_config={"tower_config": model.config.to_dict()}, audio_token_id=1
        ).audio_config)  # fmt: skip
        assert found(features).last_hidden_state.shape == (1, 32, 8)
        assert measure_tower(model.config, (35, 17))["token_grid"] == [8, 4]
        torch.testing.assert_close(model(features).last_hidden_state, model(features[:, :32]).last_hidden_state)


def make_parts() -> tuple[UniMoEForConditionalGeneration, UniMoEProcessor]:
    tokenizer = byte_tokenizer()
    config = UniMoEConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer)},
        audio_config={"tower_config": UniMoEBeatsConfig(**TINY, mask_padding=True).to_dict()},
        audio_connector_config={"stack": 8},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio|>"),
    )
    torch.manual_seed(0)
    model = UniMoEForConditionalGeneration(config).eval()
    extractor = BeatsFeatureExtractor(**WINDOWS)
    return model, UniMoEProcessor.from_config(config, tokenizer, audio_feature_extractor=extractor)


@pytest.mark.parametrize("length", [1, 100, SAMPLES, SAMPLES + 1, SAMPLES + 401, 3 * SAMPLES])
def test_windows_are_as_long_as_counted_and_end_as_they_are(length: int) -> None:
    model, processor = make_parts()
    chat = [turn(item("audio", noise(length)), "what?"), turn("this", role="assistant")]
    out = process(processor, [chat])
    windows = -(-length // SAMPLES)
    assert runs(out["mm_token_type_ids"][0].tolist()) == [(3, 4 * windows)]
    assert processor.count_tokens(chat) == out["input_ids"].shape[1]
    rest = length - (windows - 1) * SAMPLES
    assert int(out["audio_features"][-1, :, -1].sum()) == min(-(-rest // (SAMPLES // FRAMES)), FRAMES)
    expected = [extract(piece)[0] for piece in cut_windows(noise(length), window=SAMPLES)]
    assert torch.equal(out["audio_features"], torch.stack(expected))
    with torch.no_grad():
        assert model(**out).logits.isfinite().all()


@torch.no_grad()
def test_a_row_of_a_batch_equals_the_row_alone() -> None:
    model, processor = make_parts()
    rows = [[turn(item("audio", noise(length)), "x")] for length in (300, 2 * SAMPLES + 5)]
    logits = model(**process(processor, rows)).logits
    for index, row in enumerate(rows):
        alone = model(**process(processor, row)).logits[0]
        torch.testing.assert_close(logits[index, : len(alone)], alone, atol=1e-5, rtol=1e-4)


def test_more_windows_than_the_extractor_takes_are_refused() -> None:
    _, processor = make_parts()
    chat = [turn(item("audio", noise(3 * SAMPLES + 1)), "x")]
    message = r"the sound fills 4 windows of 0\.3375 s, and max_windows of BeatsFeatureExtractor is 3\. Cut the sound"
    for call in (lambda: process(processor, chat), lambda: processor.count_tokens(chat)):
        with pytest.raises(LimitError, match=message):
            call()
    with pytest.raises(ValueError, match="max_windows is 0; it is at least 1"):
        BeatsFeatureExtractor(max_windows=0)


def test_extractor_and_tower_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got 16 bands, .* mask_padding is True\. Take .* with n_samples"):
        tiny_beats(mask_padding=True)(torch.zeros(1, 32, 16))
    with pytest.raises(ValueError, match=r"got 17 bands, .* mask_padding is False\. Take .* without n_samples"):
        tiny_beats()(torch.zeros(1, 32, 17))
    with pytest.raises(ValueError, match=r"max_length is 30, but 32 frames lie within 5400 samples"):
        BeatsFeatureExtractor(n_samples=SAMPLES, max_length=30)
    with pytest.raises(ValueError, match=r"n_samples is 399; a window holds a frame of 400 at least"):
        BeatsFeatureExtractor(n_samples=399)
    with pytest.raises(ValueError, match=r"mask_padding: 32 frames \(max_length\) make 64 patches"):
        UniMoEBeatsConfig(**{**TINY, "patch_size": 2, "num_mel_bins": 8}, mask_padding=True)
    with pytest.raises(ValueError, match=r"at most 5400 samples \(32 frames\), got shape \(0,\)"):
        extract(np.zeros(0, np.float32))


def test_it_survives_saving_and_loading(tmp_path: Path) -> None:
    extractor = BeatsFeatureExtractor(**WINDOWS)
    extractor.save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == extractor.to_dict() and loaded.max_windows == 3
    sound = noise(999)
    assert np.array_equal(loaded(sound)["input_values"], extractor(sound)["input_values"])
    saved = {"cfg": {**CFG, "input_patch_size": 16}, "model": published(tiny_beats(patch_size=16))}
    torch.save(saved, tmp_path / "beats.pt")
    model = load_beats_checkpoint(tmp_path / "beats.pt", max_length=35, mask_padding=True)
    model.save_pretrained(tmp_path)
    config = UniMoEBeatsConfig.from_pretrained(tmp_path)
    assert config.mask_padding and config.max_length == 35


def test_augmentation_masks_no_padding_band() -> None:
    _, processor = make_parts()
    messages = [turn(item("audio", noise(2000)), "x"), turn("y", role="assistant")]
    config = AugmentConfig(audio=SoundAugment(mask_time=0.9, mask_frequency=0.9))
    changed = False
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        batch = Collator(processor)([Sample("a", "data:1", messages, config, generator)])
        assert torch.equal(batch["audio_features"][..., -1], extract(noise(2000))[..., -1])
        changed |= not torch.equal(batch["audio_features"], extract(noise(2000)))
    assert changed
