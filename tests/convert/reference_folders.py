"""Tiny folders in the layout of each release of the Uni-MoE v1 family, with random weights: names, files, dtypes."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_processor import image_processor
from torch import Tensor
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    CLIPConfig,
    CLIPModel,
    LlamaTokenizer,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from unimoe.encoders.beats.configuration import UniMoEBeatsConfig
from unimoe.encoders.beats.modeling import BeatsModel

D, WIDE, LAYERS, QUERIES, RANK, SOUND = 24, 40, 4, 3, 2, 24
PIECES = ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", *map(chr, range(33, 127)))
EXPERT_FILES = ("audiocap", "basev", "base", "base1", "base4", "base7", "base", "base7")
RELEASES = ("v1-speech", "v1-audio", "v1.5", "8e")
_PART = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}


def draw(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (0.2 * torch.randn(size)).to(dtype)


def mlp(prefix: str) -> dict[str, Tensor]:
    sizes = {"gate": (WIDE, D), "up": (WIDE, D), "down": (D, WIDE)}
    return {f"{prefix}{name}_proj.weight": draw(*size) for name, size in sizes.items()}


def sparse_layers(release: str) -> list[int]:
    return list(range(0, LAYERS, 2 if release in ("v1-audio", "v1.5") else 1))


def language(release: str) -> dict[str, Tensor]:
    """The base: with 4 experts, also that of 8e."""
    found = {"model.embed_tokens.weight": draw(len(PIECES), D), "lm_head.weight": draw(len(PIECES), D)}
    found["model.norm.weight"] = 1 + draw(D)
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{start}{name}.weight"] = 1 + draw(D)
        for name in "qkvo":
            found[f"{start}self_attn.{name}_proj.weight"] = draw(D, D)
        found[f"{start}self_attn.rotary_emb.inv_freq"] = 10_000.0 ** -(torch.arange(0, 6, 2) / 6)
        if layer in sparse_layers(release):
            found[f"{start}mlp.gate.weight"] = draw(4, D)
            for expert in range(4):
                found |= mlp(f"{start}mlp.experts.{expert}.")
        else:
            found |= mlp(f"{start}mlp.")
    return found


def projector() -> dict[str, Tensor]:
    sizes = {"0.weight": (D, 16), "0.bias": (D,), "2.weight": (D, D), "2.bias": (D,)}
    return {f"model.mm_projector.{name}": draw(*size) for name, size in sizes.items()}


def aligner(release: str) -> dict[str, Tensor]:
    start = "model.mm_audio_aligner."
    found = {f"{start}projector.weight": draw(D, SOUND), f"{start}projector.bias": draw(D)}
    if release == "v1-audio":
        qformer = Blip2QFormerModel(qformer_config())
        weights = {
            f"{start}qformer.qformer.{name}": draw(*value.shape) for name, value in qformer.state_dict().items()
        }
        return {**found, **weights, f"{start}query_tokens": draw(1, QUERIES, SOUND)}
    decoder = WhisperModel(whisper_config()).decoder.state_dict()
    weights = {f"{start}decoder.audio_decoder.{name}": draw(*value.shape) for name, value in decoder.items()}
    return {**found, **weights, "model.query_tokens": draw(1, QUERIES, SOUND)}


def qformer_config() -> Blip2QFormerConfig:
    return Blip2QFormerConfig(
        hidden_size=SOUND, intermediate_size=32, num_hidden_layers=3, encoder_hidden_size=SOUND, vocab_size=1
    )


def whisper_fields(width: int, queries: int) -> dict[str, Any]:
    """A tiny Whisper, whose decoder has room for so many queries."""
    sizes = {"d_model": width, "vocab_size": 20, "max_target_positions": queries}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 2, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 16}
    return sizes | dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)


def whisper_config() -> WhisperConfig:
    return WhisperConfig(**whisper_fields(SOUND, 8), max_source_positions=50)


def routers(release: str) -> dict[str, Tensor]:
    """mlp_gates.bin; where routers were targets of LoRA, with their factors."""
    name = "deepspeed_moe.gate.wg" if release == "8e" else "gate"
    number = 8 if release == "8e" else 4
    found = {f"model.layers.{layer}.mlp.{name}.weight": draw(number, D) for layer in sparse_layers(release)}
    if release in ("v1-audio", "v1.5"):
        for layer in sparse_layers(release):
            found[f"model.layers.{layer}.mlp.gate.lora_A.default.weight"] = draw(RANK, D)
            found[f"model.layers.{layer}.mlp.gate.lora_B.default.weight"] = draw(4, RANK)
    return found


def adapter(release: str, base: dict[str, Tensor]) -> dict[str, Tensor]:
    kinds = ("self_attn",) if release == "8e" else ("self_attn", "mlp")
    starts = tuple(f"model.layers.{layer}.{kind}." for layer in range(LAYERS) for kind in kinds)
    targets = [name for name in base if name.startswith(starts) and "inv_freq" not in name]
    if release == "v1-speech":  # whose routers LoRA left out
        targets = [name for name in targets if "mlp.gate." not in name]
    found = {}
    for name in targets:
        start = f"base_model.model.{name.removesuffix('.weight')}"
        rows, columns = base[name].shape
        found |= {f"{start}.lora_A.weight": draw(RANK, columns), f"{start}.lora_B.weight": draw(rows, RANK)}
    return found


def experts_of_8e(root: Path) -> dict[str, Any]:
    """Write the six files of experts; return the eight of their LoRA."""
    (root / "experts").mkdir()
    for name in dict.fromkeys(EXPERT_FILES):  # a set has another order, and other draws, in each process
        weights: dict[str, Tensor] = {}
        for layer in range(LAYERS):
            weights |= mlp(f"model.layers.{layer}.mlp.")
        torch.save(weights, root / f"experts/mlp_{name}.bin")
    files = {}
    for expert in range(8):
        pairs = {}
        for layer in range(LAYERS):
            for name, (rows, columns) in {"gate": (WIDE, D), "up": (WIDE, D), "down": (D, WIDE)}.items():
                start = f"model.layers.{layer}.mlp.deepspeed_moe.experts.deepspeed_experts.0.{name}_proj_lora_"
                pairs[f"{start}A.weight"] = draw(RANK, columns, dtype=torch.bfloat16)
                pairs[f"{start}B.weight"] = draw(rows, RANK, dtype=torch.bfloat16)
        files[f"{expert}_mlp_experts.bin"] = pairs
    return files


def save_shards(folder: Path, weights: dict[str, Tensor], kind: str = "pytorch_model.bin") -> None:
    """Two shards and their index, as transformers 4 wrote them; the other kind is `model.safetensors`."""
    stem, ending = kind.split(".")
    save, names = torch.save if ending == "bin" else save_file, list(weights)
    halves = {f"{stem}-0000{half + 1}-of-00002.{ending}": names[half::2] for half in range(2)}
    for file, own in halves.items():
        save({name: weights[name] for name in own}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": {name: file for file, own in halves.items() for name in own}}
    (folder / f"{kind}.index.json").write_text(json.dumps(index))


def config(release: str) -> dict[str, Any]:
    fields = {
        "model_type": "llava_llama" if release == "8e" else "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "hidden_size": D,
        "intermediate_size": WIDE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": len(PIECES),
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "moe": True,
        "num_experts": 8 if release == "8e" else 4,
        "num_experts_per_tok": 2,
        "mm_vision_tower": "/somewhere/clip-vit-large-patch14-336",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_audio_select_layer": 0,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "query_tokens_size": QUERIES,
        "audio_projector_type": "linear",
        "torch_dtype": "float32",
    }
    more = {"moe_type": "dense", "lora_r": RANK, "lora_alpha": 2 * RANK, "use_fm_block": False}
    more |= {"aux_balance_loss": True, "aux_balance_loss_coef": 0.01}
    return {**fields, **(more if release == "8e" else {})}


def save_towers(root: Path) -> None:
    """The folders of CLIP and Whisper, and BEATs' file."""
    clip = CLIPConfig(
        text_config={**_PART, "vocab_size": 16},
        vision_config={**_PART, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(clip).save_pretrained(root / "clip")
    image_processor().save_pretrained(root / "clip")
    WhisperModel(whisper_config()).save_pretrained(root / "whisper")
    WhisperFeatureExtractor(feature_size=80, chunk_length=1).save_pretrained(root / "whisper")
    beats = UniMoEBeatsConfig(
        patch_embedding_size=16,
        hidden_size=SOUND,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_buckets=8,
        max_bucket_distance=16,
    )
    weights = BeatsModel(beats).state_dict()
    names = {f"parametrizations.weight.original{number}": f"weight_{letter}" for number, letter in enumerate("gv")}
    renamed = {}
    for name, value in weights.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        renamed[name] = value
    fields = {
        "input_patch_size": beats.patch_size,
        "embed_dim": beats.patch_embedding_size,
        "conv_bias": beats.conv_bias,
        "encoder_layers": beats.num_hidden_layers,
        "encoder_embed_dim": beats.hidden_size,
        "encoder_ffn_embed_dim": beats.intermediate_size,
        "encoder_attention_heads": beats.num_attention_heads,
        "activation_fn": "gelu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "conv_pos": beats.num_conv_pos_embeddings,
        "conv_pos_groups": beats.num_conv_pos_embedding_groups,
        "num_buckets": beats.num_buckets,
        "max_distance": beats.max_bucket_distance,
        "deep_norm": True,
        "relative_position_embedding": True,
        "gru_rel_pos": True,
        "layer_norm_first": False,
    }
    torch.save({"cfg": fields, "model": renamed}, root / "BEATs.pt")


def save_tokenizer(folder: Path) -> None:
    """Single letters, bytes, and one merge, in the layout of Llama's."""
    LlamaTokenizer({piece: number for number, piece in enumerate(PIECES)}, [("▁", "a")]).save_pretrained(folder)


def save_release(release: str, root: Path) -> dict[str, dict[str, Tensor]]:
    """Write the folders tuned/, base/ and for 8e experts/, and the towers; return the files of tuned/ and the base."""
    torch.manual_seed(0)
    for name in ("base", "tuned"):
        (root / name).mkdir(parents=True)
    base = {**language(release), **projector(), **aligner(release)}
    base["model.vision_tower.vision_tower.vision_model.post_layernorm.weight"] = draw(16)
    save_shards(root / "base", base)
    files: dict[str, dict[str, Tensor]] = {
        "non_lora_trainables.bin": {f"base_model.model.{name}": value for name, value in projector().items()},
        "adapter_model.bin": adapter(release, base),
        "mm_audio_aligner.bin": aligner(release),
        "mlp_gates.bin": routers(release),
        **(experts_of_8e(root) if release == "8e" else {}),
    }
    for name, weights in files.items():
        torch.save(weights, root / "tuned" / name)
    lora = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK}
    (root / "tuned/adapter_config.json").write_text(json.dumps(lora))
    for name in ("base", "tuned"):
        (root / name / "config.json").write_text(json.dumps(config(release)))
    save_tokenizer(root / "base")
    save_towers(root)
    return {**files, "base": base}
