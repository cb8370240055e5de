"""Whisper from CTranslate2's file to transformers' model."""

import json
import re
import shutil
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
_LEAVES = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "encodings": "weight"}
# Module in the file -> modules of transformers; several where projections are stacked along the rows.
_MODULES = {
    "conv1": ["conv1"],
    "conv2": ["conv2"],
    "embeddings": ["embed_tokens"],
    "position_encodings": ["embed_positions"],
    "layer_norm": ["layer_norm"],
    "self_attention/layer_norm": ["self_attn_layer_norm"],
    "self_attention/linear_0": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "self_attention/linear_1": ["self_attn.out_proj"],
    "attention/layer_norm": ["encoder_attn_layer_norm"],
    "attention/linear_0": ["encoder_attn.q_proj"],
    "attention/linear_1": ["encoder_attn.k_proj", "encoder_attn.v_proj"],
    "attention/linear_2": ["encoder_attn.out_proj"],
    "ffn/layer_norm": ["final_layer_norm"],
    "ffn/linear_0": ["fc1"],
    "ffn/linear_1": ["fc2"],
}


def convert_whisper(source: Path, folder: Path) -> None:
    """Write model, generation settings, feature extractor and tokenizer of whisper-tiny.en.

    Args:
        source: Folder with CTranslate2's `model.bin` (format 6), `config.json` and `tokenizer.json`.
        folder: Folder to make.
    """
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    folder.mkdir()
    shutil.copy(source / "tokenizer.json", folder)
    tokenizer = WhisperTokenizer.from_pretrained(folder, model_max_length=448, pad_token="<|endoftext|>")
    end, start = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|startoftranscript|>"])
    special = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    arrays = read_arrays(source / "model.bin")
    config = WhisperConfig(vocab_size=len(arrays["decoder/embeddings/weight"]), **special)  # else the defaults: tiny
    model = WhisperForConditionalGeneration(config)
    model.load_state_dict(state_dict(arrays))
    extra = json.loads((source / "config.json").read_text())
    model.generation_config = GenerationConfig(
        **special,
        max_length=config.max_target_positions,
        is_multilingual=False,
        suppress_tokens=extra["suppress_ids"],
        begin_suppress_tokens=extra["suppress_ids_begin"],
        alignment_heads=extra["alignment_heads"],
        no_timestamps_token_id=tokenizer.convert_tokens_to_ids("<|notimestamps|>"),
        prev_sot_token_id=tokenizer.convert_tokens_to_ids("<|startofprev|>"),
    )
    model.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    extractor.save_pretrained(folder)
    WhisperProcessor(extractor, tokenizer).save_pretrained(folder)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a CTranslate2 file: a header, then name, rank, dimensions, type, size and values of each.

    Numbers are little-endian; strings have their length before them and a zero after them.
    """
    with path.open("rb") as file:
        version = _number(file, "<I")
        if version != 6:
            raise ValueError(f"{path.name} has CTranslate2's format {version}; only format 6 can be read.")
        _string(file)  # kind of model
        _number(file, "<I")  # its revision
        arrays = {}
        for _ in range(_number(file, "<I")):
            name = _string(file)
            shape = [_number(file, "<I") for _ in range(_number(file, "<B"))]
            dtype = _DTYPES[_number(file, "<B")]
            arrays[name] = np.frombuffer(file.read(_number(file, "<I")), dtype=dtype).reshape(shape)
    return arrays


def state_dict(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Name the arrays as transformers does, and cut stacked projections apart.

    Raises:
        ValueError: If an array has no place in Whisper.
    """
    weights: dict[str, Tensor] = {}
    for name, array in arrays.items():
        if array.ndim == 0:  # a flag, such as `decoder/pre_norm`
            continue
        match = re.fullmatch(r"(encoder|decoder)/(?:layer_(\d+)/)?(.+)/(\w+)", name)
        if match is None or match[3] not in _MODULES or match[4] not in _LEAVES:
            raise ValueError(f"The file holds an array {name!r}, for which Whisper has no place.")
        stack, layer, module, leaf = match.groups()
        prefix = f"model.{stack}." + (f"layers.{layer}." if layer else "")
        targets = _MODULES[module]
        for target, part in zip(targets, torch.from_numpy(array.astype(np.float32)).chunk(len(targets)), strict=True):
            if target.endswith("k_proj") and leaf == "bias":  # the file has one of zeros, Whisper none
                if part.any():
                    raise ValueError(f"{name} holds a bias of keys, for which Whisper has no place.")
                continue
            weights[f"{prefix}{target}.{_LEAVES[leaf]}"] = part.clone()
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
    return weights


def _number(file: BinaryIO, layout: str) -> int:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))[0]


def _string(file: BinaryIO) -> str:
    return file.read(_number(file, "<H"))[:-1].decode()
