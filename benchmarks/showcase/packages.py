"""What unpacked packages hold: stamps with captions and voices (tuxpaint), nouns with glosses (WordNet), one-shots
(Sonic Pi).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

_CAPTION = re.compile(r"([A-Za-z_@]+)\.utf8=(.+)")
# WordNet's lexicographer files of nouns, from number 3 on (lexnames(5WN)).
_KINDS = "top,act,animal,artifact,attribute,body,cognition,communication,event,feeling,food,group,location,motive,\
object,person,phenomenon,plant,possession,process,quantity,relation,shape,state,substance,time"
_FIRST_KIND = 3


class MissingPackage(FileNotFoundError):
    """A folder of a package that is not there; the message says how to get it."""


def folder_of(packages: Path, path: str, package: str) -> Path:
    """Return a folder of an unpacked package.

    Args:
        packages: Where packages were unpacked with `dpkg -x`.
        path: Of the folder, below `usr/share`.
        package: That holds it.

    Raises:
        MissingPackage: If it is not there.
    """
    folder = packages / "usr" / "share" / path
    if not folder.is_dir():
        raise MissingPackage(
            f"{folder} is not there. Run: apt-get download {package} && dpkg -x {package}_*.deb {packages}"
        )
    return folder


def share_of(text: str) -> float:
    """Map a text to a number in [0, 1) by its hash: the same everywhere, so that splits are."""
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest()) / 2**48


@dataclass(frozen=True)
class Stamp:
    """A picture with captions.

    Args:
        name: Its path below the stamps, without ending.
        picture: PNG file, mostly transparent around the thing.
        captions: Language code -> caption; `en` is there.
        voices: Language code -> recording of that caption.
    """

    name: str
    picture: Path
    captions: dict[str, str]
    voices: dict[str, Path]

    @property
    def thing(self) -> str:
        """What it shows, by the English caption: stamps of one thing stay together when rows are split. (Large and
        small letters do, too, as some recordings of them are the same.)
        """
        return self.captions["en"].lower()

    @property
    def may_be_flipped(self) -> bool:
        """Whether it is the same thing in a mirror; letters, digits and signs are not."""
        return not self.name.startswith("symbols/")


def read_stamps(packages: Path, *, longest: int) -> Iterator[Stamp]:
    """Yield the stamps that are PNG files, with those captions that have at most so many characters."""
    folder = folder_of(packages, "tuxpaint/stamps", "tuxpaint-stamps-default")
    for text in sorted(folder.rglob("*.txt")):
        picture = text.with_suffix(".png")
        if not picture.is_file():
            continue
        first, *others = text.read_text(encoding="utf-8").splitlines()
        captions = {"en": first.strip()}
        captions |= {found[1]: found[2].strip() for line in others if (found := _CAPTION.fullmatch(line))}
        captions = {code: caption for code, caption in captions.items() if 0 < len(caption) <= longest}
        if "en" not in captions:
            continue
        voices = {code: text.with_name(f"{text.stem}_desc_{code}.ogg") for code in captions}
        voices = {code: path for code, path in voices.items() if path.is_file()}
        yield Stamp(text.relative_to(folder).with_suffix("").as_posix(), picture, captions, voices)


@dataclass(frozen=True)
class Noun:
    """A sense of a noun."""

    word: str
    kind: str
    gloss: str


def read_nouns(packages: Path, *, longest: int) -> Iterator[Noun]:
    """Yield single lower-case words whose gloss has at most so many characters; of each word its first sense."""
    path = folder_of(packages, "wordnet", "wordnet-base") / "data.noun"
    known = set()
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.startswith(" "):  # the licence
                continue
            head, _, glosses = line.partition(" | ")
            _, number, _, _, word, *_ = head.split()
            gloss = glosses.split(";")[0].strip()
            if word in known or not (word.isalpha() and word.islower()):
                continue
            known.add(word)
            if 0 < len(gloss) <= longest:
                yield Noun(word, _KINDS.split(",")[int(number) - _FIRST_KIND], gloss)


def one_shots(packages: Path) -> dict[str, Path]:
    """Return Sonic Pi's samples by name: not the loops, nor the soundscapes, which last."""
    folder = folder_of(packages, "sonic-pi/samples", "sonic-pi-samples")
    paths = {path.stem.replace("_", " "): path for path in sorted(folder.glob("*.flac"))}
    return {name: path for name, path in paths.items() if not name.startswith(("loop ", "ambi "))}
