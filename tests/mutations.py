"""Plant known defects, one at a time, and see whether the fast tests catch them.

    python tests/mutations.py                                       # all ten; each runs the fast tests once at most
    python tests/mutations.py random-state --tests tests/training   # one, with the tests of one folder

Each defect is planted in a temporary copy of the checkout, never in the checkout itself. A test that fails there must
pass in a copy without the defect, else it says nothing of it. Exits 1 if the tests missed more than one in ten.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
REQUIRED = 0.9


class Defect(NamedTuple):
    """A change of one place of the code that a test must notice; when that place is rewritten, write it anew here."""

    area: str
    file: str
    old: str
    """Text that stands exactly once in the file."""
    new: str
    what: str


DEFECTS = {
    "packed-rows": Defect(
        "model",
        "unimoe/modeling/text.py",
        "            position_ids=plain,\n        )",
        "            position_ids=None,\n        )",
        "packed rows attend to the rows before them",
    ),
    "draft-modality": Defect(
        "model",
        "unimoe/modeling/head.py",
        "F.pad(mm_token_type_ids, (0, missing))",
        "F.pad(mm_token_type_ids, (0, missing), value=1)",
        "tokens that an assistant drafted are routed as parts of a picture",
    ),
    "renormalised-gradient": Defect(
        "router",
        "unimoe/moe/routers/router.py",
        "total = weights.sum(dim=-1, keepdim=True)",
        "total = weights.detach().sum(dim=-1, keepdim=True)",
        "the gradient does not pass through the sum that weights are divided by; the forward is right",
    ),
    "weight-of-no-expert": Defect(
        "router",
        "unimoe/moe/routers/router.py",
        "weights = weights.masked_fill(no_expert, 0.0)",
        "weights = weights.clone()",
        "the index that means no expert comes with a weight",
    ),
    "padding-in-load": Defect(
        "loss",
        "unimoe/moe/losses.py",
        "counts = group_sums(expert_mask, token_groups) if load is None",
        "counts = group_sums(expert_mask, torch.ones_like(token_groups)) if load is None",
        "the balance loss counts the experts of padding",
    ),
    "chance-of-worker": Defect(
        "data",
        "training/data/mixture/dataset.py",
        "sample_generator(self.seed, index.epoch, index.position)",
        "sample_generator(self.seed, index.epoch, index.position, torch.initial_seed() % 97)",
        "how a sample is augmented depends on the process that decodes it",
    ),
    "share-of-tokens": Defect(
        "trainer",
        "training/trainer/trainer.py",
        "return attended_tokens(inputs) / self._batch_tokens if",
        "return 1 / self.current_gradient_accumulation_steps if",
        "router losses of accumulated batches weigh alike, however many tokens the batches have",
    ),
    "optimizer-state": Defect(
        "checkpoint",
        "training/distributed/sharding.py",
        'for parameter in group["params"]:\n                name = names',
        'for parameter in group["params"][1:]:\n                name = names',
        "the first parameter of each group goes on without its optimizer state",
    ),
    "random-state": Defect(
        "checkpoint",
        "training/trainer/trainer.py",
        "super()._load_rng_state(checkpoint)",
        "super()._load_rng_state(None)",
        "random generators begin anew after a resume",
    ),
    "length-of-transcript": Defect(
        "metric",
        "evaluation/metrics/error_rates.py",
        "output.hits + output.substitutions + output.deletions",
        "output.hits + output.substitutions + output.insertions",
        "errors are divided by the words of the prediction, not of the reference",
    ),
}


def planted(name: str, text: str) -> str:
    """Return the text of a defect's file with the defect in it.

    Raises:
        ValueError: Unless the old text stands in it exactly once.
    """
    defect = DEFECTS[name]
    if (times := text.count(defect.old)) != 1:
        raise ValueError(
            f"Defect {name!r} ({defect.what}): its text stands {times} times in {defect.file}, not once. Write in "
            f"tests/mutations.py what that place says today:\n{defect.old}"
        )
    return text.replace(defect.old, defect.new)


@contextmanager
def copy_of_checkout() -> Iterator[Path]:
    """Copy the files that git knows or would add, as they are now, to a temporary folder."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, Path(folder) / name)
        yield Path(folder)


def first_failure(root: Path, arguments: Sequence[str]) -> str | None:
    """Run pytest in a copy of the checkout and return the name of a test that fails; None if all pass.

    Raises:
        RuntimeError: If the tests could not be run.
    """
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}", "OMP_NUM_THREADS": "1"}
    quiet = ["-q", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
    own = "--ignore=tests/test_mutations.py"  # which looks whether the place of a defect is as it was
    command = [sys.executable, "-m", "pytest", "-x", *quiet, own, *arguments]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+?\.py(?:::.+?)?)(?: - |$)", result.stdout, flags=re.MULTILINE)
    if failed is None:
        raise RuntimeError(f"The tests could not be run:\n{result.stdout[-3000:]}{result.stderr[-1000:]}")
    return failed[1]


def is_caught(name: str, tests: Sequence[str], workers: int) -> bool:
    """Plant a defect in a copy of the checkout, run the tests there, and say what came of it."""
    spread = ["-n", str(workers), "--dist", "worksteal"] if workers > 1 else []
    defect, began = DEFECTS[name], time.monotonic()
    with copy_of_checkout() as root:
        path = root / defect.file
        original = path.read_text(encoding="utf-8")
        path.write_text(planted(name, original), encoding="utf-8")
        failed = first_failure(root, [*spread, *tests])
        path.write_text(original, encoding="utf-8")
        outcome = f"caught by {failed}" if failed else "MISSED"
        if failed and first_failure(root, [failed]):
            failed, outcome = None, f"MISSED: {failed} fails without the defect too"
    print(f"{name} ({defect.area}: {defect.what}): {outcome}, {time.monotonic() - began:.0f} s", flush=True)
    return failed is not None


def main() -> int:
    """Plant the defects that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(DEFECTS)}; all if none is given")
    parser.add_argument("--tests", nargs="+", default=[], metavar="PATH", help="run these tests instead of all")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that share the tests")
    options = parser.parse_args()
    names = options.names or list(DEFECTS)
    if unknown := sorted(set(names) - DEFECTS.keys()):
        parser.error(f"no defect is called {', '.join(unknown)}; choose from {', '.join(DEFECTS)}")
    try:
        for name in names:  # before hours of tests
            planted(name, (ROOT / DEFECTS[name].file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    caught = sum(is_caught(name, options.tests, options.workers) for name in names)
    print(f"{caught} of {len(names)} defects caught")
    return int(caught < REQUIRED * len(names))


if __name__ == "__main__":
    sys.exit(main())
