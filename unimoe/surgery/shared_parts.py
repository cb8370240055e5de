"""What experts do not have of their own, when specialists become one model: from the base, or averaged."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..modeling_unimoe import UniMoEForConditionalGeneration

SharedParts = Literal["base", "average"]
_MEDIA = ("model.encoders.", "model.connectors.")


@torch.no_grad()
def combine_shared_parts(
    model: UniMoEForConditionalGeneration,
    base: UniMoEForConditionalGeneration,
    specialists: Sequence[tuple[str, UniMoEForConditionalGeneration]],
    *,
    how: SharedParts,
) -> dict[str, int]:
    """Put the shared parts of specialists into a model that has those of the base, in place.

    Args:
        model: Has all weights but those of feed-forwards that became experts.
        base: What the specialists started from.
        specialists: Each with the modality that it is of.
        how: `base`: leave attention, norms, embeddings, head and dense feed-forwards as they are, and take encoder
            and connector of a modality from its first specialist. `average`: the mean over base and specialists
            (Branch-Train-MiX, arXiv 2403.07816, section 2.2); of media parts, over the specialists of the modality.

    Returns:
        Modality -> weights of its specialists outside experts that differ from the base's, and were not taken.
    """
    weights, before = model.state_dict(), base.state_dict()
    states = [(key, specialist.state_dict()) for key, specialist in specialists]
    left: dict[str, int] = {}
    for name, value in before.items():
        if name not in weights:
            continue
        is_media = name.startswith(_MEDIA)
        own = [state[name] for key, state in states if f".{key}." in name] if is_media else []
        all_of_it = own if is_media else [value, *(state[name] for _, state in states)]
        taken = all_of_it if how == "average" else own[:1]
        if taken:
            weights[name].copy_(_mean(taken))
        for key, state in states:
            is_taken = any(state[name] is weight for weight in taken)
            left[key] = left.get(key, 0) + (not is_taken and not torch.equal(state[name], value))
    return {key: number for key, number in left.items() if number}


def _mean(values: Sequence[Tensor]) -> Tensor:
    """Average weights; of counters, such as a batch norm's, the first."""
    if not values[0].is_floating_point():
        return values[0]
    return torch.stack([value.double() for value in values]).mean(dim=0).to(values[0])


__all__ = ["SharedParts", "combine_shared_parts"]
