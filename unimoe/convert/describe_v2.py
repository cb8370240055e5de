"""The configuration and processor of Uni-MoE-2.0, as its code reads the one folder: config.json and what lies beside.

Source: ishine/UMOE-Scaling-Unified-Multimodal-LLMs at ad00fc4, Uni-MoE-2: modeling_qwen_grin_moe, processing_qwen2_vl,
vision_utils. A field that this code reads without a default must be there.
"""

import ast
import re
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import (
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
    SiglipImageProcessor,
    SiglipVisionConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from ..errors import UniMoEError
from ..files.folder import AGAIN, CheckpointError
from ..processing.placeholders import CHATML, PLACEHOLDER_OF_ITEM, content_macro, without_system
from ..processing_unimoe import add_placeholder_tokens
from .describe import Description, Sense, check_numbers, check_values, put_together, read_tokenizer
from .parts import Folders
from .releases import Release
from .weights import Weight

_SEEN, _HEARD = ("<|vision_start|>", "<|vision_end|>"), ("<|audio_start|>", "<|audio_end|>")
_IM_END = "<|im_end|>"
_PREPROCESSOR = "preprocessor_config.json"
# Of the released SigLIP's class, which config.json leaves out where they are the same.
_SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 384,
    "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0,
}
_OF_PICTURES = ("image_mean", "image_std", "resample", "rescale_factor")
_OF_SOUNDS = ("sampling_rate", "hop_length", "chunk_length", "n_fft", "padding_value", "dither")
# What the released code has no field for: 8 frames at least, 32 at most beside a sound, positions of 2 per second, of
# which the 20 tokens of 3 s share one.
_MEDIA = {
    "video_sampling": "linspace",
    "video_min_frames": 8,
    "video_max_frames_with_sound": 32,
    "position_type": "omni",
    "positions_per_second": 2.0,
    "sound_group_tokens": 20,
}
_SAME = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
_NUMBERS = (
    *_SAME,
    "rope_theta",
    "mlp_dynamic_expert_num",
    "mlp_dynamic_null_expert_num",
    "mlp_dynamic_top_p",
    "mlp_dynamic_top_k",
    "mlp_fixed_expert_num",
    "dynamic_intermediate_size",
    "shared_intermediate_size",
    "router_jitter_noise",
    "input_jitter_noise",
    "vision_spatial_pool_stride",
    "video_fps",
    "frames_upbound",
    "whisper_audio_time",
)
# Fields whose other values the model cannot have -> the values that it can.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", None),
    "tie_word_embeddings": (False, None),
    "use_sliding_window": (False, None),
    "whisper_query_tokens_size": (200,),
    "whisper_projector_type": ("linear", "mlp2x_gelu", None),
}


def check(release: Release, config: dict[str, Any], folders: Folders, given: dict[str, Any]) -> None:
    """Refuse a release that lacks what its code reads, or says what the model cannot have.

    Args:
        release: Its facts.
        config: Of the release.
        folders: Where it lies.
        given: Sources beside the folder, by option.

    Raises:
        UniMoEError: Naming the field, or the option that there is nothing for.
    """
    folder = folders.tuned
    if given:
        raise UniMoEError(f"{release.title} is one folder, towers included: leave out {' and '.join(given)}.")
    check_numbers(config, _NUMBERS, folder)
    for name in ("audio_config", "rope_scaling"):
        if not isinstance(value := config.get(name), dict):
            raise CheckpointError(folder, f"its config.json has {name} {value!r}; an object is needed. {AGAIN}")
    tile = siglip(config)["image_size"]
    check_values(config, {**_ONLY, "video_pixel_upbound": (tile,)}, folder)
    rope = config["rope_scaling"]
    if rope.get("type", rope.get("rope_type")) not in ("mrope", "default") or not rope.get("mrope_section"):
        raise CheckpointError(
            folder, f"its config.json has rope_scaling {rope}; mrope with its sections can be converted."
        )
    if [1, 1] not in tile_grids(config, folder):
        raise CheckpointError(
            folder, "its image_grid_pinpoints lack a single tile, which frames of clips become here."
        )


def siglip(config: dict[str, Any]) -> dict[str, Any]:
    """Fields of the configuration of the whole SigLIP of a release, which has a layer more than are run."""
    return {**_SIGLIP, **{k: v for k, v in (config.get("vision_config") or {}).items() if k in _SIGLIP}}


def tile_grids(config: dict[str, Any], folder: Path) -> list[list[int]]:
    """Read `image_grid_pinpoints`, pixels and width first, as grids [rows, columns] of tiles.

    Args:
        config: Of the release. It has a list, the text of one, or a range of tiles, such as `(1x1),...,(3x3)`.
        folder: Of the release.

    Raises:
        CheckpointError: If it is none of these, or a size is no multiple of the tile's.
    """
    given: Any = config.get("image_grid_pinpoints")
    tile = siglip(config)["image_size"]
    if isinstance(given, str) and (ends := re.findall(r"\((\d+)x(\d+)\)", given)):
        (left, top), (right, bottom) = (map(int, ends[end]) for end in (0, -1))
        return [[rows, columns] for columns in range(left, right + 1) for rows in range(top, bottom + 1)]
    try:
        sizes = ast.literal_eval(given) if isinstance(given, str) else given
        grids = [[height // tile, width // tile] for width, height in sizes]
        if any((rows * tile, columns * tile) != (h, w) for (rows, columns), (w, h) in zip(grids, sizes, strict=True)):
            raise ValueError(f"they are no multiples of {tile}")
    except (ValueError, TypeError, SyntaxError) as error:
        raise CheckpointError(
            folder,
            f"its config.json has image_grid_pinpoints {given!r}; pairs of width and height are needed, multiples of "
            f"the tile's {tile} pixels.",
        ) from error
    return grids


def text_fields(config: dict[str, Any]) -> dict[str, Any]:
    """Fields of the configuration of the language model of a release, whose own configuration is `config`."""
    experts, nulls = config["mlp_dynamic_expert_num"], config["mlp_dynamic_null_expert_num"]
    if config["mlp_dynamic_top_p"]:
        choice = {"router_type": "top_p", "router_top_p": config["mlp_dynamic_top_p"]}
        choice["num_experts_per_tok"] = experts + nulls
    else:
        choice = {"router_type": "top_k", "num_experts_per_tok": config["mlp_dynamic_top_k"]}
    shared = {
        "num_shared_experts": config["mlp_fixed_expert_num"],
        "shared_expert_intermediate_size": config["shared_intermediate_size"],
        "shared_expert_weighting": "router",
    }
    return {
        **{name: config[name] for name in _SAME},
        **{name: config.get(name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": float(config["rope_theta"]),
            "mrope_section": config["rope_scaling"]["mrope_section"],
        },
        "qkv_bias": True,
        "intermediate_size": config["dynamic_intermediate_size"],
        "num_experts": experts,
        "num_null_experts": nulls,
        **choice,
        "norm_topk_prob": True,
        "combine_weights": "near_tie",
        "sparsemixer_epsilon": float(config["router_jitter_noise"]),
        "router_jitter_noise": config["input_jitter_noise"],
        **(shared if config["mlp_fixed_expert_num"] else {}),
        "router_z_loss_coef": 0.0,
        "router_aux_loss_coef": config.get("l_aux_weight") or 0.0,
    }


def describe_senses(config: dict[str, Any], folders: Folders) -> dict[str, Sense]:
    """Describe the encoders, whose weights are among the release's own, and their connectors.

    Args:
        config: Of the release.
        folders: With a preprocessor_config.json, or without.
    """
    has_settings = (folders.tuned / _PREPROCESSOR).is_file()
    settings = folders.object(folders.tuned, _PREPROCESSOR) if has_settings else {}
    whole = siglip(config)
    layers, tile = whole["num_hidden_layers"] - 1, whole["image_size"]
    tower = SiglipVisionConfig(**{**whole, "num_hidden_layers": layers, "vision_use_head": False})
    eye = SiglipImageProcessor(
        size={"height": tile, "width": tile}, **{k: settings[k] for k in _OF_PICTURES if k in settings}
    )
    side = config["vision_spatial_pool_stride"]
    whisper = WhisperConfig.from_dict(config["audio_config"]).to_dict()
    ear = WhisperFeatureExtractor(
        feature_size=whisper["num_mel_bins"],
        max_windows=config["whisper_audio_time"],
        **{k: settings[k] for k in _OF_SOUNDS if k in settings},
    )
    reader = {
        "type": "query_decoder",
        "num_queries": config["whisper_query_tokens_size"],
        "num_output_layers": 2 if config.get("whisper_projector_type") == "mlp2x_gelu" else 1,
        "decoder_config": whisper,
    }
    return {
        "image": Sense(
            {"tower_config": tower.to_dict(), "feature_layer": layers},
            {"type": "pooling", "output_grid": [side, side]},
            eye,
        ),
        "speech": Sense({"tower_config": whisper}, reader, ear),
    }


def load_tokenizer(folders: Folders) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of a release, with placeholders; None if the folder has none.

    Raises:
        CheckpointError: If it cannot be loaded, or has no tokens around media.
    """
    tokenizer = read_tokenizer(Qwen2Tokenizer, folders)
    if tokenizer is not None:
        if lacks := [token for token in (_IM_END, *_SEEN, *_HEARD) if token not in tokenizer.added_tokens_encoder]:
            raise CheckpointError(folders.tuned, f"its tokenizer has no token {' and '.join(lacks)}. {AGAIN}")
        add_placeholder_tokens(tokenizer, chat_tokens=())
    return tokenizer


def chat_template(tokenizer: PreTrainedTokenizerBase | None, folders: Folders) -> str:
    """Write the chat template: ChatML with tokens around media, behind each of which a line breaks.

    What the release's own template writes in front of a first user's turn, such as a turn of the system, stays.

    Args:
        tokenizer: With the release's own template, unless that lies in a file of its own. None: no such text.
        folders: Of the release.

    Raises:
        CheckpointError: If the release's own template is no ChatML.
    """
    front, template = "", None
    if (folders.tuned / "chat_template.json").is_file():
        template = folders.object(folders.tuned, "chat_template.json").get("chat_template")
    if tokenizer is not None and (template or tokenizer.chat_template):
        try:
            text = tokenizer.apply_chat_template([{"role": "user", "content": ""}], template, tokenize=False)
        except (TemplateError, TypeError, ValueError) as error:
            raise CheckpointError(folders.tuned, f"its chat template cannot be read ({error}). {AGAIN}") from error
        front, user, _ = str(text).partition("<|im_start|>user\n")
        if not user:
            raise CheckpointError(folders.tuned, f"its chat template is no ChatML: it writes {str(text)[:200]!r}.")
    seen, heard = (f" ~ {PLACEHOLDER_OF_ITEM} ~ ".join(map(repr, pair)) for pair in (_SEEN, _HEARD))
    medium = f"({heard} if item['type'] == 'speech' else {seen}) ~ '\n'"
    return content_macro(medium) + (without_system(front) if front else "") + CHATML


def describe(
    release: Release, config: dict[str, Any], folders: Folders, weights: dict[str, Weight], given: dict[str, Any]
) -> Description:
    """Describe the model of a release, and make its processor, if the folder has a tokenizer.

    Args:
        release: Its facts.
        config: Of the release.
        folders: Where it lies.
        weights: Of the release, under our names.
        given: Sources beside the folder: none.

    Raises:
        UniMoEError: If the tokenizer or its template cannot be read.
    """
    text = text_fields(config)
    tokenizer = load_tokenizer(folders)
    if tokenizer is not None:
        ends = text["eos_token_id"] if isinstance(text["eos_token_id"], list) else [text["eos_token_id"]]
        end_of_turn = tokenizer.convert_tokens_to_ids(_IM_END)
        text["eos_token_id"] = [end_of_turn, *(end for end in ends if end not in (None, end_of_turn))]
        text["pad_token_id"] = tokenizer.pad_token_id
    media = {
        **_MEDIA,
        "image_grids": tile_grids(config, folders.tuned),
        "video_frame_rate": config["video_fps"],
        "video_max_frames": config["frames_upbound"],
    }
    senses = describe_senses(config, folders)
    return put_together(text, tokenizer, senses, media, chat_template(tokenizer, folders))


__all__ = ["check", "describe"]
