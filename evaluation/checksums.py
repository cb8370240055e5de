"""checksums.json beside a benchmark's files: what they were when they were first used, so that a change is noticed."""

import json
from pathlib import Path

from unimoe.files.writing import write_whole

from .errors import EvaluationError, read_json
from .processes import rank

CHECKSUMS = "checksums.json"


def check_files(root: Path, read: dict[str, str]) -> None:
    """Compare annotation files with what they were before; note those that are read for the first time.

    Args:
        root: Folder of a benchmark. If it cannot be written to, nothing is noted.
        read: Path below it -> SHA-256.

    Raises:
        EvaluationError: If a file has changed; names it and the cure.
    """
    path = root / CHECKSUMS
    try:
        known = read_json(path.read_bytes(), where=str(path)) if path.is_file() else {}
    except EvaluationError as error:
        raise EvaluationError(f"{path} is damaged ({error.problem}) Remove it to note the files anew.") from None
    if not isinstance(known, dict) or not all(isinstance(digest, str) for digest in known.values()):
        raise EvaluationError(f"{path} is damaged (no object of texts). Remove it to note the files anew.")
    for name, digest in read.items():
        if known.get(name, digest) != digest:
            raise EvaluationError(
                f"{root / name} is not what it was when it was first used (SHA-256 {known[name][:12]} then, "
                f"{digest[:12]} now): scores would not be comparable. Bring it back, or remove {path}."
            )
    if rank() == 0 and read.keys() - known.keys():
        try:
            write_whole(path, json.dumps({**known, **read}, indent=1, sort_keys=True) + "\n")
        except OSError:  # a data root that is shared and read-only; results.json has the hashes too
            return


__all__ = ["CHECKSUMS", "check_files"]
