"""Rows of a benchmark from a data set of the Hub, or from a folder that `datasets` reads."""

from ..errors import EvaluationError
from .benchmark import Hub
from .sample import Sample
from .source import Source


def read_hub(hub: Hub, source: Source) -> tuple[list[Sample], str]:
    """Read the rows of a benchmark.

    Args:
        hub: The data set.
        source: Where media that come inside of rows are unpacked.

    Returns:
        The rows, and the fingerprint of what they were made of.

    Raises:
        EvaluationError: If the data set cannot be had, or a row is not as expected.
    """
    import datasets

    try:
        rows = datasets.load_dataset(hub.dataset, hub.config, split=hub.split)
    except (ConnectionError, OSError, ValueError) as error:
        raise EvaluationError(
            f"{hub.dataset}, split {hub.split}: cannot be loaded ({type(error).__name__}: {error}). Check the network "
            "and access, or put the publisher's files into the data root and leave 'hub' out."
        ) from error
    media = {name for name, feature in rows.features.items() if isinstance(feature, _decoded(datasets))}
    for name in media:
        rows = rows.cast_column(name, type(rows.features[name])(decode=False))  # bytes and path, as in parquet
    samples: dict[str, Sample] = {}
    for number, row in enumerate(rows):
        where = f"{hub.dataset}[{number}]"
        sample = hub.row(row, where, source)
        if sample.id in samples:
            raise EvaluationError(f"{where}: id {sample.id!r} appears twice, before at {samples[sample.id].where}")
        samples[sample.id] = sample
    return list(samples.values()), str(rows._fingerprint)


def _decoded(datasets: object) -> tuple[type, ...]:
    return tuple(getattr(datasets, kind) for kind in ("Image", "Audio", "Video"))


__all__ = ["read_hub"]
