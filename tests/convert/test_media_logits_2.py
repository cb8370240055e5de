"""From raw media to logits, a converted Uni-MoE-2.0 computes what its code does; each of its rules is needed."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from raw_media import Converted, Media, noise
from reference.uni_moe_language import BOUNDS, Weights, distance
from reference.uni_moe_media import MediaOfV2, Places, omni_positions, splice
from reference_folder_2 import EXTRACTORS, LANGUAGE, SIDE, TILE, save_release, siglip_config, whisper_fields
from tiny_processor import sound
from torch import Tensor
from transformers import Qwen2Tokenizer, SiglipImageProcessor, WhisperConfig, WhisperFeatureExtractor

from unimoe.convert import read_release

SHORT = {"frames": [noise(seed, 40, 20) for seed in range(13)], "fps": 2.0}
LONG = {"frames": [noise(seed, 40, 20) for seed in range(60)], "fps": 1.0}
ROWS: dict[str, Media] = {
    "text": [],
    "a small picture": [("image", noise(0, 20, 9))],
    "a large picture": [("image", noise(1, 70, 50))],
    "a short clip": [("video", SHORT)],
    "a long clip": [("video", LONG)],
    "a sound": [("speech", sound(0.5))],
    "a picture and a sound": [("image", noise(2, 60, 20)), ("speech", sound(0.3))],
    "a long sound and a long clip": [("speech", sound(30.5)), ("video", LONG)],
}
AROUND = {
    "image": "<|vision_start|><|image_pad|><|vision_end|>\n",
    "video": "<|vision_start|><|video_pad|><|vision_end|>\n",
    "speech": "<|audio_start|><|audio_pad|><|audio_end|>\n",
}
GRIDS = [[rows, columns] for columns in (1, 2) for rows in (1, 2)]
EYE = SiglipImageProcessor(**{**EXTRACTORS, "size": {"height": TILE, "width": TILE}})
EAR = WhisperFeatureExtractor(**EXTRACTORS)


class Release:
    """A release of 2.0, converted, and the released code with the same weights."""

    def __init__(self, root: Path) -> None:
        self.weights = save_release(root / "release")
        read_release(root / "release").write(root / "out")
        self.tokenizer, self.ours = Qwen2Tokenizer.from_pretrained(root / "release"), Converted(root / "out")

    def prompt(
        self, row: str, dtype: torch.dtype = torch.float64, *, plain_sounds: bool = True, **rules: Any
    ) -> tuple[Weights, Tensor, Tensor]:
        """Weights, embeddings (S, D) and positions (3, S) of the released code, with rules left out."""
        weights = {name: weight.to(dtype) for name, weight in self.weights.items()}
        sizes = (siglip_config(), WhisperConfig(**whisper_fields()), EYE, EAR, SIDE, GRIDS)
        most = 32 if "speech" in dict(ROWS[row]) else 48
        reader = MediaOfV2(weights, *sizes, rate=1.0, least=8, most=most, **rules)
        media = "".join(AROUND[kind] for kind, _ in ROWS[row])
        text = f"<|im_start|>system\nb<|im_end|>\n<|im_start|>user\n{media}c?<|im_end|>\n<|im_start|>assistant\n"
        first, *others = (self.tokenizer(piece)["input_ids"] for piece in re.split(r"<\|\w+_pad\|>", text))
        pieces: list[list[int] | Tensor] = [first]
        parts = [("text", counted(first))]
        for (kind, medium), words in zip(ROWS[row], others, strict=True):
            tokens, places = reader.read(medium, kind)
            pieces += [tokens, words]
            parts += [(kind, places), ("text", counted(words))]
        return weights, splice(weights, pieces), omni_positions(parts, plain_sounds=plain_sounds)

    def theirs(self, row: str, dtype: torch.dtype = torch.float64, **rules: Any) -> Tensor:
        """Logits (S, V) of the released code, with rules left out."""
        return LANGUAGE.row(*self.prompt(row, dtype, **rules))


def counted(words: list[int]) -> Places:
    return [(number,) * 3 for number in range(len(words))]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return Release(tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("row", ROWS)
@torch.no_grad()
def test_logits_are_those_of_the_released_code(release: Release, row: str, dtype: torch.dtype) -> None:
    assert distance(release.ours.logits(ROWS[row], dtype), release.theirs(row, dtype)) <= BOUNDS[dtype]


@pytest.mark.parametrize("row", ROWS)
@torch.no_grad()
def test_positions_are_those_of_the_released_code(release: Release, row: str) -> None:
    ours = release.ours.inputs(ROWS[row])["position_ids"]  # (3, B, S)
    assert ours.equal(release.prompt(row)[2][:, None])


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@torch.no_grad()
def test_prefill_and_single_steps_on_a_cache_give_them_too(release: Release, dtype: torch.dtype) -> None:
    row = "a picture and a sound"
    assert distance(release.ours.logits_in_steps(ROWS[row], dtype), release.theirs(row, dtype)) <= BOUNDS[dtype]


RULES: list[tuple[str, dict[str, Any]]] = [
    ("a small picture", {"boxed": False}),
    ("a small picture", {"normed": True}),
    ("a small picture", {"pools_first": True}),
    ("a large picture", {"down": True}),
    ("a large picture", {"apart": True}),
    ("a short clip", {"rounding": math.floor}),
    ("a sound", {"causal": False}),
    ("a sound", {"plain_sounds": False}),
    ("a picture and a sound", {"group": 1}),
]


@pytest.mark.parametrize(("row", "rule"), RULES, ids=str)
@torch.no_grad()
def test_no_rule_can_be_left_out(release: Release, row: str, rule: dict[str, Any]) -> None:
    ours = release.ours.logits(ROWS[row], torch.float64)
    assert distance(ours, release.theirs(row, **rule)) > 10 * BOUNDS[torch.float64]
