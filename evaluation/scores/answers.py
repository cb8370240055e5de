"""Which answers were given, against those that were wanted: distinct ones with their counts, and a confusion table.

A model that has learned one word scores like a model that is right as often by chance; here the two look different.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..metrics import Metric
from ..tasks import Sample

MOST_ANSWERS = 50
"""Distinct answers that are listed, those given most often first; of the others only how many they are."""
MOST_CLASSES = 20
"""Classes of a confusion table, those wanted most often first."""


def read_answers(
    metric: Metric, samples: Sequence[Sample], predictions: Sequence[str]
) -> tuple[list[str | None], list[str]]:
    """Read what each prediction says, None where nothing could be read, and what each row wanted, alike.

    Args:
        metric: Which normalises both sides.
        samples: The rows.
        predictions: Of each row, without the thoughts of a model.
    """
    given = [metric.answer(sample, text) for sample, text in zip(samples, predictions, strict=True)]
    return given, [metric.answer(sample, sample.reference) or "" for sample in samples]


def count_answers(given: Sequence[str | None], wanted: Sequence[str]) -> dict[str, Any]:
    """Count distinct answers.

    Args:
        given: By each row, None where nothing could be read.
        wanted: By each row.

    Returns:
        `distinct_given` and `distinct_wanted`; `unparsed` rows; `counts`, for each answer how many rows gave and
        wanted it, most given first; `rest`, the same for all answers that are not listed; `confusion`, see there.
    """
    said, right = Counter(text for text in given if text is not None), Counter(wanted)
    order = sorted(said | right, key=lambda text: (-said[text], -right[text], text))
    rest = order[MOST_ANSWERS:]
    return {
        "distinct_given": len(said),
        "distinct_wanted": len(right),
        "unparsed": sum(text is None for text in given),
        "counts": [{"answer": text, "given": said[text], "wanted": right[text]} for text in order[:MOST_ANSWERS]],
        "rest": {
            "answers": len(rest),
            "given": sum(said[text] for text in rest),
            "wanted": sum(right[text] for text in rest),
        },
        "confusion": confusion(given, wanted),
    }


def confusion(given: Sequence[str | None], wanted: Sequence[str]) -> dict[str, Any] | None:
    """Count for each wanted answer what was given; None where the answers are no closed set.

    They are one if there are two or more and, on average, each is wanted by two rows or more.

    Returns:
        `classes`, most wanted first; `counts`, rows are the wanted, columns the given classes; `other_class`,
        `no_class` and `unparsed`, for each wanted class the answers that are a class that is not listed, are wanted by
        no row, and could not be read; `rest`, how many further classes there are, and how many rows want them.
    """
    sizes = Counter(wanted)
    if len(sizes) < 2 or 2 * len(sizes) > len(wanted):
        return None
    order = sorted(sizes, key=lambda text: (-sizes[text], text))
    classes = order[:MOST_CLASSES]
    pairs = Counter(zip(wanted, given, strict=True))
    return {
        "classes": classes,
        "counts": [[pairs[right, text] for text in classes] for right in classes],
        "other_class": [sum(pairs[right, text] for text in order[MOST_CLASSES:]) for right in classes],
        "no_class": [
            sum(count for (of, text), count in pairs.items() if of == right and text is not None and text not in sizes)
            for right in classes
        ],
        "unparsed": [pairs[right, None] for right in classes],
        "rest": {
            "classes": len(order) - len(classes),
            "rows": sum(sizes[text] for text in order[MOST_CLASSES:]),
        },
    }


__all__ = ["confusion", "count_answers", "read_answers"]
