"""The one kind of error that a user can cure: shown as one line, exit code 2."""

from unimoe.errors import UniMoEError


class EvaluationError(UniMoEError):
    """A configuration, data file or earlier run does not fit; the message says what, where and the cure."""
