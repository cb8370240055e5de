"""Media among the tokens: whether each placeholder has a feature, and the modality of each token.

B batch, S sequence, D hidden size.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import torch_compilable_check

from ..errors import DataError
from ..modality import Modality
from .outputs import EncoderOutputs, UniMoEModelOutput


def units_of(encoded: EncoderOutputs, modality: Modality) -> tuple[Tensor, ...]:
    """Take the embeddings (tokens, D) of each unit of a `modality` in what was `encoded`; without media, none."""
    output = encoded.get(modality.key)
    return () if output is None else tuple(output.pooler_output)


def with_media(output: UniMoEModelOutput, encoded: EncoderOutputs) -> UniMoEModelOutput:
    """Complete the language model's `output` by what encoders and connectors gave (`encoded`)."""
    for key, media in encoded.items():
        output[Modality.from_key(key).output_name] = media
    return output


_COMPILED_MISMATCH = (
    "The placeholder tokens and features of a modality differ in number. Pass every feature that the processor "
    "returned, and do not truncate the processed text; a forward that is not compiled names both counts."
)


def check_counts(placeholders: Mapping[Modality, Tensor], encoded: EncoderOutputs) -> None:
    """Refuse placeholders and features that differ in number; one look at the device for all modalities.

    Args:
        placeholders: Where they stand, (B, S), by modality.
        encoded: What encoders and connectors gave.

    Raises:
        DataError: With both counts.
        RuntimeError: In a compiled forward, whose errors are texts that stand before it runs: without the counts.
    """
    if not placeholders:
        return
    features = {modality: sum(map(len, units_of(encoded, modality))) for modality in placeholders}
    meet = torch.stack([mask.sum() == features[modality] for modality, mask in placeholders.items()]).all()
    if torch.compiler.is_compiling():
        # On the CPU: an assertion that fails on a GPU ends the process.
        torch._assert_async(meet.cpu(), _COMPILED_MISMATCH)
    else:
        torch_compilable_check(meet, partial(_mismatch, placeholders, features), DataError)


def _mismatch(placeholders: Mapping[Modality, Tensor], features: Mapping[Modality, int]) -> str:
    """Name the first modality whose placeholders and features differ in number."""
    counts = {modality: int(mask.sum()) for modality, mask in placeholders.items()}
    modality, count = next((m, count) for m, count in counts.items() if count != features[m])
    key, name = modality.key, modality.feature_name
    cure = f"Pass each {key} once" if features[modality] else f"Pass the {name} that the processor returned"
    return (
        f"Found {count} {key} placeholder token(s) but {features[modality]} {key} feature(s). {cure}, and do not "
        "truncate the processed text."
    )


def zero_length_pass(connector: nn.Module, encoder: Any) -> Tensor:
    """Run a connector on no input: 0, with a gradient path to its parameters.

    Processes whose batches lack a modality must still agree with the others about which parameters took part.

    Args:
        connector: Of the modality.
        encoder: Configuration of its encoder.
    """
    no_tokens = next(connector.parameters()).new_zeros(0, encoder.num_tokens, encoder.hidden_size)
    total: Tensor = connector(no_tokens).sum()
    return total


def modality_ids(placeholders: dict[Modality, Tensor]) -> Tensor | None:
    """Read the `Modality` of each token (B, S) from the placeholder masks; None if the model takes text only."""
    ids = [mask.long() * int(modality) for modality, mask in placeholders.items()]
    return torch.stack(ids).sum(dim=0) if ids else None


__all__ = ["check_counts", "modality_ids", "units_of", "with_media", "zero_length_pass"]
