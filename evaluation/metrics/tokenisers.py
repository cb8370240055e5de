"""Tokenisers of captions: the Penn Treebank's, which published scores use and which needs Java, and a plain one."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import EvaluationError

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_CLASS = "edu.stanford.nlp.process.PTBTokenizer"


@dataclass(frozen=True)
class Tokenised:
    """Captions as tokens with single spaces between them, and the name of the tokeniser."""

    captions: list[str]
    tokeniser: str


def tokenise(captions: Sequence[str]) -> Tokenised:
    """Cut captions into tokens with the Penn Treebank's tokeniser if Java is there, otherwise with the plain one.

    Raises:
        EvaluationError: If Java is there but does not run the tokeniser.
    """
    java = shutil.which("java")
    if java is None:
        return Tokenised([plain(caption) for caption in captions], "plain")
    return Tokenised(_treebank(captions, java), "Penn Treebank")


def plain(caption: str) -> str:
    """Cut into words of letters and digits with the apostrophes within them, in lower case."""
    return " ".join(_WORD.findall(caption.lower()))


def _treebank(captions: Sequence[str], java: str) -> list[str]:
    """Call pycocoevalcap's tokeniser by hand: its own call takes the platform's encoding and counts no lines."""
    import pycocoevalcap.tokenizer.ptbtokenizer as shipped

    lines = [" ".join(caption.split()) for caption in captions]
    asked = "".join(f"{line}\n" for line in lines if line)
    jar = Path(shipped.__file__).parent / shipped.STANFORD_CORENLP_3_4_1_JAR
    options = ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    command = [java, "-Dfile.encoding=UTF-8", "-cp", str(jar), _CLASS, *options]
    result = subprocess.run(command, input=asked.encode(), capture_output=True, check=False)
    answered = result.stdout.decode().removesuffix("\n").split("\n") if asked else []
    expected = sum(map(bool, lines))
    if result.returncode or len(answered) != expected:
        raise EvaluationError(
            f"the Penn Treebank tokeniser gave {len(answered)} captions for {expected} (exit code "
            f"{result.returncode}): {result.stderr.decode(errors='replace').strip()[-300:]}. Check `java -version`."
        )
    tokens = iter(answered)
    return [_without_marks(next(tokens), shipped.PUNCTUATIONS) if line else "" for line in lines]


def _without_marks(line: str, marks: Sequence[str]) -> str:
    return " ".join(token for token in line.rstrip().split(" ") if token not in marks)


__all__ = ["Tokenised", "plain", "tokenise"]
