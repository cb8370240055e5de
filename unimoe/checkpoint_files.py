"""The files of a model folder, looked at before they are loaded, and the weights, after: JSON that says one thing, an
index that stays inside its folder, tensors that are numbers.

`UniMoEPreTrainedModel.from_pretrained` does so for every local folder, also below transformers' Auto classes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from .errors import UniMoEError
from .strict_json import parse_json

AGAIN = "Copy or download the folder again, whole."
_STRICT = ("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class CheckpointError(UniMoEError):
    """A model folder that cannot be used; one line that names the folder, what is wrong in it, and the cure."""

    def __init__(self, source: str | Path, problem: str) -> None:
        super().__init__(f"{source} cannot be loaded: {problem}")
        self.problem = problem


def check_folder(folder: Path) -> None:
    """Refuse a folder with a JSON file that is none or says two things, or whose index names what is not in it.

    Raises:
        CheckpointError: Naming the file, and the key or shard.
    """
    for path in sorted(folder.glob("*.json")):
        is_index = path.name.endswith(".index.json")
        values = _read(folder, path, strict=is_index or path.name in _STRICT)
        if path.name in _STRICT and not isinstance(values, dict):
            raise CheckpointError(folder, f"{path.name} holds no object of keys. {AGAIN}")
        if is_index:
            _check_index(folder, path, values)


def _read(folder: Path, path: Path, *, strict: bool) -> Any:
    try:
        raw = path.read_bytes()
        values = json.loads(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(folder, f"{path.name} is not valid JSON ({error}). {AGAIN}") from None
    try:
        return parse_json(raw, where=path.name) if strict else values
    except UniMoEError as error:
        raise CheckpointError(folder, str(error)) from None


def _check_index(folder: Path, path: Path, values: Any) -> None:
    """Refuse an index that is none, or names a file that is not there or lies elsewhere."""
    weights = values.get("weight_map", {}) if isinstance(values, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(shard, str) for shard in weights.values()):
        raise CheckpointError(folder, f"{path.name} has no weight_map of tensors to files. {AGAIN}")
    if not isinstance(values.get("metadata"), dict):
        raise CheckpointError(folder, f"{path.name} has no metadata. {AGAIN}")
    for shard in sorted(set(weights.values())):
        if not _is_inside(folder, shard):
            raise CheckpointError(
                folder, f"{path.name} names {shard[:200]!r}, which lies outside of the folder. Put the shard into it."
            )
        if not (folder / shard).is_file():
            raise CheckpointError(folder, f"{shard}, which {path.name} names, is missing. {AGAIN}")


def _is_inside(folder: Path, shard: str) -> bool:
    """Whether a file lies in its folder, links followed; the files of transformers' cache are links to its blobs."""
    if Path(shard).is_absolute() or ".." in Path(shard).parts or "\\" in shard or "\0" in shard:
        return False
    home, target = folder.resolve(), (folder / shard).resolve()
    blobs = home.parent.parent / "blobs"
    return target.is_relative_to(home) or (home.parent.name == "snapshots" and target.is_relative_to(blobs))


def check_weights(model: nn.Module, source: str | Path) -> None:
    """Refuse a loaded model with a weight that is no number, or was saved as another kind of value.

    Args:
        model: As it was loaded.
        source: The folder that it was loaded from.

    Tensors that are not in memory (offloaded, of other processes) and quantised ones are not looked at.

    Args:
        model: The model.
        source: Folder that it was loaded from.

    Raises:
        CheckpointError: Naming the tensor.
    """
    state, parameters = model.state_dict(), {name for name, _ in model.named_parameters()}
    for file, name, kind in _tensors(Path(source)):
        if (kind == "BOOL" or kind.startswith("C")) and (name not in state or state[name].is_floating_point()):
            raise CheckpointError(source, f"{name} in {file} is {kind}; weights are real numbers. {AGAIN}")
    for name, tensor in state.items():
        if not _is_finite(tensor, allow_infinity=name not in parameters):
            raise CheckpointError(
                source, f"{name} holds NaN or infinity, so every answer would. Take an earlier checkpoint."
            )


def _tensors(folder: Path) -> Iterator[tuple[str, str, str]]:
    """File, name and kind of value of each tensor of a folder."""
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        try:
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    yield path.name, name, opened.get_slice(name).get_dtype()
        except (OSError, SafetensorError):
            continue  # of other models: what was loaded was read


def _is_finite(tensor: Any, *, allow_infinity: bool) -> bool:
    if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.dtype not in _FLOATS:
        return True
    if tensor.is_meta or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor.detach())  # both are NaN if any is
    return not bool((low.isnan() if allow_infinity else ~(low.isfinite() & high.isfinite())).item())


__all__ = ["AGAIN", "CheckpointError", "check_folder", "check_weights"]
