"""What is compared: output folders of evaluations, alone or as the seeds of a variant."""

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import EvaluationError

_SEED = re.compile(r"(?P<variant>.+)-(?P<seed>\d+)")


def name_runs(folders: Sequence[Path]) -> list[tuple[str, list[Path]]]:
    """Take each folder as a variant of one run, named like the folder; by its whole path where two names are equal."""
    names = [folder.name or str(folder) for folder in folders]
    return [
        (str(folder) if names.count(name) > 1 else name, [folder]) for name, folder in zip(names, folders, strict=True)
    ]


def parse_group(text: str) -> tuple[str, list[Path]]:
    """Read `NAME=DIR,DIR`: a variant and its runs, in the order of their seeds.

    Raises:
        EvaluationError: If it is not of this form.
    """
    name, equals, folders = text.partition("=")
    parts = [part.strip() for part in folders.split(",")]
    if not (name.strip() and equals and all(parts)):
        raise EvaluationError(f'--group {text!r}: expected NAME=DIR,DIR, e.g. "top-k=runs/a-0,runs/a-1".')
    return name.strip(), [Path(part) for part in parts]


def find_seeds(parent: Path) -> dict[str, list[Path]]:
    """Find the evaluations VARIANT-SEED in a folder: variant -> its runs by seed.

    Raises:
        EvaluationError: If there are none, or a variant lacks a seed that another one has.
    """
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(parent.glob("*/results.json")):
        if match := _SEED.fullmatch(path.parent.name):
            of_seed = found.setdefault(match["variant"], {})
            if (other := of_seed.setdefault(int(match["seed"]), path.parent)) != path.parent:
                raise EvaluationError(
                    f"{other} and {path.parent} are the same seed of one variant. Rename one of them."
                )
    if not found:
        raise EvaluationError(f"--seeds {parent}: no folder VARIANT-SEED with a results.json in it, such as top-k-0.")
    seeds = sorted(set().union(*found.values()))
    for variant, of_seed in found.items():
        if missing := [str(seed) for seed in seeds if seed not in of_seed]:
            raise EvaluationError(
                f"--seeds {parent}: {variant} lacks seed {', '.join(missing)}, which others have. Evaluate it, or "
                "name the runs with --group."
            )
    return {variant: [of_seed[seed] for seed in seeds] for variant, of_seed in found.items()}


def collect_variants(
    runs: Sequence[Path] = (), groups: Sequence[str] = (), parents: Sequence[Path] = ()
) -> dict[str, list[Path]]:
    """Put all that is to be compared together, in this order.

    Args:
        runs: Folders, each a variant.
        groups: `NAME=DIR,DIR` each.
        parents: Folders of VARIANT-SEED folders.

    Raises:
        EvaluationError: If a name or a folder is given twice, or cannot be read.
    """
    pairs = [*name_runs(runs), *map(parse_group, groups)]
    pairs += [pair for parent in parents for pair in find_seeds(parent).items()]
    variants: dict[str, list[Path]] = {}
    owners: dict[Path, str] = {}
    for name, folders in pairs:
        if name in variants:
            raise EvaluationError(
                f"{name!r} is given twice. Give each run once, and name variants apart with --group."
            )
        variants[name] = folders
        for folder in folders:
            if (path := folder.resolve()) in owners:
                raise EvaluationError(
                    f"{folder} is given twice, for {owners[path]} and {name}. A run is of one variant."
                )
            owners[path] = name
    return variants


__all__ = ["collect_variants", "find_seeds", "name_runs", "parse_group"]
