"""The weights of a model folder, looked at after they were loaded: real numbers, saved as what the model holds.

`UniMoEPreTrainedModel.from_pretrained` does so for every local folder, also below transformers' Auto classes.
"""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from .folder import AGAIN, CheckpointError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_weights(model: nn.Module, source: str | Path) -> None:
    """Refuse a loaded model with a weight that is no number, or was saved as another kind of value.

    Tensors that are not in memory (offloaded, of other processes) and quantised ones are not looked at.

    Args:
        model: As it was loaded.
        source: The folder that it was loaded from.

    Raises:
        CheckpointError: Naming the tensor.
    """
    state, parameters = model.state_dict(), {name for name, _ in model.named_parameters()}
    is_quantised = getattr(getattr(model, "config", None), "quantization_config", None) is not None
    for file, name, kind in _tensors(Path(source)):
        if name in state and name not in parameters:
            continue  # a buffer, such as the table of hash routing, is what its module makes of it
        if problem := _misfit(kind, name, state.get(name), is_quantised):
            raise CheckpointError(source, f"{name} in {file} is {kind}; {problem}")
    for name, tensor in state.items():
        if not _is_finite(tensor, allow_infinity=name not in parameters):
            raise CheckpointError(
                source, f"{name} holds NaN or infinity, so every answer would. Take an earlier checkpoint."
            )


def _misfit(kind: str, name: str, loaded: Any, is_quantised: bool) -> str:
    """Say what is wrong with a tensor of a kind; transformers would cast it. Of experts on disk, `loaded` is None."""
    if loaded is not None and not loaded.is_floating_point():
        return ""
    if kind in ("BOOL", "bool") or kind.startswith(("C", "complex")):
        return f"weights are real numbers. {AGAIN}"
    is_whole = kind.startswith(("I", "U", "int", "uint"))
    is_weight = loaded is not None or name.rpartition(".")[2] in ("weight", "bias")
    if is_whole and is_weight and not is_quantised:
        return (
            "the model's is a float, and no quantization_config says how whole numbers become one. Save the weights "
            "as floats, or state the quantization_config."
        )
    return ""


def _tensors(folder: Path) -> Iterator[tuple[str, str, str]]:
    """File, name and kind of value of each tensor of a folder; what is not tensors belongs to others."""
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        try:
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    yield path.name, name, opened.get_slice(name).get_dtype()
        except (OSError, SafetensorError):
            continue
    for path in sorted(folder.glob("pytorch_model*.bin")) if folder.is_dir() else ():
        for name, tensor in _pickled(path).items():
            if isinstance(tensor, torch.Tensor):
                yield path.name, str(name), str(tensor.dtype).removeprefix("torch.")


def _pickled(path: Path) -> dict[Any, Any]:
    """Return the tensors of a .bin without their values, read as transformers reads it: no code runs."""
    try:
        found = torch.load(path, map_location="meta", weights_only=True, mmap=is_zipfile(path))
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return {}  # what was loaded was read
    return found if isinstance(found, dict) else {}


def _is_finite(tensor: Any, *, allow_infinity: bool) -> bool:
    if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.dtype not in _FLOATS:
        return True
    if tensor.is_meta or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor.detach())  # both are NaN if any is
    return not bool((low.isnan() if allow_infinity else ~(low.isfinite() & high.isfinite())).item())


__all__ = ["check_weights"]
