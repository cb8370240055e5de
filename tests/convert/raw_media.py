"""Logits of a converted folder from raw media on, as a user comes by them."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny_processor import item, process, turn
from torch import Tensor
from transformers import AutoProcessor, DynamicCache

from unimoe import UniMoEForConditionalGeneration
from unimoe.checkpoint.loading import load_model

Media = Sequence[tuple[str, Any]]
"""Kind and medium, one after the other."""


def noise(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


class Converted:
    """A converted folder, loaded again; its prompt is `b` of the system, then media and `c?` of the user."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processor = folder, AutoProcessor.from_pretrained(folder)
        self.model = cache(self._model)

    def _model(self, dtype: torch.dtype) -> UniMoEForConditionalGeneration:
        model = load_model(self.folder, dtype=dtype)
        if dtype == torch.float64:
            model.set_experts_implementation("eager")  # grouped kernels know no float64
        return model

    def inputs(self, media: Media) -> dict[str, Any]:
        chat = [turn("b", role="system"), turn(*(item(*medium) for medium in media), "c?")]
        return dict(process(self.processor, chat, add_generation_prompt=True))

    def logits(self, media: Media, dtype: torch.dtype) -> Tensor:
        """Logits (S, V)."""
        return self.model(dtype)(**self.inputs(media)).logits[0]

    def logits_in_steps(self, media: Media, dtype: torch.dtype) -> Tensor:
        """Logits (S, V) of all but the last three tokens, then of each of these, on a cache."""
        inputs, cache, parts = self.inputs(media), DynamicCache(), []
        mask = inputs.pop("attention_mask")
        names = inputs.keys() & {"input_ids", "mm_token_type_ids", "position_ids"}
        tokens = {name: inputs.pop(name) for name in names}
        prompt = mask.shape[1] - 3
        for begin, end in [(0, prompt), *((step, step + 1) for step in range(prompt, prompt + 3))]:
            own = {name: value[..., begin:end] for name, value in tokens.items()}
            parts.append(self.model(dtype)(**own, **inputs, attention_mask=mask[:, :end], cache=cache).logits[0])
            inputs = {}
        return torch.cat(parts)
