"""The configuration and processor of a converted release: language model, towers, connectors, tokenizer, prompt."""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig, LlamaTokenizer, PreTrainedTokenizerBase

from ..build.model import compose_config, naming, placeholder_ids
from ..build.towers import Part, encoder_config, fit_qformer, load_part
from ..configuration_unimoe import UniMoEConfig, UniMoETextConfig
from ..encoders.beats.feature_extraction import BeatsFeatureExtractor
from ..encoders.beats_checkpoint import load_beats_checkpoint
from ..files.folder import CheckpointError
from ..modality import MEDIA
from ..processing_unimoe import UniMoEProcessor, add_placeholder_tokens
from .parts import Folders
from .releases import Release
from .weights import Weight

WINDOW_SAMPLES, MAX_WINDOWS = 480_000, 20
"""Of sounds in v1: 30 s at 16 kHz, and so many of one sound."""

_PREAMBLE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
CHAT_TEMPLATE = (
    "{%- macro render(content) -%}"
    "{%- if content is string -%}{{- content -}}{%- else -%}{%- for item in content or [] -%}"
    "{%- if item['type'] == 'text' -%}{{- item['text'] -}}"
    "{%- else -%}{{- '<|' ~ item['type'] ~ '|>\n' -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- endmacro -%}"
    "{%- if not messages or messages[0]['role'] != 'system' -%}"
    f'{{{{- "{_PREAMBLE} " -}}}}'
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{- render(message['content']) ~ ' ' -}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- 'ASSISTANT: ' -}}{%- generation -%}{{- render(message['content']) ~ '</s>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- 'USER: ' ~ render(message['content']) ~ ' ' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}"
)
"""LLaVA's vicuna v1 prompt: a medium is its placeholder and a line break; it ends at `ASSISTANT:`, without a blank."""

_SAME = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
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


def check_config(config: dict[str, Any], folder: Path) -> None:
    """Refuse a release whose configuration says what the model cannot have.

    Args:
        config: Of the release.
        folder: Of its tuned part.

    Raises:
        CheckpointError: Naming the field, and the values that can be.
    """
    for name, values in _ONLY.items():
        if config.get(name) not in values:
            known = " or ".join(repr(value) for value in values if value is not None or len(values) == 1)
            raise CheckpointError(
                folder, f"its config.json has {name} {config.get(name)!r}; {known} can be converted."
            )
    if (folder / "fm_adapter.bin").is_file():
        raise CheckpointError(folder, "there is a fm_adapter.bin, whose maps have biases, which the model has not.")


def text_config(config: dict[str, Any], release: Release, vocabulary: int) -> UniMoETextConfig:
    """Describe the language model of a release.

    Args:
        config: Of the release.
        release: Its facts.
        vocabulary: Tokens, placeholders included.
    """
    layers = config["num_hidden_layers"]
    return UniMoETextConfig(
        vocab_size=vocabulary,
        **{name: config[name] for name in _SAME if config.get(name) is not None},
        rope_parameters={"rope_type": "default", "rope_theta": float(config.get("rope_theta") or 1e4)},
        num_experts=release.num_experts,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        moe_layers=None if release.sparse == "all" else release.sparse_layers(layers),
        router_z_loss_coef=0.0,
        router_aux_loss_coef=config.get("aux_balance_loss_coef", 0.01) if config.get("aux_balance_loss") else 0.0,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of a base, with placeholders; None if the folder has none.

    Text behind each special token begins with a blank, as where every piece of it is tokenised alone.

    Raises:
        CheckpointError: If it cannot be loaded.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")):
        return None
    try:
        tokenizer = LlamaTokenizer.from_pretrained(folder, **_AS_RELEASED)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())
        raise CheckpointError(
            folder,
            f"its tokenizer cannot be read ({why}). A tokenizer.model needs `pip install sentencepiece protobuf`.",
        ) from error
    tokenizer.init_kwargs |= _AS_RELEASED  # which transformers does not save by itself
    tokenizer.pad_token = tokenizer.unk_token
    add_placeholder_tokens(tokenizer, chat_tokens=())
    return tokenizer


def load_towers(
    release: Release, config: dict[str, Any], weights: dict[str, Weight], vision: str | Path, sound: str | Path
) -> dict[str, Part]:
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
        towers = {"image": load_part("image", vision, "auto", image, {"type": "mlp"})}
    with naming(release.sound, sound):
        if release.sound == "speech":
            whisper = AutoConfig.from_pretrained(sound, trust_remote_code=False).to_dict()
            connector = {"type": "query_decoder", **queries, "decoder_config": whisper}
            towers["speech"] = load_part("speech", sound, "auto", {}, connector)
        else:
            connector = {"type": "blip2_qformer", **queries, "qformer_config": qformer_sizes(weights)}
            towers["audio"] = load_beats(sound, connector)
    return towers


def load_beats(path: str | Path, connector: dict[str, Any]) -> Part:
    """Load BEATs from its `.pt` file, with windows as v1 knows them, and complete the fields of its connector."""
    extractor = BeatsFeatureExtractor(n_samples=WINDOW_SAMPLES, max_windows=MAX_WINDOWS)
    tower = load_beats_checkpoint(path, max_length=extractor.max_length, mask_padding=True)
    encoder = encoder_config("audio", tower, extractor)
    return Part(tower, extractor, None, encoder, fit_qformer(connector, encoder["hidden_size"]))


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


def describe_release(
    release: Release, config: dict[str, Any], folders: Folders, towers: dict[str, Part]
) -> tuple[UniMoEConfig, UniMoEProcessor | None]:
    """Describe the model of a release, and make its processor, if the base has a tokenizer.

    Args:
        release: Its facts.
        config: Of the release.
        folders: Where it lies.
        towers: As `load_towers` gives them.

    Raises:
        CheckpointError: If the tokenizer cannot be read.
    """
    tokenizer = load_tokenizer(folders.base)
    size: int = config["vocab_size"]
    ids = {f"{modality.key}_token_id": size + number for number, modality in enumerate(MEDIA)}
    if tokenizer is not None:
        ids = placeholder_ids(tokenizer)
    text = text_config(config, release, max(size, *(number + 1 for number in ids.values())))
    described = {key: (part.encoder, part.connector) for key, part in towers.items()}
    ours = compose_config(text, ids, described, {"video_pooling": "clip"})
    extractors = {
        f"{'image_processor' if key == 'image' else f'{key}_feature_extractor'}": part.extractor
        for key, part in towers.items()
    }
    if tokenizer is None:
        return ours, None
    return ours, UniMoEProcessor.from_config(ours, tokenizer, **extractors, chat_template=CHAT_TEMPLATE)


__all__ = ["CHAT_TEMPLATE", "check_config", "describe_release", "load_tokenizer", "load_towers", "text_config"]
