"""Rows of a benchmark from a data set of the Hub, or from a folder that `datasets` reads."""

from dataclasses import replace
from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE

from ..errors import EvaluationError
from .benchmark import Benchmark
from .sample import Sample
from .source import Source


def read_hub(benchmark: Benchmark, source: Source) -> tuple[list[Sample], str]:
    """Read the rows of a benchmark.

    Args:
        benchmark: That has a data set there.
        source: Where media that come inside of rows are unpacked.

    Returns:
        The rows, and the fingerprint of what they were made of.

    Raises:
        EvaluationError: If the data set cannot be had, or a row is not as expected.
    """
    import datasets

    hub = benchmark.hub
    assert hub is not None
    try:
        rows = datasets.load_dataset(hub.dataset, hub.config, split=hub.split)
    except (ConnectionError, OSError, ValueError) as error:
        raise EvaluationError(
            f"{hub.dataset}, split {hub.split}: cannot be loaded ({type(error).__name__}: {error}). Check the network "
            "and access, or put the publisher's files into the data root and leave 'hub' out."
        ) from error
    caches = (Path(datasets.config.HF_DATASETS_CACHE).absolute(), Path(HF_HUB_CACHE).absolute())
    source = replace(source, caches=caches)  # where files of a data set that is a folder are
    media = [name for name, feature in rows.features.items() if isinstance(feature, _decoded(datasets))]
    for name in media:
        rows = rows.cast_column(name, type(rows.features[name])(decode=False))  # bytes and path, as in parquet
    parsed = (hub.layout.parse(row, f"{hub.dataset}[{number}]") for number, row in enumerate(rows))
    return benchmark.whole(parsed, source, where=f"{hub.dataset}, split {hub.split}"), str(rows._fingerprint)


def _decoded(datasets: object) -> tuple[type, ...]:
    return tuple(getattr(datasets, kind) for kind in ("Image", "Audio", "Video"))


__all__ = ["read_hub"]
