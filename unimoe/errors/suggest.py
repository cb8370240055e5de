"""One place for "did you mean": every refusal of an unknown name offers the nearest known one."""

from collections.abc import Iterable
from difflib import get_close_matches

_LONG = 200
"""Characters of a word that are compared."""
_MANY = 2_000
"""Names among which a similar one is searched."""
_SHOWN = 40
"""Names that are listed."""


def did_you_mean(word: str, options: Iterable[str], *, otherwise: str | None = None) -> str:
    """Return ` Did you mean 'x'?` for the nearest option, or the list of options, or `otherwise`, if none is near."""
    known = sorted(map(str, options))
    if nearest := get_close_matches(word[:_LONG], known[:_MANY], n=1):
        return f" Did you mean {nearest[0]!r}?"
    if otherwise is not None:
        return f" {otherwise}"
    more = f" and {len(known) - _SHOWN:,} more" if len(known) > _SHOWN else ""
    return f" Known: {', '.join(name[:_LONG] for name in known[:_SHOWN])}{more}."
