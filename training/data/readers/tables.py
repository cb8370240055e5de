"""Rows of `datasets`: parquet files, folders of `save_to_disk`, data sets of the Hub. Media stay bytes, undecoded."""

import json
import re
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

from unimoe.errors import DataError
from unimoe.errors.suggest import did_you_mean

from ...config.data import SourceConfig

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SAVED = ("state.json", "dataset_dict.json")


def is_table(path: str) -> bool:
    """Whether a path names a table: a .parquet file or several (a folder, a pattern), a saved folder, or a Hub id."""
    if path.endswith(".parquet"):
        return True
    return Path(path).is_dir() or (not Path(path).exists() and not Path(path).suffix and bool(_HUB_ID.fullmatch(path)))


class Table:
    """Rows of a table by number, each brought from the disk when it is asked for.

    Raises:
        DataError: If there is no such table or split.
    """

    def __init__(self, config: SourceConfig) -> None:
        dataset = load_table(config)
        self.path = config.path
        self.columns = list(dataset.column_names)
        self.fingerprint = str(getattr(dataset, "_fingerprint", ""))
        self._json = json_columns(dataset.features)
        self._rows = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, number: int) -> str:
        """Table and number of a row."""
        return f"{self.path}: row {number}"

    def values(self, number: int) -> dict[str, Any]:
        """Read what a row holds; media are {"bytes", "path"}."""
        return read_json_columns(self._rows[number : number + 1].to_pylist()[0], self._json)


def stream_table(config: SourceConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and values of each row of a table, in order; nothing is read ahead.

    Raises:
        DataError: If there is no such table or split.
    """
    dataset = load_table(config, streaming=True)
    found = json_columns(dataset.features or {})
    if dataset.features is not None:
        dataset = dataset.decode(False)
    for number, values in enumerate(dataset):
        yield f"{config.path}: row {number}", read_json_columns(values, found)


def load_table(config: SourceConfig, *, streaming: bool = False) -> Any:
    """Load one split of a table with `datasets`.

    Raises:
        DataError: If there is no such table or split.
    """
    path = Path(config.path)
    files = parquet_files(config.path)
    if not files and path.is_dir() and not any((path / name).is_file() for name in _SAVED):
        raise DataError(
            config.path,
            "the folder holds neither parquet files nor what `save_to_disk` writes.",
            "Name a .jsonl, .json or .parquet file.",
        )
    if config.path.endswith(".parquet") and not files:
        raise DataError(f"There is no data file {config.path!r}. Correct its path in the mixture.")
    from datasets import load_dataset, load_from_disk

    try:
        if files:
            return load_dataset("parquet", data_files=files, split="train", streaming=streaming)
        if path.is_dir():
            loaded = load_from_disk(config.path)
            return _to_stream(_one_split(loaded, config)) if streaming else _one_split(loaded, config)
        return _one_split(load_dataset(config.path, config.subset, streaming=streaming), config)
    except DataError:
        raise
    except Exception as error:  # what can go wrong between here and the Hub has no common type
        cure = "Correct the path of the data, or load it once where the Hub can be reached."
        raise DataError(config.path, f"cannot be loaded ({' '.join(str(error).split())}).", cure) from error


def _to_stream(dataset: Any) -> Any:
    return dataset.to_iterable_dataset()


def parquet_files(path: str) -> list[str]:
    """Return the .parquet files of a folder, or of a pattern."""
    found = [str(file) for file in Path(path).glob("*.parquet")] if Path(path).is_dir() else []
    if not Path(path).is_dir() and path.endswith(".parquet"):
        found = glob(path)
    return sorted(file for file in found if Path(file).is_file())  # pipes would be waited for


def _one_split(loaded: Any, config: SourceConfig) -> Any:
    """Return the split that is asked for; without a wish, the only one."""
    splits = loaded if isinstance(loaded, dict) else {str(getattr(loaded, "split", None) or "train"): loaded}
    if config.split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if config.split is None:
        cure = f"Choose one with `split`: {', '.join(splits)}."
        raise DataError(config.path, f"there are {len(splits)} splits.", cure, key="split")
    if config.split not in splits:
        cure = did_you_mean(config.split, splits).strip()
        raise DataError(config.path, f"there is no split {config.split!r}.", cure, key="split")
    return splits[config.split]


def json_columns(features: Any) -> dict[str, Any]:
    """Columns that hold JSON as text somewhere, as `datasets` writes contents that are now a string, now a list."""
    return {name: feature for name, feature in dict(features).items() if _has_json(feature)}


def _has_json(feature: Any) -> bool:
    from datasets import Json

    if isinstance(feature, Json):
        return True
    if isinstance(feature, dict):
        return any(_has_json(part) for part in feature.values())
    if isinstance(feature, list):
        return any(map(_has_json, feature))
    inner = getattr(feature, "feature", None)
    return inner is not None and _has_json(inner)


def read_json_columns(values: dict[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
    """Parse the texts of a row that hold JSON."""
    return {name: _parsed(value, columns[name]) if name in columns else value for name, value in values.items()}


def _parsed(value: Any, feature: Any) -> Any:
    from datasets import Json

    if value is None:
        return None
    if isinstance(feature, Json):
        return _from_json(value) if isinstance(value, str | bytes) else value
    if isinstance(feature, dict):
        return {name: _parsed(part, feature[name]) for name, part in value.items()}
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return value if inner is None else [_parsed(part, inner) for part in value]


def _from_json(text: str | bytes) -> Any:
    """Parse what `datasets` has written; a text that it has not is left as it is, and no format takes it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


__all__ = ["Table", "is_table", "parquet_files", "stream_table"]
