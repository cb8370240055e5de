"""From raw media to logits, converted releases compute what the released code does; each of its rules is needed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference.uni_moe_media import MediaOfV1, splice
from reference_folders import PIECES, RELEASES
from released import Released, convert_release, loaded
from tiny_processor import item, process, sound, turn
from torch import Tensor
from transformers import AutoProcessor, DynamicCache, LlamaTokenizer

from unimoe import UniMoEForConditionalGeneration
from unimoe.checkpoint.loading import load_model

BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-7}
"""Difference of logits, of the largest one."""


def picture(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


MEDIA = {
    "a picture": [("image", picture(0))],
    "a clip": [("video", [picture(seed) for seed in (1, 2, 3)])],
    "a sound": [("sound", sound(0.4))],
    "a clip and a sound": [("video", [picture(4), picture(5, 90)]), ("sound", sound(0.3))],
    "a sound and a picture": [("sound", sound(1.0)), ("image", picture(6, 20, 70))],
}
SPEECH_WINDOW = 16_000
LONG = {"speech": sound(1.3), "audio": sound(30.5)}
"""Of two windows: that of Whisper is 1 s here, that of BEATs 30 s."""


class Converted:
    """A converted release, and the released code with the same weights."""

    def __init__(self, released: Released) -> None:
        self.released, self.root = released, released.root
        self.sound = "audio" if released.name == "v1-audio" else "speech"
        self.processor = AutoProcessor.from_pretrained(self.root / "out")
        self.tokenizer = LlamaTokenizer.from_pretrained(self.root / "base", legacy=True, add_bos_token=True)
        self.model, self.weights = cache(self._model), cache(self._weights)

    def media(self, name: str) -> list[tuple[str, Any]]:
        long = LONG[self.sound]
        sounds = {"a long sound": long, "a long sound less a sample": np.delete(long, SPEECH_WINDOW)}
        found = [("sound", sounds[name])] if name in sounds else MEDIA[name]
        return [(self.sound if kind == "sound" else kind, medium) for kind, medium in found]

    def inputs(self, name: str) -> dict[str, Any]:
        chat = [turn("b", role="system"), turn(*(item(*medium) for medium in self.media(name)), "c?")]
        return dict(process(self.processor, chat, add_generation_prompt=True))

    def ours(self, name: str, dtype: torch.dtype) -> Tensor:
        """Logits (S, V) of the converted model."""
        return self.model(dtype)(**self.inputs(name)).logits[0, :, : len(PIECES)]

    def theirs(
        self,
        name: str,
        dtype: torch.dtype = torch.float64,
        *,
        media: dict[str, Any] | None = None,
        language: dict[str, Any] | None = None,
        weights: dict[str, Any] | None = None,
    ) -> Tensor:
        """Logits (S, V) of the released code, with rules left out; no sample is lost between windows of speech."""
        held = self.weights(dtype, **weights or {})
        reader = replace(MediaOfV1(self.root, held, lost=0), **media or {})
        pieces: list[list[int] | Tensor] = [self.tokenizer("b USER: ")["input_ids"]]
        for kind, medium in self.media(name):
            pieces += [reader.read(medium, kind), self.tokenizer("\n")["input_ids"][1:]]
        pieces[-1] = self.tokenizer("\nc? ASSISTANT:")["input_ids"][1:]
        embeddings = splice(held, pieces)
        positions = torch.arange(len(embeddings)).expand(3, -1)
        return replace(self.released.language, **language or {}).row(held, embeddings, positions)

    def _model(self, dtype: torch.dtype) -> UniMoEForConditionalGeneration:
        model = load_model(self.root / "out", dtype=dtype)
        if dtype == torch.float64:
            model.set_experts_implementation("eager")  # grouped kernels know no float64
        return model

    def _weights(self, dtype: torch.dtype, **options: Any) -> dict[str, Tensor]:
        return {name: weight.to(dtype) for name, weight in loaded(self.released, **options).items()}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Converted]:
    return cache(lambda name: Converted(convert_release(name, tmp_path_factory.mktemp("release"))))


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, of the largest logit."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("media", [*MEDIA, "a long sound"])
@pytest.mark.parametrize("release", RELEASES)
@torch.no_grad()
def test_logits_are_those_of_the_released_code(
    converted: Callable[[str], Converted], release: str, media: str, dtype: torch.dtype
) -> None:
    one = converted(release)
    assert distance(one.ours(media, dtype), one.theirs(media, dtype)) <= BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("release", RELEASES)
@torch.no_grad()
def test_prefill_and_single_steps_on_a_cache_give_them_too(
    converted: Callable[[str], Converted], release: str, dtype: torch.dtype
) -> None:
    one, name, cache = converted(release), "a clip and a sound", DynamicCache()
    inputs = one.inputs(name)
    ids, mask, kinds = (inputs.pop(key) for key in ("input_ids", "attention_mask", "mm_token_type_ids"))
    parts, prompt = [], ids.shape[1] - 3
    for begin, end in [(0, prompt), *((step, step + 1) for step in range(prompt, prompt + 3))]:
        media = inputs if begin == 0 else {}
        tokens = {"input_ids": ids[:, begin:end], "mm_token_type_ids": kinds[:, begin:end]}
        parts.append(one.model(dtype)(**tokens, **media, attention_mask=mask[:, :end], cache=cache).logits)
    assert distance(torch.cat(parts, dim=1)[0, :, : len(PIECES)], one.theirs(name, dtype)) <= BOUNDS[dtype]


@torch.no_grad()
def test_a_sample_that_the_released_code_loses_between_windows_is_all_that_differs(
    converted: Callable[[str], Converted],
) -> None:
    one, dtype = converted("v1-speech"), torch.float64
    theirs = one.theirs("a long sound", dtype, media={"lost": 1})
    assert distance(one.ours("a long sound less a sample", dtype), theirs) <= BOUNDS[dtype]


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


@pytest.mark.parametrize(("release", "media", "change"), RULES, ids=str)
@torch.no_grad()
def test_no_rule_can_be_left_out(
    converted: Callable[[str], Converted], release: str, media: str, change: dict[str, Any]
) -> None:
    one = converted(release)
    assert distance(one.ours(media, torch.float64), one.theirs(media, **change)) > 10 * BOUNDS[torch.float64]
