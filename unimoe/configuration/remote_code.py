"""What lets a saved folder load with `trust_remote_code=True` where nobody wrote `import unimoe`.

transformers copies only flat files with a checkpoint, and unimoe is a tree of packages. So the folder carries one file
that imports the classes from the installed package; without the package, transformers says which one to install.
"""

from os import PathLike
from pathlib import Path

_CLASSES = {
    "AutoConfig": "UniMoEConfig",
    "AutoModel": "UniMoEModel",
    "AutoModelForMultimodalLM": "UniMoEForConditionalGeneration",
    "AutoModelForImageTextToText": "UniMoEForConditionalGeneration",
    "AutoProcessor": "UniMoEProcessor",
}
_MODULE = "load_unimoe"
_SOURCE = f'''"""Loads this checkpoint with the installed package unimoe (pip install unimoe)."""

from unimoe import {", ".join(sorted(set(_CLASSES.values())))}

__all__ = {sorted(set(_CLASSES.values()))!r}
'''

AUTO_MAP = {auto_class: f"{_MODULE}.{name}" for auto_class, name in _CLASSES.items()}
"""Value of `auto_map` in config.json."""


def write_remote_code(folder: str | PathLike) -> None:
    """Write the file that `AUTO_MAP` refers to into a checkpoint folder, which is made if there is none."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{_MODULE}.py").write_text(_SOURCE, encoding="utf-8")
