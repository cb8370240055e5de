"""How long `import unimoe` takes, each time in a fresh process, against what it cannot do without."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .timing import Case

ROOT = Path(__file__).parents[1]
BARE = "import torch, transformers"
NEEDED = (
    "from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, "
    "AutoModelForMultimodalLM, AutoProcessor, GenerationMixin, PreTrainedModel"
)
"""The classes of transformers that unimoe registers with or is derived from; transformers loads them when asked."""


def modules_after(*statements: str) -> set[str]:
    """Names of the modules that a fresh Python has after these statements."""
    code = ";".join((*statements, "import sys", "print(*sys.modules)"))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def imports() -> Iterator[Case]:
    """`import unimoe` against the parts of transformers that it needs, and against torch and transformers alone."""
    peers = {
        "transformers' Auto classes": lambda: modules_after(NEEDED),
        "torch, transformers": lambda: modules_after(BARE),
        "unimoe": lambda: modules_after("import unimoe"),
    }
    yield Case("imports", peers, {name: {"modules": float(len(run()))} for name, run in peers.items()})
