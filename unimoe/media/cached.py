"""Media whose encoders have run already: their tokens, and the measures by which they stand in the text."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor


class Measures(NamedTuple):
    """What decides how many tokens stand for a medium, and where in time and space.

    Args:
        size: Width and height of a picture, pixels.
        times: Of the sampled frames of a clip, s, (frames,).
        samples: Of a sound, or of the sound track of a clip (0: it is not heard), at the rate of its extractor.
    """

    size: tuple[int, int] = (0, 0)
    times: np.ndarray = np.zeros(0)
    samples: int = 0


class CachedMedium:
    """A medium that the processor takes like any other, and hands to the model as `encoder_states` without loading it.

    (transformers makes a dict of every dataclass in a message, so this is none.)

    Args:
        measures: Of the medium. Those that belong to what is not encoded are taken from the medium itself.
        states: What the encoder gave, (units, tokens, C), by modality key: one, or of a clip with a sound track both.
        medium: Of a clip of which only the frames, or only the sound, are encoded: the clip, for the other.
    """

    def __init__(self, measures: Measures, states: Mapping[str, Tensor] | None = None, medium: Any = None) -> None:
        self.measures = measures
        self.states = states or {}
        self.medium = medium


__all__ = ["CachedMedium", "Measures"]
