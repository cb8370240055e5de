"""The control for "does it really look": every question is asked about another question's media."""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from ..errors import EvaluationError
from .sample import Message, Sample, media_signature

Media = list[Message]


def has_media(samples: list[Sample]) -> bool:
    """Tell whether any row has something else than text."""
    return any(sample.media for sample in samples)


def shuffle_media(samples: list[Sample], *, seed: int) -> list[Sample]:
    """Exchange the media among the rows so that no row keeps its own.

    The distinct media are permuted in one random cycle (Sattolo's algorithm), so rows that shared a picture share
    another one. Rows exchange with rows that have the same kinds of media in the same order; where no other row has,
    single media are taken from any other rows. The other row's answer may be the same by chance. Rows without media
    stay.

    Raises:
        EvaluationError: If there is nothing to exchange a row's media with.
    """
    groups: dict[tuple[str, ...], dict[str, Media]] = defaultdict(dict)
    for sample in samples:
        media = sample.media
        groups[_kinds(media)][media_signature(media)] = media
    generator = np.random.default_rng(seed)
    donors: dict[str, Media] = {}
    for kinds, distinct in groups.items():
        if len(distinct) > 1:
            donors |= _exchange(distinct, generator) if kinds else {}
        else:
            ((signature, media),) = distinct.items()
            donors[signature] = _from_others(media, samples, generator)
    return [_with_media(sample, donors) for sample in samples]


def _kinds(media: Media) -> tuple[str, ...]:
    return tuple(item["type"] for item in media)


def _from_others(own: Media, samples: list[Sample], generator: np.random.Generator) -> Media:
    """Draw media of the same kinds, none of which is among a row's own."""
    mine = {media_signature([item]) for item in own}
    others = {media_signature([item]): item for sample in samples for item in sample.media}
    found = []
    for item in own:
        fit = [other for key, other in others.items() if key not in mine and other["type"] == item["type"]]
        if not fit:
            raise EvaluationError(
                f"media cannot be shuffled: no other row has the medium {item['type']}. Run without --shuffled-media."
            )
        found.append(fit[int(generator.integers(len(fit)))])
    return found


def _exchange(distinct: dict[str, Media], generator: np.random.Generator) -> dict[str, Media]:
    signatures = list(distinct)
    order = list(signatures)
    for last in range(len(order) - 1, 0, -1):
        other = int(generator.integers(last))  # never `last` itself: one cycle, so no fixed point
        order[last], order[other] = order[other], order[last]
    return {own: distinct[other] for own, other in zip(signatures, order, strict=True)}


def _with_media(sample: Sample, donors: dict[str, Media]) -> Sample:
    media = sample.media
    if not media:
        return sample
    items = iter(donors[media_signature(media)])
    messages = tuple(
        {**message, "content": [part if part["type"] == "text" else next(items) for part in message["content"]]}
        for message in sample.messages
    )
    return replace(sample, messages=messages)


__all__ = ["has_media", "shuffle_media"]
