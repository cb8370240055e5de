"""From raw media to what Uni-MoE's released code splices into its language model, slowly: one picture, window or frame
at a time.

It is written from a description of the code of HITsz-TMG/Uni-MoE (v1, 8e) and of Uni-MoE-2.0, shares no line with
`unimoe` but BEATs', and takes weights under the names of the released files. Towers are transformers' own. The
defaults of options are what the released code does; other values leave a rule out. Q queries, C width of a tower, D
hidden size of the language model.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encoders.beats_reference import padding
from PIL import Image
from torch import Tensor, nn
from torchaudio.compliance.kaldi import fbank
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    CLIPImageProcessor,
    CLIPVisionModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from unimoe.encoders.beats_checkpoint import load_beats_checkpoint

from .uni_moe_language import Weights, linear

RATE = 16_000
Places = list[tuple[int, int, int]]
"""Time, row and column of each token of a medium, from its start."""


def splice(weights: Weights, pieces: Sequence[list[int] | Tensor]) -> Tensor:
    """Embeddings (S, D) of a prompt: ids of text, and tokens of media (n, D) where their placeholders stood."""
    words = weights["model.embed_tokens.weight"]
    return torch.cat([words[piece] if isinstance(piece, list) else piece for piece in pieces])


def two_layers(weights: Weights, name: str, states: Tensor, gelu: str = "none") -> Tensor:
    """`mlp2x_gelu`: the layers `name`.0 and `name`.2 with a GELU between, which is exact."""
    first, second = ((weights[f"{name}.{at}.weight"], weights[f"{name}.{at}.bias"]) for at in (0, 2))
    return linear(nn.functional.gelu(linear(states, *first), approximate=gelu), *second)


def ask(decoder: Any, queries: Tensor, features: Tensor, *, causal: bool = True) -> Tensor:
    """What queries (Q, C) in the place of words read in features (L, C) through Whisper's decoder, (Q, C).

    As words, they have positions, and a query sees those before it alone.
    """
    unseen = torch.full((len(queries), len(queries)), -torch.inf, dtype=queries.dtype).triu(1)
    mask = unseen if causal else torch.zeros_like(unseen)
    states = (queries + decoder.embed_positions.weight[: len(queries)])[None]
    for layer in decoder.layers:
        states = layer(states, attention_mask=mask[None, None], encoder_hidden_states=features[None])
    return decoder.layer_norm(states)[0]


def below(weights: Weights, start: str) -> Weights:
    """Weights whose names start so, under the rest of their names."""
    return {name.removeprefix(start): weight for name, weight in weights.items() if name.startswith(start)}


@dataclass(frozen=True)
class MediaOfV1:
    """Media of v1 and 8e. Towers come from their own folders, all else from the released files.

    Args:
        root: With `clip/` and `whisper/` or `BEATs.pt`.
        layer: Of CLIP's hidden states.
        first: The first of CLIP's tokens that is taken: 1 leaves the class token out. 0 leaves the last patch out.
        mean_in_front: Frames are averaged in front of the projector.
        lost: Samples that are lost between windows of speech.
        causal: As for `ask`.
        window: Samples in a window of audio.
        repeats: A last window of audio goes on with its last sample; otherwise with silence.
        masks: No patch attends to those of padding.
        masks_queries: Queries do not either.
        mean, std: Of log-mel values.
    """

    root: Path
    weights: Weights
    layer: int = -2
    first: int = 1
    gelu: str = "none"
    mean_in_front: bool = False
    lost: int = 1
    causal: bool = True
    window: int = 480_000
    repeats: bool = True
    masks: bool = True
    masks_queries: bool = False
    mean: float = 15.41663
    std: float = 6.55582

    @property
    def dtype(self) -> torch.dtype:
        return self.weights["model.mm_projector.0.bias"].dtype

    def read(self, medium: Any, kind: str) -> Tensor:
        """Tokens (n, D) of a medium: a picture, a list of frames, or samples (n,) at 16 kHz."""
        if kind == "image":
            return self.project(self.see(medium))
        if kind == "video":
            return self.watch(medium)
        samples = torch.from_numpy(medium)
        return self.hear_speech(samples) if kind == "speech" else self.hear_audio(samples)

    def see(self, picture: Image.Image) -> Tensor:
        """CLIP's patches (n, C), in the layer before the last."""
        tower = CLIPVisionModel.from_pretrained(self.root / "clip", dtype=self.dtype)
        pixels = CLIPImageProcessor.from_pretrained(self.root / "clip")(picture, return_tensors="pt").pixel_values
        states = tower(pixels.to(self.dtype), output_hidden_states=True).hidden_states[self.layer][0]
        return states[self.first : self.first + len(states) - 1]

    def project(self, patches: Tensor) -> Tensor:
        return two_layers(self.weights, "model.mm_projector", patches, self.gelu)

    def watch(self, frames: list[Image.Image]) -> Tensor:
        """The mean of all frames behind the projector."""
        seen = torch.stack([self.see(frame) for frame in frames])
        return self.project(seen.mean(dim=0)) if self.mean_in_front else self.project(seen).mean(dim=0)

    def to_language(self, states: Tensor) -> Tensor:
        """Projector of sounds."""
        name = "model.mm_audio_aligner.projector"
        return linear(states, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def hear_speech(self, samples: Tensor) -> Tensor:
        """Q tokens of each window of 30 s, of which each loses a sample to the next."""
        whisper = WhisperModel.from_pretrained(self.root / "whisper", dtype=self.dtype, attn_implementation="eager")
        extractor = WhisperFeatureExtractor.from_pretrained(self.root / "whisper")
        whisper.decoder.load_state_dict(below(self.weights, "model.mm_audio_aligner.decoder.audio_decoder."))
        step, tokens = extractor.n_samples + self.lost, []
        for start in range(0, len(samples), step):
            piece = samples[start : start + extractor.n_samples].numpy()
            mel = extractor(piece, sampling_rate=RATE, return_tensors="pt").input_features
            features = whisper.encoder(mel.to(self.dtype)).last_hidden_state[0]
            queries = self.weights["model.query_tokens"][0]
            tokens.append(self.to_language(ask(whisper.decoder, queries, features, causal=self.causal)))
        return torch.cat(tokens)

    def hear_audio(self, samples: Tensor) -> Tensor:
        """Q tokens of each window of 30 s, the last of which is filled up."""
        qformer = self.qformer()
        queries, tokens = self.weights["model.mm_audio_aligner.query_tokens"], []
        for start in range(0, len(samples), self.window):
            states, padded = self.encode_window(samples[start : start + self.window])
            mask = ~padded[None] if self.masks_queries else None
            read = qformer(query_embeds=queries, encoder_hidden_states=states[None], encoder_attention_mask=mask)
            tokens.append(self.to_language(read.last_hidden_state[0]))
        return torch.cat(tokens)

    def encode_window(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """BEATs' tokens (n, C) of one window, and which of them are padding."""
        lacking = self.window - len(samples)
        rest = samples[-1:].expand(lacking) if self.repeats else torch.zeros(lacking)
        bank = fbank(torch.cat([samples, rest])[None] * 2**15, num_mel_bins=128, sample_frequency=float(RATE))
        bank = ((bank - self.mean) / (2 * self.std)).to(self.dtype)
        beats = load_beats_checkpoint(self.root / "BEATs.pt", max_length=len(bank), mask_padding=True).to(self.dtype)
        patches = beats.layer_norm(beats.patch_embedding(bank[None, None]).flatten(2).transpose(1, 2))
        padded = torch.tensor(padding(len(samples), self.window, len(bank), patches.shape[1]))
        states = beats.encoder(beats.post_extract_proj(patches), padded[None] if self.masks else None)
        return states[0], padded

    def qformer(self) -> Blip2QFormerModel:
        """BLIP-2's Q-Former with the aligner's weights."""
        weights = below(self.weights, "model.mm_audio_aligner.qformer.qformer.")
        inner, width = weights["encoder.layer.0.intermediate_query.dense.weight"].shape
        layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))
        config = Blip2QFormerConfig(
            hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, encoder_hidden_size=width
        )
        qformer = Blip2QFormerModel(config).to(self.dtype).eval()
        qformer.load_state_dict(weights)
        return qformer


@dataclass(frozen=True)
class MediaOfV2:
    """Media of 2.0, whose towers lie among the released files.

    Args:
        vision: SigLIP as far as it is run: all layers but the last, without the norm behind them.
        whisper: Of encoder and decoder.
        eye, ear: What makes pixels of a tile, and log-mel values of a window.
        side: Tokens of a tile along each of its sides.
        grids: Of tiles, [rows, columns]; from `image_grid_pinpoints`.
        rate: Frames per second of clips.
        least, most: Frames of a clip.
        normed: Read SigLIP behind its last norm.
        boxed: Pictures are fitted into their grid, black around them; otherwise squashed.
        down: Tiles come column by column.
        apart: Rows and columns of each tile start at 0.
        pools_first: Patches are averaged in front of the projector.
        rounding: Of times of frames to positions.
        causal: As for `ask`.
        group: Tokens of a sound with one time.
    """

    weights: Weights
    vision: SiglipVisionConfig
    whisper: WhisperConfig
    eye: SiglipImageProcessor
    ear: WhisperFeatureExtractor
    side: int
    grids: list[list[int]]
    rate: float
    least: int
    most: int
    normed: bool = False
    boxed: bool = True
    down: bool = False
    apart: bool = False
    pools_first: bool = False
    rounding: Callable[[float], int] = round
    causal: bool = True
    group: int = 20

    @property
    def dtype(self) -> torch.dtype:
        return self.weights["vision_aligner.0.bias"].dtype

    def read(self, medium: Any, kind: str) -> tuple[Tensor, Places]:
        """Tokens (n, D) and places of a picture, of frames with their fps, or of samples (n,) at 16 kHz."""
        return {"image": self.see, "video": self.watch, "speech": self.hear}[kind](medium)

    def see(self, picture: Image.Image) -> tuple[Tensor, Places]:
        """Tiles of the grid that keeps most of the picture, row by row, as if they were one."""
        size = self.vision.image_size
        rows, columns = best_grid(*picture.size, size, self.grids)
        wide, high = columns * size, rows * size
        whole = letterbox(picture, wide, high) if self.boxed else picture.convert("RGB").resize((wide, high))
        cells = [(row, column) for row in range(rows) for column in range(columns)]
        cells = sorted(cells, key=lambda cell: cell[::-1]) if self.down else cells
        tokens, places = [], []
        for row, column in cells:
            left, top = column * size, row * size
            tokens.append(self.see_tile(whole.crop((left, top, left + size, top + size))))
            down, right = (0, 0) if self.apart else (row * self.side, column * self.side)
            places += [(0, down + i, right + j) for i in range(self.side) for j in range(self.side)]
        return torch.cat(tokens), places

    def see_tile(self, tile: Image.Image) -> Tensor:
        """Tokens (side * side, D): SigLIP's patches through the projector, then averaged."""
        tower = SiglipVisionModel._from_config(self.vision, dtype=self.dtype).eval()
        tower.load_state_dict(below(self.weights, "vision_tower.vision_tower.vision_model."))
        pixels = self.eye(tile, return_tensors="pt").pixel_values
        states = tower.encoder(tower.embeddings(pixels.to(self.dtype))).last_hidden_state[0]
        states = tower.post_layernorm(states) if self.normed else states
        if self.pools_first:
            return two_layers(self.weights, "vision_aligner", self.pool(states))
        return self.pool(two_layers(self.weights, "vision_aligner", states))

    def pool(self, states: Tensor) -> Tensor:
        square = states.T.unflatten(1, (math.isqrt(len(states)), -1))
        return nn.functional.adaptive_avg_pool2d(square, self.side).flatten(1).T

    def watch(self, clip: dict[str, Any]) -> tuple[Tensor, Places]:
        """Frames of a clip, each squashed to one tile, at their times."""
        frames = clip["frames"]
        numbers, times = some_frames(
            len(frames), clip["fps"], self.rate, self.least, self.most, rounding=self.rounding
        )
        tokens = torch.cat([self.see_tile(frames[number]) for number in numbers])
        return tokens, [(time, i, j) for time in times for i in range(self.side) for j in range(self.side)]

    def hear(self, samples: np.ndarray) -> tuple[Tensor, Places]:
        """Q tokens of each window of 30 s; the tokens of a group have one time, of two positions a second."""
        model = WhisperModel._from_config(self.whisper, dtype=self.dtype, attn_implementation="eager").eval()
        model.encoder.load_state_dict(below(self.weights, "audio_tower.audio_tower."))
        model.decoder.load_state_dict(below(self.weights, "audio_aligner.decoder.audio_decoder."))
        queries, tokens = self.weights["audio_aligner.query_tokens"][0], []
        for start in range(0, len(samples), self.ear.n_samples):
            piece = samples[start : start + self.ear.n_samples]
            mel = self.ear(piece, sampling_rate=RATE, return_tensors="pt").input_features
            features = model.encoder(mel.to(self.dtype)).last_hidden_state[0]
            tokens.append(ask(model.decoder, queries, features, causal=self.causal))
        heard, name = torch.cat(tokens), "audio_aligner.projector"
        step = self.ear.chunk_length * 2 * self.group / len(queries)  # 6 positions from one group of 3 s to the next
        places = [(int(token // self.group * step),) * 3 for token in range(len(heard))]
        return linear(heard, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]), places


def omni_positions(parts: Sequence[tuple[str, Places]], *, plain_sounds: bool = True) -> Tensor:
    """Positions (3, S) of a row of texts and media by kind: each part starts behind the largest before it.

    Where nothing but sounds is among the text, positions are plain, unless that is left out.
    """
    if plain_sounds and {kind for kind, _ in parts} <= {"text", "speech"}:
        return torch.arange(sum(len(places) for _, places in parts)).expand(3, -1)
    found: Places = []
    for _, places in parts:
        start = 1 + max((max(place) for place in found), default=-1)
        found += [(start + time, start + row, start + column) for time, row, column in places]
    return torch.tensor(found).T


def best_grid(width: int, height: int, side: int, grids: list[list[int]]) -> list[int]:
    """The first grid that keeps most pixels and leaves fewest black, one after the other."""
    best, most, least = grids[0], -1, 0
    for rows, columns in grids:
        scale = min(columns * side / width, rows * side / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        black = rows * columns * side * side - kept
        if kept > most or (kept == most and black < least):
            best, most, least = [rows, columns], kept, black
    return best


def letterbox(picture: Image.Image, width: int, height: int) -> Image.Image:
    """A picture in the middle of black: the side that does not fill it is rounded up, the corner down."""
    scale = min(width / picture.width, height / picture.height)
    across, down = (
        min(math.ceil(side * scale), most) for side, most in zip(picture.size, (width, height), strict=True)
    )
    box = np.zeros((height, width, 3), np.uint8)
    left, top = (width - across) // 2, (height - down) // 2
    box[top : top + down, left : left + across] = np.asarray(picture.resize((across, down)))
    return Image.fromarray(box)


def some_frames(
    total: int, fps: float, rate: float, least: int, most: int, rounding: Callable[[float], int] = round
) -> tuple[list[int], list[int]]:
    """Numbers of the frames, and positions at two a second: evenly spaced, then rounded (half to even)."""
    wanted = min(max(total / fps * rate, least), most, total)
    count = max(int(wanted // 2) * 2, 2)
    numbers = torch.linspace(0, total - 1, count).round().long().tolist()
    sampled = count / total * fps
    positions = [rounding(float(np.float32(i) * np.float32(1 / sampled) * np.float32(2.0))) for i in range(count)]
    return numbers, positions
