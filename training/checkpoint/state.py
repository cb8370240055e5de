"""The state of a training as files from which any number of processes can go on, under any stage of ZeRO.

Weights and the optimizer's states are written whole and by the names of parameters, whoever had which part of them:
unsharded when they are written, sharded again when they are read. The processes share the writing; `manifest.json`,
written last, has the size and SHA-256 of every file.

`weights-*.safetensors`: every weight, as in memory. `optimizer-*.safetensors`: `STATE/PARAMETER`, such as
`exp_avg/lm_head.weight`; states that are one number for a parameter, such as `step`, are tensors of shape ().
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unimoe.errors import ConfigError, UniMoEError
from unimoe.files.strict_json import parse_json
from unimoe.files.writing import write_whole
from unimoe.media.naming import shown

from ..distributed.processes import first_alone, from_all, processes, rank, together
from ..distributed.sharding import optimizer_states, put_optimizer_states, share_buffers, whole_weights

MANIFEST = "manifest.json"
WEIGHTS, OPTIMIZER = "weights", "optimizer"
DESCRIPTION = "model"
"""Folder in a checkpoint with all of a model but its weights."""
SHARD = 4 * 2**30
"""Bytes of a file, but for a tensor that is larger alone."""


class CheckpointError(ConfigError):
    """A checkpoint cannot be written or read; the message names the file."""


class ShardWriter:
    """Writes named tensors to files, each process its share.

    Args:
        folder: Where to.
        stem: Begin of the files' names.
        limit: Bytes of a file.
    """

    def __init__(self, folder: Path, stem: str, limit: int = SHARD) -> None:
        self.folder, self.stem, self.limit = folder, stem, limit
        self.held: dict[str, Tensor] = {}
        self.files = 0
        self.given = [0] * processes()

    def add(self, name: str, value: Tensor) -> None:
        """Take a tensor; all processes take the same ones in the same order."""
        writer = self.given.index(min(self.given))
        self.given[writer] += value.nbytes
        if writer != rank():
            return
        if self.held and sum(each.nbytes for each in self.held.values()) + value.nbytes > self.limit:
            self.flush()
        self.held[name] = value.detach().to("cpu", copy=True).contiguous()

    def flush(self) -> None:
        """Write what is held.

        Raises:
            OSError: If it cannot be written.
        """
        if not self.held:
            return
        self.files += 1
        path = self.folder / f"{self.stem}-{rank():05d}-{self.files:05d}.safetensors"
        try:
            save_file(self.held, path)
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from error
        self.held = {}


def write_tensors(folder: Path, stem: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write tensors that all processes go through in the same order.

    A process that cannot write goes through the rest nevertheless, for the others join tensors with it.

    Raises:
        OSError: If a file could not be written.
    """
    writer, failure = ShardWriter(folder, stem), None
    for name, value in tensors:
        try:
            if failure is None:
                writer.add(name, value)
        except OSError as error:
            failure = error
    if failure is not None:
        raise failure
    writer.flush()


def save_state(folder: Path, model: nn.Module, optimizer: Any, outside: Mapping[str, nn.Module] | None = None) -> None:
    """Write weights and states of the optimizer; all processes must call this.

    Args:
        folder: Where to.
        model: As it trains.
        optimizer: The trainer's.
        outside: Modules that belong to the model and are out of it, such as cached encoders, by their names in it.

    Raises:
        OSError: If a process could not write a file.
        CheckpointError: If a parameter is not the same in all processes.
    """
    share_buffers(model)
    sums = {name: 0 for name, _ in (*model.named_parameters(), *model.named_buffers())}
    together(lambda: write_tensors(folder, WEIGHTS, _noted(whole_weights(model, outside), sums)))
    compare_replicas(sums)
    together(lambda: write_tensors(folder, OPTIMIZER, optimizer_states(model, optimizer)))


def _noted(tensors: Iterable[tuple[str, Tensor]], sums: dict[str, int]) -> Iterator[tuple[str, Tensor]]:
    """Tensors as they come, with a note of the sum of the bits of those that stand in `sums`."""
    for name, value in tensors:
        if name in sums:
            whole_numbers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
            sums[name] = int(value.contiguous().view(whole_numbers).sum(dtype=torch.int64))
        yield name, value


def compare_replicas(sums: dict[str, int]) -> None:
    """Refuse to save what should be the same in all processes and is not; all must call this.

    Raises:
        CheckpointError: Naming a parameter and a process.
    """
    first, *others = from_all(sums)
    for process, own in enumerate(others, start=1):
        if wrong := next((name for name, value in own.items() if value != first[name]), None):
            raise CheckpointError(
                f"{wrong} is not the same in process 0 and process {process}: this training has gone wrong since the "
                "last checkpoint. Go on from it with --resume; if this comes again, report it."
            )


def put_weights(folder: Path, model: Any) -> None:
    """Put the weights of a checkpoint into a whole model, in place.

    Raises:
        CheckpointError: If they are not those of this model.
    """
    state = model.state_dict()
    names = state.keys() - model.all_tied_weights_keys
    with TensorFiles(folder, WEIGHTS) as files:
        refuse_strangers(folder, names, files.names)
        for name in sorted(names):
            value = files[name]
            if value.shape != state[name].shape:
                raise CheckpointError(
                    f"{folder} does not hold this stage's model: {name} is {tuple(value.shape)}, not "
                    f"{tuple(state[name].shape)}."
                )
            state[name].copy_(value)


def refuse_strangers(folder: Path, expected: set[str], found: set[str]) -> None:
    """Refuse a checkpoint of another model.

    Raises:
        CheckpointError: If names are missing or unknown.
    """
    if wrong := sorted(expected ^ found):
        more = f" and {len(wrong) - 3} more weights" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{folder} does not hold this stage's model: {', '.join(wrong[:3])}{more} are missing or unknown."
        )


def load_optimizer(folder: Path, model: nn.Module, optimizer: Any) -> None:
    """Put the states of a checkpoint into an optimizer, of which each process takes its part.

    Raises:
        CheckpointError: If they are not those of this optimizer.
    """
    with TensorFiles(folder, OPTIMIZER) as files:
        states: dict[str, set[str]] = {}
        for entry in files.names:
            key, _, name = entry.partition("/")
            states.setdefault(name, set()).add(key)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        if strangers := sorted(states.keys() - trained):
            raise CheckpointError(f"{folder} has an optimizer's state of {strangers[0]}, which does not train here.")
        try:
            put_optimizer_states(model, optimizer, states, lambda key, name: files[f"{key}/{name}"])
        except ValueError as error:
            raise CheckpointError(f"{folder}: {error}") from None


class TensorFiles:
    """The tensors of all files of a checkpoint whose names begin alike."""

    def __init__(self, folder: Path, stem: str) -> None:
        self.files: list[Any] = []
        self.file_of: dict[str, Any] = {}
        for path in sorted(folder.glob(f"{stem}-*.safetensors")):
            try:
                file = safe_open(path, framework="pt")
            except SafetensorError as error:
                raise CheckpointError(f"{path} is damaged: {error}") from None
            self.files.append(file)
            self.file_of |= dict.fromkeys(file.keys(), file)

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self.file_of)

    def __getitem__(self, name: str) -> Tensor:
        return self.file_of[name].get_tensor(name)

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(self, *args: Any) -> None:
        for file in self.files:
            file.__exit__(*args)


def digests(folder: Path, *, process: int = 0, of: int = 1) -> dict[str, dict[str, Any]]:
    """Have files of a folder on the disk, and tell their size and SHA-256; of every so many, to share the work."""
    found = {}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    for path in files[process::of]:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        found[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256}
    return found


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a folder whose files all processes have written; all must call this.

    Raises:
        OSError: If a file cannot be read or written.
    """
    found = together(lambda: digests(folder, process=rank(), of=processes()))
    files = {name: facts for part in found for name, facts in part.items()}
    manifest = json.dumps({**facts, "files": files}, indent=1, sort_keys=True)
    first_alone(lambda: write_whole(folder / MANIFEST, manifest))


def sync(folder: Path) -> None:
    """Have the names of a folder's files on the disk.

    Raises:
        OSError: If that fails.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what a checkpoint says of itself.

    Raises:
        CheckpointError: If there is no manifest, or it cannot be read.
    """
    path = folder / MANIFEST
    try:
        manifest = parse_json(path.read_bytes(), where=str(path))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} has no {MANIFEST}: it is no checkpoint, or was not written to its end. {CURE}"
        ) from None
    except (OSError, UniMoEError) as error:
        said = error.problem if isinstance(error, UniMoEError) else error.strerror
        raise CheckpointError(f"{path} is damaged: {said} {CURE}") from None
    if (wrong := _wrong_in(manifest)) is not None:
        raise CheckpointError(f"{path} is damaged: {wrong}. {CURE}")
    return manifest


def _wrong_in(manifest: Any) -> str | None:
    """Say what a manifest lacks; None: nothing."""
    if not isinstance(manifest, dict):
        return "it holds no JSON object"
    rows, files = manifest.get("rows"), manifest.get("files")
    numbers = [manifest.get("step"), manifest.get("processes"), *(rows.values() if isinstance(rows, dict) else [None])]
    if not all(type(number) is int and number >= 0 for number in numbers) or not {"step", "batch"} <= {*(rows or {})}:
        return "step, processes and rows of a step are not all there"
    if not isinstance(files, dict) or not files:
        return "it names no files"
    for name, facts in files.items():
        whole = isinstance(facts, dict) and type(facts.get("bytes")) is int and isinstance(facts.get("sha256"), str)
        if not whole or Path(name).is_absolute() or ".." in Path(name).parts:
            return f"it does not say what {shown(name)} is"
    return None


def verify(folder: Path, *, process: int = 0, of: int = 1) -> None:
    """Compare the files of a checkpoint with its manifest: sizes of all, and bytes of every so many.

    Raises:
        CheckpointError: If a file is missing, or not what was written.
    """
    files = read_manifest(folder)["files"]
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing. {CURE}")
        if path.stat().st_size != facts["bytes"]:
            raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes, not {facts['bytes']:,}. {CURE}")
    for name in sorted(files)[process::of]:
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != files[name]["sha256"]:
                raise CheckpointError(f"{folder / name} has other bytes than were written (SHA-256). {CURE}")


CURE = "Remove this checkpoint to go on from an earlier one, or bring the file back."


__all__ = [
    "CURE",
    "DESCRIPTION",
    "MANIFEST",
    "CheckpointError",
    "load_optimizer",
    "put_weights",
    "read_manifest",
    "save_state",
    "seal",
    "sync",
    "verify",
]
