"""The files of a release: looked up by name, opened once without reading values, and never running what is pickled."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files.folder import AGAIN, CheckpointError, check_folder, read_object
from ..files.tensors import open_tensors, shard_names
from .releases import RELEASES, Release, Source

_ROUTER = re.compile(r".*model\.layers\.(\d+)\.mlp\.(?:gate|deepspeed_moe\.gate\.wg)\.weight")


@dataclass(frozen=True)
class Folders:
    """Where the parts of a release lie, and what was read of them.

    Args:
        tuned: Adapter, projector, aligner and routers; or the whole release.
        base: The shards of the base, and its tokenizer.
        experts: The six files of experts of 8e.
    """

    tuned: Path
    base: Path
    experts: Path
    read: set[Path] = field(default_factory=set, init=False)
    _opened: dict[Path, dict[str, Tensor]] = field(default_factory=dict, init=False)

    def object(self, folder: Path, name: str) -> dict[str, Any]:
        """Read a JSON file that holds an object; as `read_object`."""
        self.read.add(folder / name)
        return read_object(folder, name)

    def tensors(self, folder: Path, name: str) -> dict[str, Tensor]:
        """Open a file of tensors, or give what was opened before; as `open_tensors`."""
        path = folder / name
        self.read.add(path)
        if path not in self._opened:
            self._opened[path] = open_tensors(folder, name)
        return self._opened[path]

    def unread(self) -> list[str]:
        """Names of what was not read in the folders, each behind that of its folder."""
        entries = {entry for folder in (self.tuned, self.base, self.experts) for entry in folder.glob("*")}
        known = {path.resolve() for path in self.read}
        return sorted(f"{path.parent.name}/{path.name}" for path in entries if path.resolve() not in known)


def find_release(folders: Folders) -> tuple[str, dict[str, Any]]:
    """Tell which release folders hold: from config.json and, for v1's family, layers with routers and the aligner.

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
    config = folders.object(folders.base if of_8e else folders.tuned, "config.json")
    kind, layers = config.get("model_type"), config.get("num_hidden_layers")
    found = f"Its config.json has model_type {kind!r}, num_experts {config.get('num_experts')} and num_hidden_layers "
    found += str(layers)
    names = [name for name, release in RELEASES.items() if kind in release.model_types]
    if len(names) > 1:
        sparse, sound = _layers_and_sound(folders)
        found += f"; mlp_gates.bin has routers in the layers {sparse}, mm_audio_aligner.bin a "
        found += f"{'Q-Former' if sound == 'audio' else 'decoder'}, and there are {'' if of_8e else 'no '}files "
        found += "*_mlp_experts.bin"
        looked_for = (config.get("num_experts"), of_8e, sound, sparse)
        names = [name for name in names if _marks(RELEASES[name], layers or 0) == looked_for]
    if not names:
        known = "; ".join(map(str, RELEASES.values()))
        raise CheckpointError(
            folders.tuned,
            f"it is no release that is known. {found}. Known are: {known}. For 8 experts, copy the base's "
            "8config.json over its config.json.",
        )
    return names[0], config


def _marks(release: Release, layers: int) -> tuple[int | None, bool, str, list[int]]:
    """Return by what a release of the v1 family is told from the others."""
    return release.num_experts, release.num_experts == 8, release.sound, release.sparse_layers(layers)


def _layers_and_sound(folders: Folders) -> tuple[list[int], str]:
    """Return the layers with routers, and what the aligner is for."""
    routers = folders.tensors(folders.tuned, "mlp_gates.bin")
    aligner = folders.tensors(folders.tuned, "mm_audio_aligner.bin")
    layers = sorted({int(match[1]) for match in map(_ROUTER.fullmatch, routers) if match})
    return layers, "audio" if any(".qformer." in name for name in aligner) else "speech"


def read_source(source: Source, folders: Folders, release: Release) -> dict[tuple[Path, str], Tensor]:
    """Open a file of a release, or its shards.

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
    folders.read.add(folder / f"{source.file.replace('*', '')}.index.json")
    names = shard_names(folder, source.file)
    if not names:
        raise CheckpointError(folder, f"there is no {source.file}, which {release.title} has. {AGAIN}")
    return {(folder / name, key): value for name in names for key, value in folders.tensors(folder, name).items()}


__all__ = ["Folders", "find_release", "read_source"]
