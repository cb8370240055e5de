"""A tiny folder in the layout of Uni-MoE-2.0, with random weights: names, shards and index, bfloat16, settings."""

import json
from pathlib import Path
from typing import Any

import reference_folders
import torch
from reference.uni_moe_language import Language
from reference_folders import save_shards
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import Qwen2Tokenizer, SiglipVisionConfig, SiglipVisionModel, WhisperConfig, WhisperModel

D, WIDE, SHARED, V, LAYERS, WIDTH, TILE, SIDE, QUERIES = 24, 16, 8, 280, 2, 16, 42, 2, 200
TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
    *("<|video_pad|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"),
)
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    '<|im_start|>system\nYou are a "helpful" one.<|im_end|>\n{% endif %}'
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
EXTRACTORS: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.4] * 3, "n_fft": 384, "feature_size": 128}
"""Settings of image processor and feature extractor; `image_std` and `n_fft` are not those that they have alone."""
LANGUAGE = Language(
    "2.0",
    layers=LAYERS,
    heads=4,
    key_value_heads=2,
    experts=4,
    nulls=1,
    shared=2,
    sparse=tuple(range(LAYERS)),
    eps=1e-6,
    theta=1e6,
    sections=(1, 1, 1),
    tie=0.2,  # so wide that many logits come within it; the released one is 0.01
)
"""The language model of the folder, as the slow reference knows it."""


def draw(*size: int) -> Tensor:
    return (0.3 * torch.randn(size)).bfloat16()


def language() -> dict[str, Tensor]:
    found = {"model.embed_tokens.weight": draw(V, D), "lm_head.weight": draw(V, D), "model.norm.weight": 1 + draw(D)}
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{start}{name}.weight"] = 1 + draw(D)
        for name, rows in {"q": D, "k": D // 2, "v": D // 2}.items():  # halved, so that attention is no argmax
            found[f"{start}self_attn.{name}_proj.weight"] = draw(rows, D) / 2
            found[f"{start}self_attn.{name}_proj.bias"] = draw(rows) / 2
        found[f"{start}self_attn.o_proj.weight"] = draw(D, D)
        found[f"{start}mlp.gate.weight"] = 3 * draw(4 + 1 + 2, D)
        routed = f"{start}mlp.dynamic_real_moe.deepspeed_moe.experts.deepspeed_experts."
        widths = {f"{routed}{expert}": WIDE for expert in range(4)}
        widths |= {f"{start}mlp.fixed_real_moe.{expert}": SHARED for expert in range(2)}
        for name, width in widths.items():
            found |= {f"{name}.gate_proj.weight": draw(width, D), f"{name}.up_proj.weight": draw(width, D)}
            found[f"{name}.down_proj.weight"] = draw(D, width)
    return found


def vision_fields() -> dict[str, Any]:
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2}
    return {**sizes, "image_size": TILE, "model_type": "siglip_vision_model"}


def whisper_fields() -> dict[str, Any]:
    return {**reference_folders.whisper_fields(WIDTH, QUERIES), "num_mel_bins": 128, "torch_dtype": "bfloat16"}


def siglip_config() -> SiglipVisionConfig:
    """SigLIP as far as it is run: without its last layer and head."""
    return SiglipVisionConfig(
        **{**vision_fields(), "num_hidden_layers": 2, "patch_size": 14, "vision_use_head": False}
    )


def towers() -> dict[str, Tensor]:
    """Towers and aligners."""
    whisper = WhisperModel(WhisperConfig(**whisper_fields()))
    modules = {
        "vision_tower.vision_tower.vision_model.": SiglipVisionModel(siglip_config()),
        "audio_tower.audio_tower.": whisper.encoder,
        "audio_aligner.decoder.audio_decoder.": whisper.decoder,
    }
    found = {
        f"{start}{name}": draw(*t.shape)
        for start, module in modules.items()
        for name, t in module.state_dict().items()
    }
    sizes = {"vision_aligner.0": WIDTH, "vision_aligner.2": D, "audio_aligner.projector": WIDTH}
    for name, columns in sizes.items():
        found |= {f"{name}.weight": draw(D, columns), f"{name}.bias": draw(D)}
    return {**found, "audio_aligner.query_tokens": draw(1, QUERIES, WIDTH)}


def generators() -> dict[str, Tensor]:
    names = ("speech_generator.out.weight", "image_generator.dit.weight", "visual_hidden_fcs.0.fc.weight")
    return {name: draw(2, 2) for name in (*names, "image_hidden_fcs.0.fc.weight", "task_hidden_fcs.0.fc.weight")}


def config() -> dict[str, Any]:
    """As transformers 4 writes it: what a tower's class has by default is not there."""
    return {
        "model_type": "grin_qwen2_vl_out",
        "architectures": ["GrinQwen2VLOutForConditionalGeneration"],
        "vocab_size": V,
        "hidden_size": D,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [1, 1, 1]},
        "bos_token_id": 256,
        "eos_token_id": 256,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "mlp_dynamic_expert_num": 4,
        "mlp_dynamic_null_expert_num": 1,
        "mlp_dynamic_top_p": 0.7,
        "mlp_dynamic_top_k": 0,
        "mlp_fixed_expert_num": 2,
        "dynamic_intermediate_size": WIDE,
        "shared_intermediate_size": SHARED,
        "router_jitter_noise": LANGUAGE.tie,
        "input_jitter_noise": 0.03,
        "token_drop": True,
        "l_aux_weight": 0,
        "vision_config": vision_fields(),
        "audio_config": whisper_fields(),
        "mm_hidden_size": WIDTH,
        "vision_spatial_pool_stride": SIDE,
        "image_grid_pinpoints": "(1x1),...,(2x2)",
        "video_fps": 1,
        "frames_upbound": 48,
        "video_pixel_upbound": TILE,
        "whisper_query_tokens_size": QUERIES,
        "whisper_hidden_size": WIDTH,
        "whisper_projector_type": "linear",
        "whisper_audio_time": 3,
        "torch_dtype": "bfloat16",
    }


def save_tokenizer(folder: Path, tokens: tuple[str, ...] = TOKENS, template: str | None = TEMPLATE) -> None:
    """Bytes without merges, and the special tokens of 2.0."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer({letter: number for number, letter in enumerate(alphabet)}, [])
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def save_release(folder: Path) -> dict[str, Tensor]:
    """Write the folder: two shards and their index, configuration, settings, tokenizer; return the weights."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    weights = {**language(), **towers(), **generators()}
    save_shards(folder, weights, "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config()))
    (folder / "preprocessor_config.json").write_text(json.dumps({**EXTRACTORS, "size": [TILE, TILE], "max_frames": 1}))
    save_tokenizer(folder)
    (folder / "training_args.bin").write_bytes(b"anything")
    return weights
