"""Where a stage may write: refused at once, before data and model are looked at, is what would be lost or cannot be
written."""

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from glob import glob
from pathlib import Path

from unimoe.errors import ConfigError

from ..checkpoint.folder import checkpoints, is_complete
from ..checkpoint.model_card import HISTORY_FILE, STAGE_FILE
from ..config.data import DataConfig
from ..config.stage import StageConfig

_ELSEWHERE = "Name another `output`."
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def check_outputs(stages: Mapping[str, StageConfig], *, resume: bool) -> None:
    """Check the outputs of all stages that are to run, before the first one does.

    Raises:
        ConfigError: If one of them cannot be, or would destroy something; see `check_output`.
    """
    taken: dict[str, str] = {}
    for name, config in stages.items():
        check_output(config, resume=resume)
        for other in stages.values():
            _check_data(config.output, other.data)
        folder = os.path.realpath(config.output)
        if folder in taken:
            problem = f"is the output of the stages {taken[folder]} and {name}."
            raise ConfigError(config.output, problem, "Give each stage an `output` of its own.")
        taken[folder] = name


def check_output(config: StageConfig, *, resume: bool) -> None:
    """Refuse an output that cannot be a stage's.

    Args:
        config: The stage.
        resume: Whether a finished or unfinished stage in it is gone on with, or skipped.

    Raises:
        ConfigError: If it is no folder, or cannot be written; if it is, holds or lies in a folder that the stage
            reads, or holds a file of its data; or if it holds a finished stage, a model or a link to a file, which
            would be overwritten.
    """
    try:
        _check_folder(config.output)
    except OSError as error:  # too long a name, or a folder that may not be looked into
        raise ConfigError(config.output[:200], f"cannot be used ({error.strerror}).", _ELSEWHERE) from None
    _check_starts(config)
    _check_data(config.output, config.data)
    if resume and is_complete(config):
        return
    if not resume:
        refuse_finished(config)
    check_files(config.output)
    check_writable(config.output)


def refuse_finished(config: StageConfig) -> None:
    """Refuse to overwrite a finished stage, or a model that no stage of ours made.

    Raises:
        ConfigError: If there is one in the output.
    """
    folder = Path(config.output)
    if (folder / HISTORY_FILE).is_file() and not checkpoints(config):
        raise ConfigError(
            config.output,
            f"holds a finished stage ({HISTORY_FILE}).",
            "Skip it with --resume, remove the folder to run the stage again, or name another `output`.",
        )
    models = [*folder.glob("*.safetensors"), *folder.glob("config.json")] if folder.is_dir() else []
    if models and not (folder / STAGE_FILE).is_file():
        problem = f"holds a model ({min(models).name}) that would be overwritten."
        raise ConfigError(config.output, problem, f"{_ELSEWHERE[:-1]}, or remove the folder.")


def _check_folder(output: str) -> None:
    """Refuse a file as output, or as one of the folders above it."""
    folder = Path(output)
    if not output.strip() or "\0" in output:
        raise ConfigError(f"output: {output[:200]!r}", "is no folder.", "Name one, such as runs/stage.")
    if _ADDRESS.match(output):
        problem = "is an address, and a stage writes to a folder."
        raise ConfigError(f"output: {output[:200]!r}", problem, "Name its path, such as runs/stage.")
    for path in (folder, *folder.parents):
        if path.is_symlink() and not path.exists():
            raise ConfigError(str(path), f"is a link to {os.readlink(path)}, which does not exist.", _ELSEWHERE)
        if path.exists():
            if not path.is_dir():
                what = "is a file" if path == folder else f"is a file, so that {output} cannot be made in it"
                raise ConfigError(str(path), f"{what}.", _ELSEWHERE)
            return


def check_files(output: str) -> None:
    """Refuse an output with what is neither file nor folder: a link to a file would be written through.

    Raises:
        ConfigError: With its name.
    """
    for path in sorted(Path(output).iterdir()) if Path(output).is_dir() else ():
        if path.is_symlink() and not path.is_dir():
            problem = f"is a link to {os.readlink(path)}, which would be overwritten."
        elif not path.is_file() and not path.is_dir():
            problem = "is neither a file nor a folder."
        else:
            continue
        raise ConfigError(str(path), problem, f"Remove it, or {_ELSEWHERE[0].lower()}{_ELSEWHERE[1:]}")


def check_writable(output: str) -> None:
    """Refuse a folder where nothing can be written: tried in the nearest folder that exists.

    Raises:
        ConfigError: If nothing can; it says why.
    """
    folder = Path(output)
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".unimoe-", dir=nearest))
    except OSError as error:
        raise ConfigError(output, f"cannot be written: {nearest} ({error.strerror}).", _ELSEWHERE) from None


def _check_starts(config: StageConfig) -> None:
    output_folder = Path(os.path.realpath(config.output))
    for key, given in start_folders(config):
        start = Path(os.path.realpath(given))
        if not start.is_dir() and start != output_folder:
            continue  # the id of a model on the Hub
        for inner, outer, how in (
            (output_folder, start, "is"),
            (output_folder, start, "lies in"),
            (start, output_folder, "holds"),
        ):
            if inner == outer if how == "is" else outer in inner.parents:
                raise ConfigError(
                    config.output, f"{how} the folder {given} that the stage starts from ({key}).", _ELSEWHERE
                )


def _check_data(output: str, data: DataConfig) -> None:
    """Refuse an output that holds data, or lies within a folder that is data: it would be written into them."""
    output_folder = Path(os.path.realpath(output))
    for key, given in _data_paths(data):
        folder, name = os.path.split(os.path.abspath(given))
        for path in (Path(os.path.realpath(given)), Path(os.path.realpath(folder), name)):  # a link, and its target
            if path == output_folder:
                how = "is"
            elif not os.path.lexists(path):
                continue  # the id of a data set on the Hub
            elif output_folder in path.parents:
                how = "holds"
            elif path in output_folder.parents and key != "media_root":
                how = "lies in"
            else:
                continue
            raise ConfigError(output, f"{how} {given}, which data are read from (data.{key}).", _ELSEWHERE)


def _data_paths(data: DataConfig) -> Iterable[tuple[str, str]]:
    """Keys and paths of files and folders of data; a pattern's files, too. An id of the Hub is like a path."""
    for key in ("mixture", "validation"):
        for source in getattr(data, key):
            found = [source.path] if os.path.exists(source.path) else glob(source.path)
            yield from ((key, path) for path in found or [source.path])
            if source.media_root is not None:
                yield "media_root", source.media_root


def start_folders(config: StageConfig) -> Iterable[tuple[str, str]]:
    """Keys and folders (or Hub ids) of everything that a stage reads a model from."""
    start = config.start
    if start.path is not None:
        yield "start", start.path
    if start.assemble is not None:
        yield "start.assemble.base", start.assemble.base
        for key, folders in start.assemble.expert_folders.items():
            yield from ((f"start.assemble.experts.{key}", folder) for folder in folders)
    if start.extend is not None:
        yield from ((f"start.extend.{key}", folder) for key, folder in start.extend.folders.items())
    if start.specialists is not None:
        yield "start.specialists.base", start.specialists.base
    if start.build is not None:
        parts = start.build.model_dump()
        yield from ((f"start.build.{name}", part) for name, part in parts.items() if isinstance(part, str))
    if config.train.lora is not None and config.train.lora.adapter is not None:
        yield "train.lora.adapter", config.train.lora.adapter


__all__ = ["check_files", "check_output", "check_outputs", "refuse_finished", "start_folders"]
