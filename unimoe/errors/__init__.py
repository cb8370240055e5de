"""The errors that a user can cure: each is a ValueError of one line that says where, under which key, what, and the
cure."""

import re


def without_passwords(text: str) -> str:
    """Return the text, such as an address or a line of a file, with *** for the user and password of every address in
    it.
    """
    return re.sub(r"//[^/\s]*@", "//***@", text)


class UniMoEError(ValueError):
    """What was passed cannot be used.

    Args:
        where: File and row, or what was called. Given alone, it is the whole line, which then is the problem.
        problem: What is wrong: a sentence.
        cure: What to do about it: a sentence.
        key: Place within, such as `messages[0].content[1].path`.
    """

    def __init__(self, where: str, problem: str = "", cure: str = "", *, key: str = "") -> None:
        if not problem:
            where, problem = "", where
        self.where, self.key, self.problem, self.cure = where, key, problem, cure
        sentences = " ".join(filter(None, (problem, cure)))
        super().__init__(": ".join(filter(None, (where, key, sentences))))  # one argument: so workers can pass it on


class DataError(UniMoEError):
    """A row, a message or an item that cannot be read."""


class MediaError(UniMoEError):
    """A picture, clip or sound that cannot be read."""


class LimitError(MediaError):
    """Something is larger than `unimoe.media.limits` allows; the cure says how to raise the limit."""


class ConfigError(UniMoEError):
    """Settings that cannot be run."""


__all__ = ["ConfigError", "DataError", "LimitError", "MediaError", "UniMoEError", "without_passwords"]
