"""A safetensors file written tensor by tensor, which the library writes from memory as a whole."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import str_to_torch_dtype

_NAMES = {dtype: name for name, dtype in str_to_torch_dtype.items()}


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


__all__ = ["write_tensors"]
