"""Where tokens are in time and space: 3-D positions (time, row, column) for text, pictures, sounds and clips.

Li et al. 2025, Uni-MoE-2.0-Omni (arXiv 2511.12609), Omni-Modality 3D RoPE: text counts on along all three axes at
once; the tokens of a picture share one time and differ by row and column; those of sounds and clips carry absolute
time, so what is heard and what is seen at the same moment have the same time. Each medium starts where what comes
before it ends, and the text after it starts behind its largest position.

Departures, unless `sound_group_tokens` of the layout says otherwise: each token of a sound has its own time (there, 20
tokens of 3 s share one), and a row that only hears is no special case (there, it has plain positions). For text alone
the three are equal to plain positions, so the rotation is the plain one.

Offsets count from the start of a medium, int64 of shape (3, n) for n tokens: time, row, column. B rows, S tokens.
"""

from collections.abc import Sequence

import numpy as np

_ROUNDING = 1e-6  # 0.15 s * 20 * 2 / s is 6, not 5.999999


def picture_offsets(grid: Sequence[int], tiles: Sequence[int] = (1, 1)) -> np.ndarray:
    """Offsets of a picture of `tiles` [rows, columns] tiles with `grid` [rows, columns] tokens each, tile by tile."""
    axes = (np.arange(size) for size in (*tiles, *grid))
    tile_row, tile_column, row, column = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    return np.stack([np.zeros_like(row), tile_row * grid[0] + row, tile_column * grid[1] + column])


def clip_offsets(
    times: np.ndarray, grid: Sequence[int], positions_per_second: float, *, nearest: bool = False
) -> np.ndarray:
    """Offsets of the units of a clip at `times` (s), with `grid` [rows, columns] tokens each; a second reaches
    `positions_per_second` far. A time between two positions has the one before it, or the `nearest`.
    """
    unit, row, column = (axis.ravel() for axis in np.meshgrid(times, *map(np.arange, grid), indexing="ij"))
    time = np.rint(unit * positions_per_second).astype(np.int64) if nearest else at(unit, positions_per_second)
    return np.stack([time, row.astype(np.int64), column.astype(np.int64)])


def sound_times(windows: int, grid: Sequence[int], *, seconds: float, time_axis: str = "columns") -> np.ndarray:
    """Start (s) of each token of a sound of so many windows of `seconds`, with `grid` tokens each, shape (n,).

    Time runs along the grid's `time_axis`, `columns` or `rows`.
    """
    window, row, column = (axis.ravel() for axis in np.meshgrid(*map(np.arange, (windows, *grid)), indexing="ij"))
    step, steps = (column, grid[1]) if time_axis == "columns" else (row, grid[0])
    return (window + step / steps) * seconds


def sound_offsets(times: np.ndarray, positions_per_second: float, group: int = 1) -> np.ndarray:
    """Offsets of the tokens of a sound that start at `times` (s): the time on all three axes, as text has, and
    `positions_per_second` for a second. In a `group` of so many neighbours all have the time of the first.
    """
    return np.tile(at(times[::group].repeat(group), positions_per_second), (3, 1))


def plain_offsets(tokens: int) -> np.ndarray:
    """Offsets of so many tokens that count on as text does."""
    return np.tile(np.arange(tokens), (3, 1))


def at(times: np.ndarray, positions_per_second: float) -> np.ndarray:
    """Positions of moments (s) from the start of their medium."""
    return np.floor(times * positions_per_second + _ROUNDING).astype(np.int64)


def omni_position_ids(is_media: np.ndarray, is_real: np.ndarray, offsets: Sequence[np.ndarray]) -> np.ndarray:
    """Positions of a batch.

    Args:
        is_media: Which tokens stand for media, bool (B, S).
        is_real: Which are no padding, bool (B, S). Padding, left or right, takes no position; it gets 0.
        offsets: For each medium of the batch in order, offsets (3, n) of its n tokens, which are neighbours.

    Returns:
        int64 (3, B, S): time, row, column.
    """
    spatial = np.zeros((3, *is_media.shape), dtype=np.int64)
    steps = (is_real & ~is_media).astype(np.int64)  # text goes on by one
    if offsets:
        spatial[:, is_media] = np.concatenate(offsets, axis=1)
        lasts = np.cumsum([medium.shape[1] for medium in offsets]) - 1
        media_steps = np.zeros(int(lasts[-1]) + 1, dtype=np.int64)
        media_steps[lasts] = [medium.max() + 1 for medium in offsets]  # a medium goes on at its last token
        steps[is_media] = media_steps
    starts = steps.cumsum(axis=1) - steps
    return (starts + spatial) * is_real


def position_rows(
    input_ids: list[list[int]],
    attention_mask: list[list[int]] | None,
    media_ids: list[int],
    offsets: Sequence[np.ndarray],
) -> list[list[list[int]]]:
    """Time, row and column of each token: 3 lists of rows, which may differ in length.

    Args:
        input_ids: Rows.
        attention_mask: 1 for real tokens. None: all are.
        media_ids: Ids of placeholders.
        offsets: Of the block of each medium, in order; see `omni_position_ids`.
    """
    longest = max(map(len, input_ids))
    ids = np.array([[*row, *[-1] * (longest - len(row))] for row in input_ids])  # (B, S)
    is_real = ids >= 0
    if attention_mask is not None:
        is_real &= np.array([[*row, *[0] * (longest - len(row))] for row in attention_mask], dtype=bool)
    positions = omni_position_ids(np.isin(ids, media_ids), is_real, offsets)
    return [[row[: len(ids)] for row, ids in zip(axis, input_ids, strict=True)] for axis in positions.tolist()]


__all__ = [
    "clip_offsets",
    "omni_position_ids",
    "picture_offsets",
    "plain_offsets",
    "position_rows",
    "sound_offsets",
    "sound_times",
]
