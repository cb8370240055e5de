"""Tiles of pictures: which grid a picture is fitted into, and what is cut out of it."""

import math
from collections.abc import Sequence

from PIL import Image, ImageOps


def tile_grid(size: tuple[int, int], tile: tuple[int, int], most: int) -> tuple[int, int]:
    """Rows and columns of tiles that keep most of a picture's resolution and, among those, waste the fewest pixels.

    As LLaVA-NeXT chooses among its resolutions, but among all grids of at most `most` tiles.

    Args:
        size: Width and height of the picture, pixels.
        tile: Width and height of a tile, pixels.
        most: Largest number of tiles.
    """
    width, height = size

    def rank(grid: tuple[int, int]) -> tuple[float, float]:
        rows, columns = grid
        scale = min(columns * tile[0] / width, rows * tile[1] / height, 1.0)
        kept = width * height * scale**2
        return -round(kept), rows * columns * tile[0] * tile[1] - kept

    grids = ((rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1))
    return min(grids, key=rank)


def cut_tiles(picture: Image.Image, grid: tuple[int, int], tile: tuple[int, int]) -> list[Image.Image]:
    """Fit a picture into a grid [rows, columns] of this `tile` (width, height), black around it; cut it row by row."""
    width, height = tile
    rows, columns = grid
    canvas = ImageOps.pad(picture, (columns * width, rows * height), method=Image.Resampling.BICUBIC)
    corners = ((row * height, column * width) for row in range(rows) for column in range(columns))
    return [canvas.crop((left, top, left + width, top + height)) for top, left in corners]


def best_grid(size: tuple[int, int], tile: tuple[int, int], grids: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Of `grids` [rows, columns], the one that keeps most of a picture's resolution and, among those, wastes the
    fewest pixels; the first of equal ones.

    As LLaVA-NeXT and Uni-MoE-2.0-Omni choose among their resolutions, whole pixels by side.

    Args:
        size: Width and height of the picture, pixels.
        tile: Width and height of a tile, pixels.
        grids: To choose from.
    """
    width, height = size

    def rank(grid: Sequence[int]) -> tuple[int, int]:
        rows, columns = grid
        scale = min(columns * tile[0] / width, rows * tile[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return -kept, rows * columns * tile[0] * tile[1] - kept

    rows, columns = min(grids, key=rank)
    return rows, columns


def letterbox(picture: Image.Image, grid: tuple[int, int], tile: tuple[int, int]) -> Image.Image:
    """Fit a picture, however small, into a grid [rows, columns] of this `tile` (width, height), black around it.

    As Uni-MoE-2.0-Omni does: the side that does not fill the grid is rounded up, the place of the picture down.
    """
    width, height = grid[1] * tile[0], grid[0] * tile[1]
    across, down = width / picture.width, height / picture.height
    fitted = (
        (width, min(math.ceil(picture.height * across), height))
        if across < down
        else (min(math.ceil(picture.width * down), width), height)
    )
    canvas = Image.new("RGB", (width, height))
    corner = ((width - fitted[0]) // 2, (height - fitted[1]) // 2)
    canvas.paste(picture.resize(fitted, Image.Resampling.BICUBIC), corner)
    return canvas


__all__ = ["best_grid", "cut_tiles", "letterbox", "tile_grid"]
