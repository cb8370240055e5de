"""Files of tensors: opened without reading values, and written tensor by tensor, one in memory at a time."""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.modeling_utils import str_to_torch_dtype

from .folder import AGAIN, CheckpointError, read_object

_INDEX = "model.safetensors.index.json"
_NAMES = {dtype: name for name, dtype in str_to_torch_dtype.items()}


def shard_names(folder: Path, pattern: str) -> list[str]:
    """Name the files of weights of a folder, in order.

    Args:
        folder: Where they lie.
        pattern: Of shards, such as `model*.safetensors`; an index says which there are, others are left, and one file
            without number is all. Without `*`: the name itself.
    """
    whole = pattern.replace("*", "")
    if "*" not in pattern or (folder / whole).is_file():
        return [whole]
    if (folder / f"{whole}.index.json").is_file():
        return sorted(set(read_object(folder, f"{whole}.index.json")["weight_map"].values()))
    return sorted(path.name for path in folder.glob(pattern))


def open_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Open a file of tensors, mapped into memory where its format allows it; no pickled code in it runs.

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
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise CheckpointError(folder, f"{name} cannot be read ({' '.join(str(error).split())}). {AGAIN}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(folder, f"{name} holds anything but tensors by name. {AGAIN}")
    return found


def open_weights(folder: Path) -> dict[str, Tensor]:
    """Open all weights of a model folder, safetensors or, without such, pickled ones; values are read when used.

    Args:
        folder: Of the model.

    Raises:
        CheckpointError: If there are none, or a file cannot be read.
    """
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        if names := shard_names(folder, pattern):
            return {key: tensor for name in names for key, tensor in open_tensors(folder, name).items()}
    raise CheckpointError(folder, f"there are no weights (model*.safetensors or pytorch_model*.bin) in it. {AGAIN}")


def write_tensors(path: Path, blanks: Mapping[str, Tensor], value: Callable[[str], Tensor]) -> None:
    """Write a file of tensors, of which one is in memory at a time.

    The format is that of https://github.com/huggingface/safetensors: the header's length (8 bytes, little-endian), the
    header, which is JSON, and the values in its order; larger elements come first, so that each tensor is aligned.

    Args:
        path: The file, which is not there yet.
        blanks: Name -> a tensor of the shape and dtype, on the meta device.
        value: Makes the tensor of a name when its turn has come.

    Raises:
        OSError: If it cannot be written.
    """
    names = sorted(blanks, key=lambda name: (-blanks[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + blanks[name].nbytes
        kind = {"dtype": _NAMES[blanks[name].dtype], "shape": list(blanks[name].shape)}
        header[name] = {**kind, "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("xb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in names:
            file.write(value(name).flatten().view(torch.uint8).numpy().data)


class ShardWriter:
    """Write the weights of a model folder file by file, as they are made; `close` names the files and their index.

    Args:
        folder: Where they are to lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: list[list[str]] = []
        self._size = 0

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Write one file.

        Args:
            tensors: By name.

        Raises:
            OSError: If it cannot be written.
        """
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, self._path(), metadata={"format": "pt"}
        )
        self._names.append(list(tensors))
        self._size += sum(tensor.nbytes for tensor in tensors.values())

    def close(self) -> None:
        """Give the files the names by which they are found."""
        count = len(self._names)
        files = [f"model-{number + 1:05}-of-{count:05}.safetensors" for number in range(count)]
        for number, file in enumerate(files):
            self._path(number).rename(self.folder / file)
        places = {name: file for names, file in zip(self._names, files, strict=True) for name in names}
        index = {"metadata": {"total_size": self._size}, "weight_map": places}
        (self.folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _path(self, number: int | None = None) -> Path:
        return self.folder / f"{len(self._names) if number is None else number}.partial"


def write_shards(
    folder: Path, blanks: Mapping[str, Tensor], value: Callable[[str], Tensor], *, shard_size: str = "5GB"
) -> None:
    """Write the weights of a model folder as `save_pretrained` names them, of which one is in memory at a time.

    Args:
        folder: Where they are to lie.
        blanks: As for `write_tensors`.
        value: As for `write_tensors`.
        shard_size: Largest size of a file of weights.

    Raises:
        OSError: If one cannot be written.
    """
    split = split_torch_state_dict_into_shards(dict(blanks), max_shard_size=shard_size)
    for file, names in split.filename_to_tensors.items():
        write_tensors(folder / file, {name: blanks[name] for name in names}, value)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


__all__ = ["ShardWriter", "open_tensors", "open_weights", "shard_names", "write_shards", "write_tensors"]
