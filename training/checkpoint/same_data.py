"""Tells whether the data of a stage are those that it was begun with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from unimoe.errors import ConfigError, UniMoEError
from unimoe.files.strict_json import parse_json
from unimoe.files.writing import write_whole

from ..config.stage import StageConfig
from ..data import MixtureDataset
from ..data.identity import count_rows, describe_source, digest_of_files
from ..data.media_digest import Facts
from ..distributed.processes import launched
from ..monitor.progress import track

DATA_FILE = "data.json"
"""File of a stage's output that says what its data were."""


def describe_data(
    config: StageConfig, dataset: MixtureDataset, validation: MixtureDataset | None, console: Console
) -> list[Facts]:
    """Say what the data of a stage are: SHA-256 of files, names and sizes of media; only the first process looks.

    Args:
        config: The stage.
        dataset: Rows that train.
        validation: Validation rows.
        console: Where progress goes.

    Raises:
        DataError: If a file cannot be read.
    """
    if launched()[0] > 0:
        return []
    sources = [*zip(config.data.mixture, dataset.sources, strict=True)]
    if validation is not None:
        sources += zip(config.data.validation, validation.sources, strict=True)
    return [
        describe_source(described, source)
        for described, source in track(sources, len(sources), "hashing data", console)
    ]


def write_data(config: StageConfig, data: list[Facts]) -> None:
    """Note in the output what the data of its stage are."""
    write_whole(Path(config.output) / DATA_FILE, json.dumps(data, indent=1) + "\n")


def read_data_facts(output: str | Path) -> list[Facts] | None:
    """Read what the data of a stage were; None if it was begun before that was noted.

    Raises:
        ConfigError: If the file is damaged.
    """
    noted: list[Facts] | None = read_noted(Path(output) / DATA_FILE, _is_whole, "data are")
    return noted


def read_noted(path: Path, is_whole: Callable[[Any], bool], what: str) -> Any:
    """Read what a stage noted of what it was begun with; None if it was begun before that was noted.

    Args:
        path: JSON.
        is_whole: Whether what it holds is what was written.
        what: It was begun with, such as "data are".

    Raises:
        ConfigError: If the file is damaged.
    """
    if not path.exists():
        return None
    try:
        noted = parse_json(path.read_bytes(), where=str(path))
        if not is_whole(noted):
            raise ConfigError(str(path), f"it does not say what the {what}.")
    except (OSError, UniMoEError) as error:
        problem = f"is damaged ({getattr(error, 'problem', '') or error})."
        cure = f"Bring it back, or remove it if the {what} certainly as at the beginning."
        raise ConfigError(str(path), problem, cure) from None
    return noted


def _is_whole(noted: Any) -> bool:
    return isinstance(noted, list) and all(map(_is_source, noted))


def _is_source(facts: Any) -> bool:
    media = facts.get("media", {}) if isinstance(facts, dict) else None
    return (
        isinstance(media, dict)
        and isinstance(facts.get("sha256"), str)
        and isinstance(facts.get("path"), str)
        and isinstance(facts.get("rows"), int | None)
    )


def check_same_data(config: StageConfig, data: list[Facts]) -> None:
    """Refuse to go on with data that changed; where they lie does not count.

    Args:
        config: The stage.
        data: What they are now, from `describe_data`.

    Raises:
        ConfigError: With the file, and its rows then and now; or naming media that are others.
    """
    for then, now in zip(read_data_facts(config.output) or [], data, strict=False):
        if then["sha256"] != now["sha256"]:
            raise _changed(config, then, now)
        if then.get("media") != now.get("media"):
            raise ConfigError(
                f"the media of {now['path']} ({_rows(now)}) have changed since {config.output} was begun",
                f"they were {_media(then)}, and are {_media(now)}; names or sizes differ.",
                _CURE,
            )


def check_data_of_complete(config: StageConfig) -> None:
    """Refuse to skip a finished stage whose data files are there and have changed; media are not looked at.

    Raises:
        ConfigError: With the file, and its rows then and now.
    """
    if launched()[0] > 0:
        return
    sources = [*config.data.mixture, *config.data.validation]
    for then, source in zip(read_data_facts(config.output) or [], sources, strict=False):
        sha256 = digest_of_files(source)
        if sha256 not in (None, then["sha256"]):
            rows = None if source.stream else count_rows(source)
            raise _changed(config, then, {"path": source.path, "sha256": sha256, "rows": rows})


def _changed(config: StageConfig, then: Facts, now: Facts) -> ConfigError:
    digests = f"SHA-256 {then['sha256'][:12]}... then, {now['sha256'][:12]}... now"
    problem = f"it had {_rows(then)}, and has {_rows(now)} ({digests})."
    return ConfigError(f"{now['path']} has changed since {config.output} was begun", problem, _CURE)


_CURE = "Bring them back as they were, or remove the output to begin again."


def _rows(facts: Facts) -> str:
    return "rows that are not counted" if facts["rows"] is None else f"{facts['rows']:,} rows"


def _media(facts: Facts) -> str:
    media = facts.get("media") or {}
    return f"{media.get('files', 0):,} files of {media.get('bytes', 0):,} bytes"


__all__ = [
    "DATA_FILE",
    "check_data_of_complete",
    "check_same_data",
    "describe_data",
    "read_data_facts",
    "read_noted",
    "write_data",
]
