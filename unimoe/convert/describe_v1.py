"""The configuration and processor of the Uni-MoE v1 family: language model, towers, connectors, tokenizer, prompt."""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig, LlamaTokenizer, PreTrainedTokenizerBase

from ..build.model import naming
from ..build.towers import encoder_config, fit_qformer, load_part
from ..encoders.beats.feature_extraction import BeatsFeatureExtractor
from ..encoders.beats_checkpoint import load_beats_checkpoint
from ..errors import UniMoEError
from ..files.folder import CheckpointError
from ..processing.placeholders import PLACEHOLDER_OF_ITEM, content_macro, without_system
from ..processing_unimoe import add_placeholder_tokens
from .describe import Description, Sense, check_numbers, check_values, put_together, read_tokenizer
from .parts import Folders
from .releases import Release
from .weights import Weight

WINDOW_SAMPLES, MAX_WINDOWS = 480_000, 20
"""Of sounds in v1: 30 s at 16 kHz, and so many of one sound."""

_PREAMBLE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)
CHAT_TEMPLATE = (
    content_macro(f"{PLACEHOLDER_OF_ITEM} ~ '\n'") + without_system(_PREAMBLE) + "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{- render(message['content']) ~ ' ' -}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- 'ASSISTANT: ' -}}{%- generation -%}{{- render(message['content']) ~ '</s>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- 'USER: ' ~ render(message['content']) ~ ' ' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}"
)
"""LLaVA's vicuna v1 prompt: a medium is its placeholder and a line break; it ends at `ASSISTANT:`, without a blank."""

_NUMBERS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
_AS_RELEASED: dict[str, Any] = {"legacy": True, "add_bos_token": True}
# Fields of the release's configuration whose other values the model cannot have -> the values that it can.
_ONLY: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch", None),
    "mm_audio_select_layer": (0, None),
    "audio_projector_type": ("linear", "mlp2x_gelu", None),
    "num_experts_per_tok": (2,),
    "hidden_act": ("silu", None),
    "rope_scaling": (None,),
    "tie_word_embeddings": (False, None),
    "mm_use_im_patch_token": (False,),
    "mm_use_im_start_end": (False, None),
    "moe_type": ("dense", None),
    "use_fm_block": (False, None),
}


def check(release: Release, config: dict[str, Any], folders: Folders, given: dict[str, Any]) -> None:
    """Refuse a release that says what the model cannot have, or that lacks a tower.

    Args:
        release: Its facts.
        config: Of the release.
        folders: Where it lies.
        given: Sources beside the folder, by option.

    Raises:
        UniMoEError: Naming the field or file, or the tower that it hears or sees through.
    """
    check_numbers(config, _NUMBERS, folders.tuned)
    check_values(config, _ONLY, folders.tuned)
    if (folders.tuned / "fm_adapter.bin").is_file():
        raise CheckpointError(
            folders.tuned, "there is a fm_adapter.bin, whose maps have biases, which the model has not."
        )
    if "vision" not in given:
        raise UniMoEError(f"{release.title} sees through CLIP ViT-L/14 at 336 pixels: give it as vision.")
    if release.sound not in given or {"speech", "audio"} <= given.keys():
        tower = "Whisper small" if release.sound == "speech" else "BEATs"
        raise UniMoEError(f"{release.title} hears through {tower}: give it as {release.sound}, and no other.")


def text_fields(config: dict[str, Any], release: Release) -> dict[str, Any]:
    """Fields of the configuration of the language model of a release, whose own configuration is `config`."""
    return {
        **{name: config[name] for name in _NUMBERS},
        **{f"{name}_token_id": config.get(f"{name}_token_id") for name in ("pad", "bos", "eos")},
        "rope_parameters": {"rope_type": "default", "rope_theta": float(config.get("rope_theta") or 1e4)},
        "num_experts": release.num_experts,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "moe_layers": None if release.sparse == "all" else release.sparse_layers(config["num_hidden_layers"]),
        "router_z_loss_coef": 0.0,
        "router_aux_loss_coef": config.get("aux_balance_loss_coef", 0.01) if config.get("aux_balance_loss") else 0.0,
    }


def load_tokenizer(folders: Folders) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of a base, with placeholders; None if the folder has none.

    Text behind each special token begins with a blank, as where every piece of it is tokenised alone.

    Raises:
        CheckpointError: If it cannot be loaded.
    """
    tokenizer = read_tokenizer(LlamaTokenizer, folders, **_AS_RELEASED)
    if tokenizer is not None:
        tokenizer.init_kwargs |= _AS_RELEASED  # which transformers does not save by itself
        tokenizer.pad_token = tokenizer.unk_token
        add_placeholder_tokens(tokenizer, chat_tokens=())
    return tokenizer


def load_towers(
    release: Release, config: dict[str, Any], weights: dict[str, Weight], vision: str | Path, sound: str | Path
) -> dict[str, Sense]:
    """Load the towers from their own folders, and complete the fields of encoders and connectors.

    Args:
        release: Decides which sound tower.
        config: Of the release.
        weights: Of which the sizes of a Q-Former are read.
        vision: Folder or Hub id of the CLIP.
        sound: Folder or Hub id of the Whisper, or BEATs' `.pt` file.

    Raises:
        PartError: If one cannot be loaded.
    """
    image = {"feature_layer": config.get("mm_vision_select_layer", -2)}
    layers = 2 if config.get("audio_projector_type") == "mlp2x_gelu" else 1
    queries = {"num_queries": config.get("query_tokens_size", 50), "num_output_layers": layers}
    with naming("vision", vision):
        senses = {"image": load_sense("image", vision, image, {"type": "mlp"})}
    with naming(release.sound, sound):
        if release.sound == "speech":
            whisper = AutoConfig.from_pretrained(sound, trust_remote_code=False).to_dict()
            connector = {"type": "query_decoder", **queries, "decoder_config": whisper}
            senses["speech"] = load_sense("speech", sound, {}, connector)
        else:
            connector = {"type": "blip2_qformer", **queries, "qformer_config": qformer_sizes(weights)}
            senses["audio"] = load_beats(sound, connector)
    return senses


def load_sense(key: str, source: str | Path, encoder: dict[str, Any], connector: dict[str, Any]) -> Sense:
    """Load a tower from its folder; complete the chosen fields of encoder and connector."""
    part = load_part(key, source, "auto", encoder, connector)
    return Sense(part.encoder, part.connector, part.extractor, part.tower)


def load_beats(path: str | Path, connector: dict[str, Any]) -> Sense:
    """Load BEATs from its `.pt` file, with windows as v1 knows them, and complete the fields of its connector."""
    extractor = BeatsFeatureExtractor(n_samples=WINDOW_SAMPLES, max_windows=MAX_WINDOWS)
    tower = load_beats_checkpoint(path, max_length=extractor.max_length, mask_padding=True)
    encoder = encoder_config("audio", tower, extractor)
    return Sense(encoder, fit_qformer(connector, encoder["hidden_size"]), extractor, tower)


def qformer_sizes(weights: dict[str, Weight]) -> dict[str, int]:
    """Read the sizes of a Q-Former, which no configuration states, from its weights."""
    start = "model.connectors.audio.qformer."
    found: dict[str, Tensor] = {n.removeprefix(start): w.tensor for n, w in weights.items() if n.startswith(start)}
    inner = found.get("encoder.layer.0.intermediate_query.dense.weight")
    if inner is None:
        return {}
    return {
        "hidden_size": inner.shape[1],
        "intermediate_size": inner.shape[0],
        "num_hidden_layers": 1 + max(int(name.split(".")[2]) for name in found if name.startswith("encoder.layer.")),
    }


def describe(
    release: Release, config: dict[str, Any], folders: Folders, weights: dict[str, Weight], given: dict[str, Any]
) -> Description:
    """Describe the model of a release, and make its processor, if the base has a tokenizer.

    Args:
        release: Its facts.
        config: Of the release.
        folders: Where it lies.
        weights: Of the release, under our names.
        given: Sources of the towers, by option.

    Raises:
        UniMoEError: If a tower or the tokenizer cannot be read.
    """
    senses = load_towers(release, config, weights, given["vision"], given[release.sound])
    text = text_fields(config, release)
    return put_together(text, load_tokenizer(folders), senses, {"video_pooling": "clip"}, CHAT_TEMPLATE)


__all__ = ["CHAT_TEMPLATE", "check", "describe", "load_tokenizer", "load_towers", "text_fields"]
