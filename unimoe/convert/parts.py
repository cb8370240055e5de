"""The files of a release: looked up by name, opened without reading values, and never running what is pickled."""

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from ..files.folder import AGAIN, CheckpointError, check_folder, read_object
from .releases import RELEASES, Release, Source

_MODEL_TYPES = ("llava", "llava_llama")
_ROUTER = re.compile(r".*model\.layers\.(\d+)\.mlp\.(?:gate|deepspeed_moe\.gate\.wg)\.weight")


@dataclass(frozen=True)
class Folders:
    """Where the parts of a release lie.

    Args:
        tuned: Adapter, projector, aligner and routers.
        base: The shards of the base, and its tokenizer.
        experts: The six files of experts of 8e.
    """

    tuned: Path
    base: Path
    experts: Path


def find_release(folders: Folders) -> tuple[str, dict[str, Any]]:
    """Tell which release folders hold, from config.json, the layers with routers, and the kind of the aligner.

    Args:
        folders: Of the release. With 8 experts, the configuration is the base's, as in the released code.

    Returns:
        Its name in `RELEASES`, and its configuration.

    Raises:
        CheckpointError: If it is none of them; the message says what was looked for and found.
    """
    for folder in {folders.tuned, folders.base}:
        if not folder.is_dir():
            raise CheckpointError(folder, "there is no such folder. Correct the path.")
        check_folder(folder)
    of_8e = bool(list(folders.tuned.glob("*_mlp_experts.bin"))) or not (folders.tuned / "config.json").is_file()
    config = read_object(folders.base if of_8e else folders.tuned, "config.json")
    routers = open_file(folders.tuned, "mlp_gates.bin")
    aligner = open_file(folders.tuned, "mm_audio_aligner.bin")
    layers = sorted({int(match[1]) for match in map(_ROUTER.fullmatch, routers) if match})
    sound = "audio" if any(".qformer." in name for name in aligner) else "speech"
    for name, release in RELEASES.items():
        is_sparse = layers == release.sparse_layers(config.get("num_hidden_layers", 0))
        counts = config.get("num_experts") == release.num_experts and of_8e == (release.num_experts == 8)
        if is_sparse and counts and sound == release.sound and config.get("model_type") in _MODEL_TYPES:
            return name, config
    raise CheckpointError(
        folders.tuned,
        f"it is no release that is known. Its config.json has model_type {config.get('model_type')!r}, num_experts "
        f"{config.get('num_experts')} and num_hidden_layers {config.get('num_hidden_layers')}; mlp_gates.bin has "
        f"routers in the layers {layers}, mm_audio_aligner.bin a {'Q-Former' if sound == 'audio' else 'decoder'}, and "
        f"there are {'' if of_8e else 'no '}files *_mlp_experts.bin. Known are, with model_type "
        f"{' or '.join(_MODEL_TYPES)}: {'; '.join(map(str, RELEASES.values()))}. For 8 experts, copy the base's "
        "8config.json over its config.json.",
    )


def read_source(source: Source, folders: Folders, release: Release) -> dict[tuple[Path, str], Tensor]:
    """Open a file of a release, or the shards of its base.

    Args:
        source: Which.
        folders: Of the release.
        release: For the message.

    Returns:
        File and name of each tensor, in order -> the tensor, whose values are read when they are used.

    Raises:
        CheckpointError: If a file is missing, or holds anything but tensors.
    """
    folder: Path = getattr(folders, source.folder)
    names = sorted(path.name for path in folder.glob(source.file)) if "*" in source.file else [source.file]
    if not names:
        raise CheckpointError(folder, f"there is no {source.file}, which {release.title} has. {AGAIN}")
    return {(folder / name, key): value for name in names for key, value in open_file(folder, name).items()}


def open_file(folder: Path, name: str) -> dict[str, Tensor]:
    """Open a pickled file of tensors, mapped into memory where its format allows it; no code in it runs.

    Args:
        folder: Where it lies.
        name: Of the file.

    Raises:
        CheckpointError: If it is not there, or holds anything but tensors.
    """
    path = folder / name
    if not path.is_file():
        raise CheckpointError(folder, f"there is no {name}. {AGAIN}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(folder, f"{name} cannot be read ({' '.join(str(error).split())}). {AGAIN}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(folder, f"{name} holds anything but tensors by name. {AGAIN}")
    return found


__all__ = ["Folders", "find_release", "open_file", "read_source"]
