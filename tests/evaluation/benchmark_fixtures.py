"""A few rows of every benchmark in its publisher's layout, with media made here.

`FIXTURES[name](DATA_ROOT / name)` writes those of one benchmark.
"""

from collections.abc import Callable
from pathlib import Path

import image_fixtures
import sound_fixtures
import video_fixtures

FIXTURES: dict[str, Callable[[Path], None]] = {
    **image_fixtures.FIXTURES,
    **sound_fixtures.FIXTURES,
    **video_fixtures.FIXTURES,
}
"""Name of a benchmark -> writes its files below a folder, which is DATA_ROOT/NAME."""
