"""One place for "did you mean": every refusal of an unknown name offers the nearest known one."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest option, or the list of options if none is near."""
    known = sorted(options)
    if nearest := get_close_matches(word, known, n=1):
        return f" Did you mean {nearest[0]!r}?"
    return f" Known: {', '.join(known)}."
