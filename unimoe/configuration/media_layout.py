"""How media become tokens: what a processor must know of its model. Both save it, and it must be the same in both.

A *unit* is one input of an encoder: a picture or a tile of it, a temporal group of a clip's frames, a window of sound
or speech. Every medium becomes a whole number of units, and a unit a grid of tokens, row by row.
"""

from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any, Literal

from ..errors.suggest import did_you_mean
from ..media.sampling import VideoSampling
from ..modality import MEDIA, SOUNDS

PositionType = Literal["plain", "omni"]
VideoPooling = Literal["stride", "clip"]
EVEN = 2
"""Number of frames of which `linspace` takes a multiple."""
CALL_OPTIONS = (
    "image_max_tiles",
    "image_grids",
    "video_frame_rate",
    "video_min_frames",
    "video_max_frames",
    "video_max_frames_with_sound",
    "video_sampling",
    "video_timestamps",
    "video_sound",
)
"""Fields that one call of the processor may change: they decide how many units there are, not what a unit is."""


@dataclass(frozen=True, kw_only=True)
class MediaLayout:
    """Units and tokens of each kind of medium, and where its tokens are in time and space.

    Args:
        grids: Modality key -> [rows, columns] of the tokens of one unit.
        time_axes: `audio` or `speech` -> axis of its grid along which time runs, `columns` (default) or `rows`.
        image_max_tiles: Most tiles that a large picture is cut into; with more than one tile the whole picture comes
            first, as a thumbnail. 1: every picture is one unit.
        image_grids: Instead: grids [rows, columns] of tiles, of which each picture, however small, is fitted into the
            one that keeps most of it, black around it, without a thumbnail (`image_grid_pinpoints` of Uni-MoE-2.0-Omni
            in tiles, in its order; frames of clips stay as they are). It exists for the released weights of that
            model; nobody should choose it for a new model.
        video_frame_rate: Frames sampled per second. None: `video_max_frames` from every clip.
        video_min_frames, video_max_frames: Bounds of the number of frames of a clip.
        video_max_frames_with_sound: Most frames of a clip in a row with a sound, or where sounds of clips are heard,
            if fewer than `video_max_frames`. None: as of others. It exists for the released weights of
            Uni-MoE-2.0-Omni (32).
        video_sampling: Which frames of a clip, and their times: `middles` of equal parts, and when they are shown; or
            `linspace`, an even number of frames from the first to the last, with times as if all were shown equally
            long, whose positions are rounded to the nearest, as the released weights of Uni-MoE-2.0-Omni know them;
            nobody should choose it for a new model. Each frame is a unit then.
        video_temporal_stride: Neighbouring frames averaged into one unit.
        video_pooling: Where frames are averaged: `stride`, so many neighbours in front of the connector, or `clip`,
            all frames of a clip, however many, behind it, so that every clip is one unit. That exists for the released
            weights of Uni-MoE v1, whose clips are lists of frames (take a `video_max_frames` that none exceeds);
            nobody should choose it for a new model.
        video_timestamps: Write the time, such as `<1.5 seconds>`, in front of each unit of a clip.
        video_sound: Modality, `audio` or `speech`, that the sound track of a clip becomes. None: it is not heard.
        video_chunk_seconds: Frames and sound of a clip take turns in chunks of so many seconds.
        position_type: `plain`: tokens are counted. `omni`: positions in time and space, see `processing.positions`.
        positions_per_second: With `omni`, how far a second of sound or video reaches.
        sound_group_tokens: With `omni`, so many neighbouring tokens of a sound share one time, and a row whose only
            media are sounds has plain positions. (A conversation that hears first and sees later has other positions
            then for what it heard, so do not go on from its cache.) It exists for the released weights of
            Uni-MoE-2.0-Omni (20, which are 3 s); nobody should choose it for a new model. None: each has its own time.

    Raises:
        ValueError: If fields do not fit; the message names them.
    """

    grids: dict[str, list[int]] = field(default_factory=dict)
    time_axes: dict[str, str] = field(default_factory=dict)
    image_max_tiles: int = 1
    image_grids: list[list[int]] | None = None
    video_frame_rate: float | None = None
    video_min_frames: int = 1
    video_max_frames: int = 8
    video_max_frames_with_sound: int | None = None
    video_sampling: VideoSampling = "middles"
    video_temporal_stride: int = 1
    video_pooling: VideoPooling = "stride"
    video_timestamps: bool = False
    video_sound: str | None = None
    video_chunk_seconds: float = 2.0
    position_type: PositionType = "plain"
    positions_per_second: float = 2.0
    sound_group_tokens: int | None = None

    def __post_init__(self) -> None:
        keys = [modality.key for modality in MEDIA]
        for key, grid in self.grids.items():
            if key not in keys:
                raise ValueError(f"media_layout: grids has the unknown modality {key!r}.{did_you_mean(key, keys)}")
            if len(grid) != 2 or min(grid) < 1:
                raise ValueError(f"media_layout: grids[{key!r}] is {grid}; a unit needs [rows, columns], 1 at least.")
        for name in ("image_max_tiles", "video_min_frames", "video_max_frames", "video_temporal_stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1.")
        for name in ("video_frame_rate", "video_chunk_seconds", "positions_per_second"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be positive.")
        self._check_grids()
        self._check_frames()
        self._check_choices()
        self._check_sounds()

    def _check_grids(self) -> None:
        if self.image_grids is None:
            return
        if not self.image_grids or any(len(grid) != 2 or min(grid) < 1 for grid in self.image_grids):
            raise ValueError(
                f"image_grids is {self.image_grids}; it lists grids of tiles, each [rows, columns], 1 at least, or is "
                "None."
            )
        if self.image_max_tiles > 1:
            raise ValueError(
                f"image_grids: says which grids there are, and so does image_max_tiles ({self.image_max_tiles}). Use "
                "one of both."
            )

    def _check_frames(self) -> None:
        if self.video_max_frames % self.video_temporal_stride:
            raise ValueError(
                f"video_temporal_stride ({self.video_temporal_stride}) does not divide video_max_frames "
                f"({self.video_max_frames})."
            )
        if self.video_min_frames > self.video_max_frames:
            raise ValueError(
                f"video_min_frames ({self.video_min_frames}) is more than video_max_frames ({self.video_max_frames})."
            )
        most = self.max_frames(with_sound=True)
        if most < self.video_min_frames or most % self.video_temporal_stride:
            raise ValueError(
                f"video_max_frames_with_sound is {self.video_max_frames_with_sound}; it is a multiple of "
                f"video_temporal_stride ({self.video_temporal_stride}), and at least video_min_frames "
                f"({self.video_min_frames})."
            )
        if self.video_pooling not in ("stride", "clip"):
            raise ValueError(f"video_pooling is {self.video_pooling!r}; choose stride or clip.")
        if self.video_pooling == "clip" and self.video_temporal_stride > 1:
            raise ValueError(
                f"video_pooling 'clip' averages all frames at once, and video_temporal_stride is "
                f"{self.video_temporal_stride}. Set it to 1, or video_pooling to 'stride'."
            )
        if self.video_sampling not in ("middles", "linspace"):
            raise ValueError(f"video_sampling is {self.video_sampling!r}; choose middles or linspace.")
        if self.video_sampling == "linspace" and (self.video_temporal_stride > 1 or most < EVEN):
            raise ValueError(
                f"video_sampling 'linspace' takes an even number of frames, each a unit: set video_temporal_stride "
                f"({self.video_temporal_stride}) to 1 and the most frames ({most}) to {EVEN} at least."
            )

    def _check_choices(self) -> None:
        if self.position_type not in ("plain", "omni"):
            raise ValueError(f"position_type is {self.position_type!r}; choose plain or omni.")
        sounds = [m.key for m in SOUNDS if m.key in self.grids]
        if self.video_sound is not None and self.video_sound not in sounds:
            raise ValueError(
                f"video_sound is {self.video_sound!r}, but the sounds that this model takes are {sounds}. Choose one "
                "of them, or None."
            )
        if self.video_timestamps and self.position_type == "omni":
            raise ValueError(
                "video_timestamps: with position_type 'omni' the positions tell the time. Use one of both."
            )

    def _check_sounds(self) -> None:
        if (group := self.sound_group_tokens) is None:
            return
        if self.position_type != "omni":
            raise ValueError(
                f"sound_group_tokens is {group}, but position_type {self.position_type!r} knows no time. Take 'omni', "
                "or leave sound_group_tokens out."
            )
        for key in (m.key for m in SOUNDS if m.key in self.grids):
            grid = self.grids[key]
            if group < 1 or prod(grid) % group or min(grid) > 1:
                raise ValueError(
                    f"sound_group_tokens is {group}, but a unit of {key} has {grid} tokens (rows, columns). It is to "
                    "divide the tokens of one row; a qformer or query_decoder connector gives such a row."
                )

    def max_frames(self, *, with_sound: bool) -> int:
        """Most frames of a clip, in a row with a sound or in one without."""
        most = self.video_max_frames_with_sound if with_sound else None
        return self.video_max_frames if most is None else min(most, self.video_max_frames)

    @property
    def num_tokens(self) -> dict[str, int]:
        """Tokens of one unit by modality key."""
        return {key: prod(grid) for key, grid in self.grids.items()}

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON takes them."""
        return asdict(self)


__all__ = ["CALL_OPTIONS", "EVEN", "MediaLayout", "PositionType", "VideoPooling", "VideoSampling"]
