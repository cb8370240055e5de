"""Media become units, the inputs of the encoders, and blocks, what stands for them in the text.

    picture -> itself, or a thumbnail and tiles, or tiles     clip -> temporal groups of frames, and windows of sound
    sound, speech -> windows

All media of a batch are added in order of appearance; then each extractor runs once. n tokens of one medium.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..configuration.media_layout import EVEN, MediaLayout
from ..media import (
    CachedMedium,
    FrameSampling,
    Limits,
    Measures,
    count_windows,
    cut_windows,
    load_clip,
    load_clip_sound,
    load_picture,
    load_sound,
    window_samples,
)
from ..modality import MEDIA, SOUNDS, Modality
from .positions import clip_offsets, picture_offsets, plain_offsets, sound_offsets, sound_times
from .tiles import best_grid, cut_tiles, letterbox, tile_grid


class Block(NamedTuple):
    """What stands in the text for one medium: placeholders, perhaps with timestamps; and their offsets (3, n)."""

    text: str
    offsets: np.ndarray
    is_sound: bool = False


class _Track(NamedTuple):
    """Tokens of one modality of a clip: time in chunks (n,), offsets (3, n), and text in front of some tokens."""

    modality: Modality
    times: np.ndarray
    offsets: np.ndarray
    marks: dict[int, str]


@dataclass
class UnitCollector:
    """Load media one after the other; gather their units by modality.

    Args:
        extractors: Modality -> image processor or feature extractor, for the modalities that the processor takes.
        layout: How media become tokens.
        image_options: Arguments of the image processor.
        sampling_rate: Hz, of bare samples.
        limits: Of the size of media. None: those of the environment.
    """

    extractors: dict[Modality, Any]
    layout: MediaLayout
    image_options: dict[str, Any]
    sampling_rate: int
    limits: Limits | None = None

    def __post_init__(self) -> None:
        self._pictures: list[tuple[Image.Image, bool]] = []  # and whether it is a tile
        self._frames: list[Image.Image] = []
        self._frames_of_clips: list[int] = []  # how many each clip has
        self._windows: dict[Modality, list[np.ndarray]] = {modality: [] for modality in SOUNDS}
        self._states: dict[Modality, list[Tensor]] = {}

    def add(self, modality: Modality, medium: Any, where: str, *, beside_sound: bool = False) -> Block:
        """Load one medium and keep its units.

        Args:
            modality: Of the medium.
            medium: What `unimoe.media` loads, or an `CachedMedium`.
            where: Its place, for errors.
            beside_sound: Whether its row has a sound.

        Raises:
            ValueError: If it cannot be loaded, or was encoded as other units than the layout makes of it.
        """
        block = self.block(modality, self.load(modality, medium, where, beside_sound=beside_sound), where)
        if isinstance(medium, CachedMedium):
            self._check_encoded(medium, block, where)
        return block

    def load(self, modality: Modality, medium: Any, where: str, *, beside_sound: bool = False) -> Measures:
        """Load one medium, keep its units and measure it; arguments as for `add`.

        Raises:
            ValueError: If it cannot be loaded.
        """
        if modality is Modality.VIDEO:
            return self._keep_clip(medium, where, self.sampling(beside_sound=beside_sound))
        if isinstance(medium, CachedMedium):
            self._keep_states(modality, medium, where)
            return medium.measures
        if modality is Modality.IMAGE:
            return self._keep_picture(load_picture(medium, where=where, limits=self.limits))
        return Measures(samples=self._keep_windows(modality, self._load_sound(modality, medium, where), where))

    def block(self, modality: Modality, measures: Measures, where: str) -> Block:
        """Say what stands for a medium with these measures; `where` is its place, for errors.

        Raises:
            LimitError: If it is longer than its extractor takes.
        """
        if modality is Modality.IMAGE:
            return self.picture_block(measures.size)
        if modality is Modality.VIDEO:
            return self.clip_block(measures.times, measures.samples, where=where)
        return self.sound_block(modality, measures.samples, where)

    def picture_block(self, size: tuple[int, int]) -> Block:
        """Say what stands for a picture of this width and height (pixels)."""
        grid, tiles = self.layout.grids["image"], self.tiles(size)
        offsets = picture_offsets(grid, tiles)
        if self.layout.image_grids is None and tiles != (1, 1):
            thumbnail = picture_offsets(grid)
            offsets = np.concatenate([thumbnail, offsets + thumbnail.max() + 1], axis=1)
        return Block(str(Modality.IMAGE.token) * offsets.shape[1], offsets)

    def sound_block(self, modality: Modality, samples: int, where: str) -> Block:
        """Say what stands for a sound of so many samples at its extractor's rate; as `block`."""
        track = self._sound_track(modality, samples, where)
        return Block(_text([track], np.arange(track.times.size)), track.offsets, is_sound=True)

    def clip_block(self, frame_times: np.ndarray, sound_samples: int = 0, *, where: str) -> Block:
        """Say what stands for a clip with frames at these times (s) and a track of so many samples, 0 for none; as
        `block`.
        """
        layout = self.layout
        stride = len(frame_times) if layout.video_pooling == "clip" else layout.video_temporal_stride
        times = frame_times.reshape(-1, stride).mean(axis=1)  # of each unit, s
        grid = layout.grids["video"]
        tokens = layout.num_tokens["video"]
        marks = {index * tokens: f"<{time:.1f} seconds>" for index, time in enumerate(times)}
        nearest = layout.video_sampling == "linspace"
        offsets = clip_offsets(times, grid, layout.positions_per_second, nearest=nearest)
        tracks = [_Track(Modality.VIDEO, times.repeat(tokens), offsets, marks if layout.video_timestamps else {})]
        if layout.video_sound is not None and sound_samples:
            tracks.append(self._sound_track(Modality.from_key(layout.video_sound), sound_samples, where))
        return _interleave(tracks, layout.video_chunk_seconds)

    def tiles(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tiles that a picture of this width and height (pixels) is cut into."""
        if self.layout.image_grids is not None:
            return best_grid(size, self._tile_size, self.layout.image_grids)
        if self.layout.image_max_tiles == 1:
            return 1, 1
        return tile_grid(size, self._tile_size, self.layout.image_max_tiles)

    def sampling(self, *, beside_sound: bool) -> FrameSampling:
        """Which frames are taken of a clip; `beside_sound`: of one in a row with a sound."""
        layout = self.layout
        return FrameSampling(
            rate=layout.video_frame_rate,
            minimum=layout.video_min_frames,
            maximum=layout.max_frames(with_sound=beside_sound or layout.video_sound is not None),
            multiple=EVEN if layout.video_sampling == "linspace" else layout.video_temporal_stride,
            spread=layout.video_sampling,
            repeats=layout.video_pooling != "clip",
        )

    def features(self) -> dict[str, Tensor]:
        """Features of all units by the name of the model's argument; of modalities without a unit, none.

        Returns:
            `pixel_values` (N, C, H, W), `pixel_values_videos` (N, stride, C, H, W) or, of whole clips (N, most frames,
            C, H, W), behind the frames of shorter ones NaN, `audio_features` (AST: N, frames, mel bins),
            `speech_features` (Whisper: N, mel bins, frames). Encoded media have none.
        """
        features: dict[str, Tensor] = {}
        if self._pictures:
            features["pixel_values"] = self._picture_pixels()
        if self._frames:
            features["pixel_values_videos"] = self._clip_pixels()
        for modality, windows in self._windows.items():
            if windows:
                extractor = self.extractors[modality]
                extracted = extractor(windows, sampling_rate=extractor.sampling_rate, return_tensors="pt")
                features[str(modality.feature_name)] = extracted[extractor.model_input_names[0]]
        return features

    def encoder_states(self) -> dict[str, Tensor]:
        """Tokens (N, tokens, C) of the units of encoded media by modality key; of modalities without any, none.

        Raises:
            ValueError: If other media of the same modality are not encoded.
        """
        raw = {Modality.IMAGE: self._pictures, Modality.VIDEO: self._frames, **self._windows}
        for modality in self._states:
            if raw[modality]:
                raise ValueError(
                    f"Some {modality.key} of this call is encoded and some is not. Encode all of it, or none."
                )
        return {modality.key: torch.cat(states) for modality, states in self._states.items()}

    def _keep_states(self, modality: Modality, medium: CachedMedium, where: str) -> None:
        if modality.key not in medium.states:
            raise ValueError(
                f"{where}: was encoded as {' and '.join(medium.states) or 'nothing'}, not as {modality.key}. Pass it "
                "under the modality that it was encoded as."
            )
        if len(states := medium.states[modality.key]):  # a silent clip has no windows
            self._states.setdefault(modality, []).append(states)

    def _check_encoded(self, medium: CachedMedium, block: Block, where: str) -> None:
        """Refuse an encoded medium of which this layout would make other units."""
        for key, states in medium.states.items():
            tokens, size = block.text.count(str(Modality.from_key(key).token)), self.layout.num_tokens[key]
            if tokens != len(states) * size:
                raise ValueError(
                    f"{where}: was encoded as {len(states)} unit(s) of {key}, but the layout makes {tokens // size} "
                    "of it. Encode it with the processor that it is given to, and the same options."
                )

    def _keep_picture(self, picture: Image.Image) -> Measures:
        tiles, size = self.tiles(picture.size), picture.size
        is_boxed = self.layout.image_grids is not None
        if is_boxed:
            picture = letterbox(picture, tiles, self._tile_size)
        else:
            self._pictures.append((picture, False))
        if is_boxed or tiles != (1, 1):
            self._pictures += [(tile, True) for tile in cut_tiles(picture, tiles, self._tile_size)]
        return Measures(size=size)

    def _keep_clip(self, medium: Any, where: str, sampling: FrameSampling) -> Measures:
        """Keep frames and sound of a clip, of which both, one or none may be encoded."""
        encoded = medium if isinstance(medium, CachedMedium) else CachedMedium(Measures(), medium=medium)
        times, samples = encoded.measures.times, 0
        if Modality.VIDEO.key in encoded.states:
            self._keep_states(Modality.VIDEO, encoded, where)
        else:
            clip = load_clip(encoded.medium, sampling=sampling, where=where, limits=self.limits)
            self._frames += clip.frames
            self._frames_of_clips.append(len(clip.frames))
            times = clip.times
        if self.layout.video_sound is not None:
            samples = self._keep_track(Modality.from_key(self.layout.video_sound), encoded, where)
        return Measures(times=times, samples=samples)

    def _keep_track(self, modality: Modality, clip: CachedMedium, where: str) -> int:
        """Keep the sound track of a clip; its samples, 0 if there is none."""
        if modality.key in clip.states:
            self._keep_states(modality, clip, where)
            return clip.measures.samples
        if clip.medium is None:
            raise ValueError(f"{where}: was encoded without its sound. Encode it with video_sound={modality.key!r}.")
        rate = self.extractors[modality].sampling_rate
        sound = load_clip_sound(clip.medium, sampling_rate=rate, where=where, limits=self.limits)
        return 0 if sound is None else self._keep_windows(modality, sound, where)

    def _load_sound(self, modality: Modality, medium: Any, where: str) -> np.ndarray:
        rate = self.extractors[modality].sampling_rate
        return load_sound(
            medium, sampling_rate=rate, array_sampling_rate=self.sampling_rate, where=where, limits=self.limits
        )

    def _keep_windows(self, modality: Modality, sound: np.ndarray, where: str) -> int:
        extractor = self.extractors[modality]
        count_windows(len(sound), extractor, where=where)
        fills_windows = getattr(extractor, "n_samples", None)  # whatever is left of a sound
        self._windows[modality] += cut_windows(
            sound,
            window=window_samples(extractor),
            sampling_rate=None if fills_windows else extractor.sampling_rate,
        )
        return len(sound)

    def _sound_track(self, modality: Modality, samples: int, where: str) -> _Track:
        extractor, grid = self.extractors[modality], self.layout.grids[modality.key]
        axis = self.layout.time_axes.get(modality.key, "columns")
        seconds = window_samples(extractor) / extractor.sampling_rate
        windows = count_windows(samples, extractor, where=where)
        times = sound_times(windows, grid, seconds=seconds, time_axis=axis)
        offsets = sound_offsets(times, self.layout.positions_per_second, self.layout.sound_group_tokens or 1)
        if axis == "columns" and grid[0] > 1:  # time starts anew in each row: a window stays in one piece
            times = np.floor(times / seconds) * seconds
        return _Track(modality, times, offsets, {})

    def _picture_pixels(self) -> Tensor:
        whole, tiles = ([p for p, is_tile in self._pictures if is_tile is wanted] for wanted in (False, True))
        of_tiles = {"do_resize": False, "do_center_crop": False}  # they have the size already
        made = {
            False: iter(self._pixels(whole) if whole else ()),
            True: iter(self._pixels(tiles, **of_tiles) if tiles else ()),
        }
        return torch.stack([next(made[is_tile]) for _, is_tile in self._pictures])

    def _clip_pixels(self) -> Tensor:
        pixels = self._pixels(self._frames)
        if self.layout.video_pooling == "clip":
            return pad_sequence(pixels.float().split(self._frames_of_clips), batch_first=True, padding_value=torch.nan)
        return pixels.unflatten(0, (-1, self.layout.video_temporal_stride))

    def _pixels(self, pictures: list[Image.Image], **options: Any) -> Tensor:
        processor = self.extractors.get(Modality.IMAGE) or self.extractors[Modality.VIDEO]
        return processor(pictures, return_tensors="pt", **{**self.image_options, **options})["pixel_values"]

    @cached_property
    def _tile_size(self) -> tuple[int, int]:
        """Width and height (pixels) of what the image tower takes."""
        height, width = self._pixels([Image.new("RGB", (64, 64))]).shape[-2:]
        return width, height


def check_extractor(name: str, extractor: Any, layout: MediaLayout) -> None:
    """Refuse an extractor whose units have no place among the tokens.

    Args:
        name: Of the processor's part, see `Modality.extractor_name`.
        extractor: The part.
        layout: How media become tokens.

    Raises:
        ValueError: If the layout has no grid for what it extracts, or the windows of sounds are of no known length.
    """
    served = [modality.key for modality in MEDIA if modality.extractor_name == name]
    if not any(key in layout.grids for key in served):
        raise ValueError(
            f"There is an {name}, but media_layout has no grid for {' or '.join(map(repr, served))} (only "
            f"{sorted(layout.grids)}). State the tokens of a unit, as config.media_layout does."
        )
    if name != "image_processor":
        window_samples(extractor)


def row_offsets(blocks: list[Block], layout: MediaLayout) -> list[np.ndarray]:
    """Offsets of a row's media by their `blocks`; plain ones if all are sounds, and the `layout` groups them."""
    only_hears = layout.sound_group_tokens is not None and all(block.is_sound for block in blocks)
    return [plain_offsets(block.offsets.shape[1]) if only_hears else block.offsets for block in blocks]


def _interleave(tracks: list[_Track], chunk_seconds: float) -> Block:
    """Put tracks into one block: in each chunk of time the frames, then the sound."""
    chunks = np.concatenate([np.floor(track.times / chunk_seconds + 1e-6) for track in tracks])
    order = np.argsort(chunks, kind="stable")
    offsets = np.concatenate([track.offsets for track in tracks], axis=1)
    return Block(_text(tracks, order), offsets[:, order])


def _text(tracks: list[_Track], order: np.ndarray) -> str:
    """Placeholders of the tokens of all tracks in an order, with their marks."""
    kinds = np.concatenate([np.full(track.times.size, int(track.modality)) for track in tracks])[order]
    marks = {int(np.flatnonzero(order == index)[0]): mark for index, mark in tracks[0].marks.items()}
    turns = {0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), *marks}
    starts = sorted(turns)
    ends = [*starts[1:], kinds.size]
    return "".join(
        marks.get(start, "") + str(Modality(kinds[start]).token) * (end - start)
        for start, end in zip(starts, ends, strict=True)
    )


__all__ = ["Block", "UnitCollector", "check_extractor", "row_offsets"]
