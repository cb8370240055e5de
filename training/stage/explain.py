"""Errors of the machine that end a training, said so that a user can go on."""

import re

from unimoe.errors import ConfigError

from ..distributed.processes import is_lost_connection

_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)(?:.*by signal: ([\w ]+))?")


def explain(error: OSError | RuntimeError, output: str) -> Exception | None:
    """Explain an error of the machine: a lost process, a killed worker, a file; return None for that of a bug.

    Args:
        error: Which ended a training.
        output: Of the stage.
    """
    again = f"Go on from the last checkpoint in {output} with --resume."
    if found := _WORKER.search(str(error)):
        return ConfigError(
            output,
            f"process {found[1].strip()}, which loaded data for it, was killed ({found[2] or 'it is gone'}).",
            f"If memory was short, lower data.num_workers or turn cache_media off. {again}",
        )
    if is_lost_connection(error):
        first_line = str(error).splitlines()[0]
        return ConfigError(
            f"Another process is gone, or its host cannot be reached ({first_line}). Go on with --resume."
        )
    if isinstance(error, OSError) and error.filename is not None:
        return ConfigError(str(error.filename), f"{error.strerror}.", f"Cure this. {again}")
    return None


__all__ = ["explain"]
