"""BEATs equals a reference written from its papers, reads the published layout, and hears what Kaldi hears."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from beats_reference import bucket, encode
from huggingface_hub.errors import StrictDataclassError
from tiny import randomise
from torch import Tensor
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from unimoe import BeatsFeatureExtractor, BeatsModel, UniMoEBeatsConfig
from unimoe.encoders.beats.modeling import distance_buckets
from unimoe.encoders.beats_checkpoint import load_beats_checkpoint
from unimoe.media import cut_windows, window_samples

TINY: dict[str, Any] = {
    "max_length": 32,
    "num_mel_bins": 16,
    "patch_size": 4,
    "patch_embedding_size": 6,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "num_conv_pos_embeddings": 6,
    "num_conv_pos_embedding_groups": 2,
    "num_buckets": 12,
    "max_bucket_distance": 14,
}


def tiny_beats(dtype: torch.dtype = torch.float32, **fields: Any) -> BeatsModel:
    torch.manual_seed(1)
    model = BeatsModel(UniMoEBeatsConfig(**{**TINY, **fields})).eval()
    randomise(model, scale=0.3)  # gates and biases that matter
    return model.to(dtype)


def published(model: BeatsModel) -> dict[str, Tensor]:
    """The weights as the authors name them, the shared position bias in every layer."""
    weights = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        weights[name.replace("parametrizations.weight.original1", "weight_v")] = tensor
    bias = weights["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    for index in range(model.config.num_hidden_layers):
        weights[f"encoder.layers.{index}.self_attn.relative_attention_bias.weight"] = bias
    return weights


def as_numpy(model: BeatsModel) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in published(model).items()}


VARIANTS = {
    "published": {},
    "odd kernel": {"num_conv_pos_embeddings": 5},
    "no projection": {"patch_embedding_size": 8},
    "bias": {"conv_bias": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-7)])
@torch.no_grad()
def test_all_hidden_states_and_attentions_equal_the_equations(
    variant: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = tiny_beats(dtype, **VARIANTS[variant])
    model.set_attn_implementation("eager")
    windows = torch.randn(2, 32, 16, dtype=dtype)
    output = model(windows, output_hidden_states=True, output_attentions=True)
    for row, window in enumerate(windows):
        states, attentions = encode(window.double().numpy(), as_numpy(model), model.config)
        assert len(output.hidden_states) == len(states) and len(output.attentions) == len(attentions)
        pairs = [*zip(output.hidden_states, states, strict=True), *zip(output.attentions, attentions, strict=True)]
        for actual, expected in [*pairs, (output.last_hidden_state, states[-1])]:
            difference = np.abs(actual[row].double().numpy() - expected).max()
            assert difference <= tolerance * np.abs(expected).max()


@torch.no_grad()
def test_every_part_of_the_equations_matters() -> None:
    """Parity would not notice a part that is multiplied by nothing."""
    model = tiny_beats(torch.float64)
    windows = torch.randn(1, 32, 16, dtype=torch.float64)
    expected = model(windows).last_hidden_state
    for name, parameter in model.named_parameters():
        kept = parameter.clone()
        parameter.add_(torch.randn_like(parameter) * 0.5)
        if "k_proj.bias" in name:  # adds the same to all scores of a query
            assert (model(windows).last_hidden_state - expected).abs().max() < 1e-9
        else:
            assert (model(windows).last_hidden_state - expected).abs().max() > 1e-4, name
        parameter.copy_(kept)


@torch.no_grad()
def test_sdpa_equals_eager() -> None:
    model = tiny_beats()
    windows = torch.randn(2, 32, 16)
    assert model.config._attn_implementation == "sdpa"
    expected = model(windows).last_hidden_state
    model.set_attn_implementation("eager")
    assert (model(windows).last_hidden_state - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(320, 800), (12, 14), (32, 128)])
def test_distances_fall_into_the_buckets_of_t5(num_buckets: int, max_distance: int) -> None:
    index = torch.arange(1000)
    found = distance_buckets(index[None, :] - 500, num_buckets=num_buckets, max_distance=max_distance)[0]
    assert found.tolist() == [bucket(500, key, num_buckets, max_distance) for key in range(1000)]


def test_tokens_run_over_bands_first_then_over_time() -> None:
    model = tiny_beats()
    seen: list[Tensor] = []
    model.post_extract_proj.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    window = torch.zeros(1, 32, 16)
    model(window)
    window[:, 4:8, 12:] = 1.0  # second row of patches, fourth column
    model(window)
    changed = (seen[1] - seen[0]).abs().amax(-1)[0].nonzero().flatten()
    assert changed.tolist() == [1 * 4 + 3]


def test_gradient_checkpointing_leaves_gradients_as_they_are() -> None:
    model = tiny_beats().train()
    windows = torch.randn(1, 32, 16)
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(windows).last_hidden_state.square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and torch.equal(gradient, gradients[1][name]), name


def test_every_parameter_of_a_new_model_is_drawn() -> None:
    with torch.device("meta"):
        model = BeatsModel(UniMoEBeatsConfig(**{**TINY, "hidden_size": 64, "num_conv_pos_embeddings": 32}))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    for part in [*model.modules(), *model.parameters()]:  # the marks that construction left
        part._is_hf_initialized = False
    model.init_weights()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    layer = model.encoder.layers[1]
    assert layer.self_attn.grep_a.eq(1).all() and layer.final_layer_norm.weight.eq(1).all()
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.encoder.pos_conv[0].weight.std().item() == pytest.approx(2 / (32 * 64) ** 0.5, rel=0.1)


@torch.no_grad()
def test_it_is_saved_and_loaded_bit_for_bit_by_the_auto_classes(tmp_path: Path) -> None:
    model = tiny_beats()
    model.save_pretrained(tmp_path)
    BeatsFeatureExtractor(max_length=32, num_mel_bins=16).save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, BeatsModel) and isinstance(AutoConfig.from_pretrained(tmp_path), UniMoEBeatsConfig)
    sound = np.sin(np.arange(4000, dtype=np.float32))
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    features = extractor(sound, sampling_rate=16000, return_tensors="pt")
    assert isinstance(extractor, BeatsFeatureExtractor) and features["input_values"].shape == (1, 32, 16)
    assert torch.equal(loaded(**features).last_hidden_state, model(**features).last_hidden_state)


CFG = {
    "input_patch_size": 4,
    "embed_dim": 6,
    "conv_bias": False,
    "encoder_layers": 3,
    "encoder_embed_dim": 8,
    "encoder_ffn_embed_dim": 12,
    "encoder_attention_heads": 2,
    "activation_fn": "gelu",
    "layer_wise_gradient_decay_ratio": 0.6,
    "layer_norm_first": False,
    "deep_norm": True,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.05,
    "dropout_input": 0.0,
    "conv_pos": 6,
    "conv_pos_groups": 2,
    "relative_position_embedding": True,
    "num_buckets": 12,
    "max_distance": 14,
    "gru_rel_pos": True,
    "finetuned_model": True,
    "predictor_dropout": 0.0,
    "predictor_class": 5,
}
"""As in the published files, with the sizes of `TINY`."""


def save_published(folder: Path, model: BeatsModel, **changes: Any) -> Path:
    weights = {**published(model), "predictor.weight": torch.randn(5, 8), "predictor.bias": torch.randn(5)}
    weights |= changes.pop("weights", {})
    torch.save({"cfg": {**CFG, **changes}, "model": weights}, folder / "beats.pt")
    return folder / "beats.pt"


@torch.no_grad()
def test_a_file_in_the_published_layout_loads_with_equal_outputs(tmp_path: Path) -> None:
    model = tiny_beats()
    loaded = load_beats_checkpoint(save_published(tmp_path, model), max_length=32)
    differing = {"dtype": None, "num_mel_bins": None}  # the file is silent about both
    assert not loaded.training and loaded.config.to_dict() | differing == model.config.to_dict() | differing
    windows = torch.randn(2, 32, 16)
    assert torch.equal(loaded(windows).last_hidden_state, model(windows).last_hidden_state)


def test_names_and_shapes_of_the_base_model_are_the_published_ones() -> None:
    """Those of the classes in microsoft/unilm `beats/BEATs.py` and `beats/backbone.py`, commit c68101b."""
    with torch.device("meta"):
        model = BeatsModel(UniMoEBeatsConfig())
    linear = {"k_proj": (768, 768), "v_proj": (768, 768), "q_proj": (768, 768), "out_proj": (768, 768)}
    layer = {f"self_attn.{name}": shape for name, shape in linear.items()}
    layer |= {"self_attn.grep_linear": (8, 64), "fc1": (3072, 768), "fc2": (768, 3072)}
    layer |= {"self_attn_layer_norm": (768,), "final_layer_norm": (768,)}
    expected: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (512, 1, 16, 16),
        "encoder.pos_conv.0.bias": (768,),
        "encoder.pos_conv.0.weight_g": (1, 1, 128),
        "encoder.pos_conv.0.weight_v": (768, 48, 128),
    }
    with_bias = {"layer_norm": (512,), "post_extract_proj": (768, 512), "encoder.layer_norm": (768,)}
    for index in range(12):
        with_bias |= {f"encoder.layers.{index}.{name}": shape for name, shape in layer.items()}
        expected[f"encoder.layers.{index}.self_attn.grep_a"] = (1, 12, 1, 1)
        expected[f"encoder.layers.{index}.self_attn.relative_attention_bias.weight"] = (320, 12)
    for name, shape in with_bias.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    assert {name: tuple(tensor.shape) for name, tensor in published(model).items()} == expected


def test_bfloat16_is_near_float32() -> None:
    model, windows = tiny_beats(), torch.randn(2, 32, 16)
    expected = model(windows).last_hidden_state
    actual = model.bfloat16()(windows.bfloat16()).last_hidden_state
    assert actual.dtype == torch.bfloat16
    assert (actual.float() - expected).abs().max() < 0.1 * expected.abs().max()


def test_published_names_load_by_from_pretrained_too(tmp_path: Path) -> None:
    model = tiny_beats()
    shared = "self_attn.relative_attention_bias.weight"
    weights = {
        name: tensor
        for name, tensor in published(model).items()
        if not name.endswith(shared) or name == f"encoder.layers.0.{shared}"
    }
    assert "encoder.pos_conv.0.weight_g" in weights
    loaded, found = BeatsModel.from_pretrained(None, config=model.config, state_dict=weights, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gru_rel_pos": False}, r"cfg\['gru_rel_pos'\] is False, but only BEATs with True is supported"),
        ({"layer_norm_first": True}, r"cfg\['layer_norm_first'\] is True, but only BEATs with False"),
        ({"encoder_layers": 4}, r"weights and cfg do not fit \(.*Missing key.*encoder\.layers\.3\.self_attn"),
        ({"weights": {"encoder.offset": torch.zeros(1)}}, r"do not fit \(.*Unexpected key.*encoder\.offset"),
        (
            {"weights": {"encoder.layers.2.self_attn.relative_attention_bias.weight": torch.zeros(12, 2)}},
            r"encoder\.layers\.2\.self_attn\.relative_attention_bias\.weight differs from that of layer 0",
        ),
        ({"activation_fn": "glu"}, "hidden_act 'glu' is not an activation"),
    ],
    ids=["gates", "pre-norm", "layers", "stranger", "bias", "activation"],
)
def test_a_file_of_another_architecture_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = save_published(tmp_path, tiny_beats(), **changes)
    with pytest.raises(ValueError, match=message):
        load_beats_checkpoint(path)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "beats.pt"
    path.write_bytes(b"\x80\x02garbage")
    with pytest.raises(ValueError, match="no checkpoint of tensors and plain values"):
        load_beats_checkpoint(path)
    torch.save({"cfg": CFG, "model": {"weight": Path("x")}}, path)  # a pickled class would run code
    with pytest.raises(ValueError, match="no checkpoint of tensors and plain values"):
        load_beats_checkpoint(path)
    torch.save({"weights": {}}, path)
    with pytest.raises(ValueError, match="it needs two dictionaries, 'cfg' and 'model'"):
        load_beats_checkpoint(path)
    torch.save({"cfg": {key: value for key, value in CFG.items() if key != "conv_pos"}, "model": {}}, path)
    with pytest.raises(ValueError, match="cfg lacks conv_pos"):
        load_beats_checkpoint(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_length": 1000}, r"max_length \(1000\) must be a multiple of patch_size \(16\)"),
        ({"num_attention_heads": 7}, r"hidden_size \(768\) must be a multiple of num_attention_heads \(7\)"),
        ({"max_bucket_distance": 80}, r"max_bucket_distance \(80\) must exceed a quarter of num_buckets \(320\)"),
        ({"num_bucket": 3}, "unknown key 'num_bucket'. Did you mean 'num_buckets'"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        UniMoEBeatsConfig(**fields)


def kaldi(samples: np.ndarray, bins: int) -> np.ndarray:
    """Kaldi's filter bank by transformers' NumPy functions, which share nothing with torchaudio's."""
    filters = mel_filter_bank(
        num_frequency_bins=257,
        num_mel_filters=bins,
        min_frequency=20,
        max_frequency=8000,
        sampling_rate=16000,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return spectrogram(
        samples.astype(np.float64) * 2**15,
        window_function(400, "povey", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=float(np.finfo(np.float32).eps),
        remove_dc_offset=True,
    ).T


def test_features_are_the_normalised_filter_bank_of_kaldi_followed_by_silence() -> None:
    samples = np.random.default_rng(0).normal(scale=0.1, size=9000).astype(np.float32)
    extractor = BeatsFeatureExtractor(max_length=64)
    features = extractor(samples, sampling_rate=16000)["input_values"][0]
    assert features.shape == (64, 128) and features.dtype == np.float32
    expected = (kaldi(samples, 128) - 15.41663) / (2 * 6.55582)
    whole = (9000 - 400) // 160 + 1
    assert len(expected) == whole
    assert np.abs(features[:whole] - expected).max() <= 1e-3
    silence = (np.log(np.finfo(np.float32).eps) - 15.41663) / (2 * 6.55582)
    assert np.abs(features[-(64 - 9000 // 160 - 1) :] - silence).max() <= 1e-5


def test_a_window_fills_all_frames_and_several_sounds_are_one_batch() -> None:
    extractor = BeatsFeatureExtractor(max_length=64)
    window = window_samples(extractor)
    assert window == 64 * 160 and window_samples(BeatsFeatureExtractor()) == int(10.24 * 16000)
    sound = np.random.default_rng(0).normal(size=window + 1).astype(np.float32)
    windows = cut_windows(sound, window=window, sampling_rate=16000)
    features = extractor(windows, sampling_rate=16000, return_tensors="pt")["input_values"]
    assert features.shape == (2, 64, 128)
    assert torch.equal(features[0], extractor(windows[0].tolist(), return_tensors="pt")["input_values"][0])


def test_sounds_that_do_not_fit_a_window_are_refused() -> None:
    extractor = BeatsFeatureExtractor(max_length=64)
    with pytest.raises(ValueError, match=r"at most 10240 samples \(64 frames\), got shape \(10241,\)\. Cut it"):
        extractor(np.zeros(10241, dtype=np.float32))
    with pytest.raises(ValueError, match="The sound is at 8000 Hz, but BEATs was trained at 16000 Hz"):
        extractor(np.zeros(100, dtype=np.float32), sampling_rate=8000)
