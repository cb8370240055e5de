"""One output has one training: a lock on a file in it, which the system takes back when its process ends, however."""

import json
import logging
import os
import shlex
import socket
import stat
import sys
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from unimoe.errors import ConfigError
from unimoe.errors.visible import visible

from ..distributed.processes import launched

logger = logging.getLogger(__name__)
LOCK_FILE = "training.lock"
_BEGIN = b'{"pid": '


class OutputLock:
    """Holds an output folder for one training, which may have several processes: the first of them holds it.

    `flock` dies with its process, after a kill or a loss of power too, so that no lock is left over. The file says
    who holds it. On file systems of a network the lock is as good as the file system's own; see docs/training.md.

    Args:
        folder: Made if it is not there.

    Raises:
        ConfigError: On entering: if another training holds it, naming that one, or nothing can be written there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / LOCK_FILE
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        if launched()[0] > 0:
            return self
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._take()
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(_this_process()).encode(), 0)
        except OSError as error:
            problem = f"cannot be written ({error.strerror or error})."
            raise ConfigError(str(self.folder), problem, "Name another `output`.") from None
        _held.add(self._descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._descriptor is None:
            return
        self.path.unlink(missing_ok=True)
        _held.discard(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None
        if not any(self.folder.iterdir()):  # it was made for the lock
            self.folder.rmdir()

    def _take(self) -> int:
        """Lock the file that has the name; one that another training has just removed has it no more."""
        import fcntl

        while True:
            if self.path.is_symlink():
                raise self._foreign(f"is a link to {os.readlink(self.path)}")
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK  # neither through a link nor into a pipe
            descriptor = os.open(self.path, flags, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise self._taken() from None
            except OSError as error:  # a file system without locks
                logger.warning("%s cannot be locked (%s): start no other training in it.", self.folder, error.strerror)
                return self._check(descriptor)
            if self._is_named(descriptor):
                return self._check(descriptor)
            os.close(descriptor)

    def _check(self, descriptor: int) -> int:
        """Refuse what is no lock of a training, such as a file of the user's with its name."""
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
            begin = os.pread(descriptor, len(_BEGIN), 0).strip(b"\0")
            if _BEGIN.startswith(begin):  # also of a lock that was not written to its end
                return descriptor
        os.close(descriptor)
        raise self._foreign("is not the lock of a training")

    def _foreign(self, problem: str) -> ConfigError:
        return ConfigError(str(self.path), f"{problem}.", "Remove it, or name another `output`.")

    def _is_named(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def _taken(self) -> ConfigError:
        try:
            with self.path.open("rb") as file:
                holder = json.loads(file.read(10_000))
            said = [" ".join(visible(str(holder[key])[:500]).split()) for key in ("pid", "host", "since", "command")]
            who = "process {} on {}, since {}: {}".format(*said)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            who = "it has not yet said which"
        return ConfigError(
            str(self.folder),
            f"another training is writing there ({who}).",
            "Wait for it or end it, or name another `output`.",
        )


def _this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join(shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]).split())[:500],
    }


_held: set[int] = set()
"""Descriptors of the locks of this process; a process that is forked from it, such as one that loads data and may
outlive it, must not hold them."""


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


__all__ = ["LOCK_FILE", "OutputLock"]
