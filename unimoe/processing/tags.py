"""What stands for a medium within a plain string of a row: tags, placeholders of other makers, names of files.

Rows of files are written by programs, so such a string means a medium; what users say in calls is plain text.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from ..modality import Modality
from .keys import KINDS

TAGS = {**{kind: kind for kind in KINDS}, "voice": Modality.SPEECH.key}
"""What each tag stands for; `<voice>` is one only in rows that have `voice`."""
TAG = re.compile(r"<(" + "|".join(TAGS) + r")>")
_WORDS = "img|image|im_patch|vision|picture|video|audio|sound|speech|voice|media_"
_FOREIGN = re.compile(
    rf"(?:<\|?|\[)(?:start_of_|begin_of_|end_of_)?(?:{_WORDS})(?:[\w-]*| \d{{1,3}})(?:\|?>|\])", re.IGNORECASE
)
"""Placeholders of other makers, such as <|image_pad|>, [IMG], <ImageHere>, <image 1>."""
_HTML = ("<img>", "<picture>")
_NAMED_INSIDE = re.compile(r"<(img|image|audio|video|voice|speech)>([^<>\n]+\.\w{2,4})\s*</\1>", re.IGNORECASE)
_NAMED = "a medium is named within the text, where it is not read."
_AS_ITEMS = 'Write it as an item of the content, {"type": ..., "path": ...}'


def foreign_placeholders(text: str) -> Iterator[str]:
    """Placeholders of other makers in a text; words in brackets, such as [image], are none unless in capitals."""
    for token in _FOREIGN.findall(text):
        if token.strip("<>") not in TAGS and (token[0] != "[" or token.isupper()):
            yield token


def check_foreign(text: str, *, where: str, key: str) -> None:
    """Refuse a placeholder of another maker in a row that has no media beside the dialogue; HTML's tags are text.

    Args:
        text: Of the row.
        where: File and row, for errors.
        key: Place within.

    Raises:
        DataError: If there is one.
    """
    token = next((token for token in foreign_placeholders(text) if token not in _HTML), None)
    if token is None:
        return
    problem = f"the text has {token} of another maker, and the row has no column of media."
    cure = (
        "Write a tag such as <image> with the file in a column of a training row, or the medium as an item, "
        '{"type": ..., "path": ...}; plain text is written as [{"type": "text", "text": ...}].'
    )
    raise DataError(where, problem, cure, key=key)


def check_names_inside(text: str, *, where: str, key: str, folder: str | Path | None = None) -> None:
    """Refuse a text that names a medium, such as <img>a.png</img>.

    Args:
        text: Of a row.
        where: File and row, for errors.
        key: Place within.
        folder: Only names of files that are there count, from this folder on. None: any name does.

    Raises:
        DataError: If it does.
    """
    for named in _NAMED_INSIDE.finditer(text):
        if folder is None or _is_file(Path(folder) / named[2].strip()):
            cure = f"{_AS_ITEMS}, or as a tag with the file in a column of a training row."
            raise DataError(where, _NAMED, f"{cure} It says {named[0][:80]}.", key=key)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or a NUL within
        return False


def check_plain(text: str, *, where: str, key: str) -> None:
    """Refuse a plain string of a row without columns of media that means a medium.

    Args:
        text: The string.
        where: File and row, for errors.
        key: Place within.

    Raises:
        DataError: If it has a tag, a placeholder of another maker, or the name of a medium.
    """
    check_names_inside(text, where=where, key=key)
    tag = next((tag for tag in TAG.findall(text) if tag != "voice"), None)
    if tag is not None:
        cure = f'{_AS_ITEMS}; where <{tag}> is plain text, write [{{"type": "text", "text": ...}}].'
        raise DataError(where, f"the tag <{tag}> stands for a medium, and there is none.", cure, key=key)
    check_foreign(text, where=where, key=key)


__all__ = ["TAG", "TAGS", "check_foreign", "check_names_inside", "check_plain", "foreign_placeholders"]
