"""From raw media to logits, converted releases compute what the released code does; each of its rules is needed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from raw_media import Converted, Media, noise
from reference.uni_moe_language import BOUNDS, distance
from reference.uni_moe_media import MediaOfV1, splice
from reference_folders import PIECES, RELEASES
from released import Released, convert_release, loaded
from tiny_processor import sound
from torch import Tensor
from transformers import LlamaTokenizer

MEDIA: dict[str, Media] = {
    "text": [],
    "a picture": [("image", noise(0))],
    "a clip": [("video", [noise(seed) for seed in (1, 2, 3)])],
    "a sound": [("sound", sound(0.4))],
    "a clip and a sound": [("video", [noise(4), noise(5, 90)]), ("sound", sound(0.3))],
    "a sound and a picture": [("sound", sound(1.0)), ("image", noise(6, 20, 70))],
}
SPEECH_WINDOW = 16_000
LONG = {"speech": sound(1.3), "audio": sound(30.5)}
"""Of two windows: that of Whisper is 1 s here, that of BEATs 30 s."""


class Release:
    """A converted release, and the released code with the same weights."""

    def __init__(self, released: Released) -> None:
        self.released, self.ours = released, Converted(released.root / "out")
        self.tokenizer = LlamaTokenizer.from_pretrained(released.root / "base", legacy=True, add_bos_token=True)
        self.weights = cache(self._weights)

    def media(self, row: str) -> Media:
        sense = "audio" if self.released.name == "v1-audio" else "speech"
        sounds = {"a long sound": LONG[sense], "a long sound less a sample": np.delete(LONG[sense], SPEECH_WINDOW)}
        found = [("sound", sounds[row])] if row in sounds else MEDIA[row]
        return [(sense if kind == "sound" else kind, medium) for kind, medium in found]

    def theirs(
        self,
        row: str,
        dtype: torch.dtype = torch.float64,
        *,
        media: dict[str, Any] | None = None,
        language: dict[str, Any] | None = None,
        weights: dict[str, Any] | None = None,
    ) -> Tensor:
        """Logits (S, V) of the released code, with rules left out; no sample is lost between windows of speech."""
        held = self.weights(dtype, **weights or {})
        reader = replace(MediaOfV1(self.released.root, held, lost=0), **media or {})
        text = "b USER: " + "<image>\n" * len(self.media(row)) + "c? ASSISTANT:"
        first, *others = (self.tokenizer(piece)["input_ids"] for piece in text.split("<image>"))
        pieces: list[list[int] | Tensor] = [first]
        for (kind, medium), words in zip(self.media(row), others, strict=True):
            pieces += [reader.read(medium, kind), words[1:]]
        embeddings = splice(held, pieces)
        positions = torch.arange(len(embeddings)).expand(3, -1)
        return replace(self.released.language, **language or {}).row(held, embeddings, positions)

    def distance(self, row: str, dtype: torch.dtype = torch.float64, **change: Any) -> float:
        """Between logits of what was converted and of the released code, without placeholders."""
        return distance(self.ours.logits(self.media(row), dtype)[:, : len(PIECES)], self.theirs(row, dtype, **change))

    def _weights(self, dtype: torch.dtype, **options: Any) -> dict[str, Tensor]:
        return {name: weight.to(dtype) for name, weight in loaded(self.released, **options).items()}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Release]:
    return cache(lambda name: Release(convert_release(name, tmp_path_factory.mktemp("release"))))


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("row", [*MEDIA, "a long sound"])
@pytest.mark.parametrize("name", RELEASES)
@torch.no_grad()
def test_logits_are_those_of_the_released_code(
    releases: Callable[[str], Release], name: str, row: str, dtype: torch.dtype
) -> None:
    assert releases(name).distance(row, dtype) <= BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", RELEASES)
@torch.no_grad()
def test_prefill_and_single_steps_on_a_cache_give_them_too(
    releases: Callable[[str], Release], name: str, dtype: torch.dtype
) -> None:
    one, row = releases(name), "a clip and a sound"
    ours = one.ours.logits_in_steps(one.media(row), dtype)[:, : len(PIECES)]
    assert distance(ours, one.theirs(row, dtype)) <= BOUNDS[dtype]


@torch.no_grad()
def test_a_sample_that_the_released_code_loses_between_windows_is_all_that_differs(
    releases: Callable[[str], Release],
) -> None:
    one, dtype = releases("v1-speech"), torch.float64
    ours = one.ours.logits(one.media("a long sound less a sample"), dtype)[:, : len(PIECES)]
    assert distance(ours, one.theirs("a long sound", media={"lost": 1})) <= BOUNDS[dtype]


RULES: Sequence[tuple[str, str, dict[str, Any]]] = [
    ("v1-speech", "a picture", {"media": {"layer": -1}}),
    ("v1-speech", "a picture", {"media": {"first": 0}}),
    ("v1-speech", "a picture", {"media": {"gelu": "tanh"}}),
    ("v1-speech", "a clip", {"media": {"mean_in_front": True}}),
    ("v1-speech", "a sound", {"media": {"causal": False}}),
    ("v1-speech", "a long sound", {"media": {"lost": 1}}),
    ("v1-speech", "a picture", {"language": {"eps": 1e-6}}),
    ("v1-speech", "a picture", {"language": {"theta": 1e6}}),
    ("v1-speech", "a picture", {"language": {"renormalises": False}}),
    ("v1-speech", "a picture", {"language": {"chosen": 1}}),
    ("v1-speech", "a picture", {"weights": {"scale": 1.0}}),
    ("v1-audio", "a sound", {"media": {"window": 478_720}}),
    ("v1-audio", "a sound", {"media": {"repeats": False}}),
    ("v1-audio", "a sound", {"media": {"masks": False}}),
    ("v1-audio", "a sound", {"media": {"masks_queries": True}}),
    ("v1-audio", "a sound", {"media": {"mean": 15.4}}),
    ("v1-audio", "a sound", {"media": {"std": 6.55582 / 2}}),
    ("v1-audio", "a picture", {"weights": {"tunes_routers": True}}),
    ("v1.5", "a picture", {"weights": {"tunes_routers": True}}),
    ("8e", "a picture", {"language": {"renormalises": False}}),
    ("8e", "a picture", {"weights": {"scale": 1.0}}),
]


@pytest.mark.parametrize(("name", "row", "change"), RULES, ids=str)
@torch.no_grad()
def test_no_rule_can_be_left_out(
    releases: Callable[[str], Release], name: str, row: str, change: dict[str, Any]
) -> None:
    assert releases(name).distance(row, **change) > 10 * BOUNDS[torch.float64]
