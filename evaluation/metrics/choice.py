"""Multiple choice: which option an answer names, accuracy, and CircularEval.

The right answer of a row is the letter of an option, or its text. A row whose right answer is a text is answered in
words. An answer that names no option is unparsed: there is no default option and no random one.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from ..tasks import Sample
from ..tasks.choices import LETTERS
from .denied import DENIAL, affirmed, clauses, is_spoiled
from .metric import Flags, Metric, Scores, group_shares, shares
from .normalise import fold, normalise, without_thoughts
from .stated import read_stated, stated_texts, without_denied

_OPENING = r"""[\s(\[{*"'`$【「『]*"""
_CLOSING = r"""[\s.:)\]}*"'$】」』。]*"""
_LABELLED_LINE = re.compile(r"^[ \t(\[*]*([A-Z])[.):].*$", re.MULTILINE)
_DENIED_TEXT = r" (?:not|no|nor|neither|never|isnt|isn\u2019t|wasnt|cannot be|cant be|rather than|unlike) "
"""Normalised words after which the text of an option is denied."""
_WIDE = re.compile(r"[\uff01-\uff5e\U0001d400-\U0001d7ff]")
"""Letters, digits and marks of full width, and those of formulas."""
_BESIDE_LETTERS = frozenset(("and", "or", "nor", "neither", "either", "both", "none", "all", "not", "of", "the"))


def read_choice(prediction: str, choices: Sequence[str]) -> str | None:
    """Read the letter of the option that an answer names; None if it names none, or several.

    In this order: the text of one option and nothing else; the letter that is stated ("Answer: X", see `stated`); the
    text that is; the letter at the start, followed by a delimiter or by nothing (`A dog` begins with an article); the
    letter at the end; "(X)"; "X."; "X:"; "X)", the last of each; the text of exactly one option somewhere in the
    answer. Letters within a text are capitals. Options that the answer repeats with their letters, and what is denied
    ("not X", "X is wrong") or named beside another ("X or Y"), are no answer.

    Args:
        prediction: What the model said.
        choices: Texts of the options A, B, ...
    """
    letters = LETTERS[: len(choices)]
    prediction = without_thoughts(prediction)
    for form in (fold, normalise):  # in the end, `texts` are normalised
        texts, given = [form(choice) for choice in choices], form(prediction)
        if len(given) > 1 and texts.count(given) == 1:
            return letters[texts.index(given)]
    plain = affirmed(_WIDE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), prediction))
    text = without_denied(_without_own_texts(plain, choices), letters)
    letter, stated = read_stated(text, letters)
    if stated:
        return letter
    if named := [letter for said in stated_texts(text) if (letter := _find_option(said, texts))]:
        return named[-1]
    text = _without_list(text, letters)
    if _names_several(text, letters):
        return None
    return _read_letter(text, letters) or _find_option(text, texts)


def _without_own_texts(text: str, choices: Sequence[str]) -> str:
    """Remove texts of options that deny something, after their own letters: "B. No cat" is no denial."""
    for letter, choice in zip(LETTERS, choices, strict=False):
        if DENIAL.search(choice) or fold(choice) in ("yes", "true", "right", "correct"):
            text = re.sub(rf"(?<!\w)({letter}\W{{1,6}})(?i:{re.escape(choice)})(?!\w)", r"\1", text)
    return text


def _without_list(text: str, letters: str) -> str:
    """Remove the options that an answer repeats: lines that begin with letters, or all letters in one line."""
    labels = {line[1] for line in _LABELLED_LINE.finditer(text)} & set(letters)
    text = _LABELLED_LINE.sub("", text) if len(labels) > 1 else text
    return re.sub(".*".join(rf"(?<!\w){letter}[.):]" for letter in letters) + ".*", "", text)


def _names_several(text: str, letters: str) -> bool:
    """Tell whether an answer is made of several letters, such as "A and B" or "Neither A nor B"."""
    words = re.findall(r"\w+", text)
    named = set(words) & set(letters)
    return len(named) > 1 and all(word in named or word.lower() in _BESIDE_LETTERS for word in words)


def _read_letter(text: str, letters: str) -> str | None:
    """Read the letter at the position of highest priority, the last of those."""
    letter = f"([{letters}])"
    alone = rf"(?<![\w.']){letter}"
    either_case = f"([{letters}{letters.lower()}])"
    refused = r"(?<!\bor )(?<!\band )(?<!\d )"
    patterns = (
        rf"\A{_OPENING}{either_case}(?=[:;!),\]}}*`\"\t\n。、】」』]|[.'](?!\w)|\s*\Z|\s+(?:[\u2013\u2014-]\s|(?:because|since)\b))",
        rf"""(?:\A|(?<=[\s(\[{{*"':$])){refused}{letter}{_CLOSING}\Z""",
        rf"\({letter}\)",
        rf"{alone}\.(?!\w)",
        rf"{alone}:",
        rf"{alone}\)",
    )
    for pattern in patterns[: 1 if DENIAL.search(text) else None]:
        if found := [place[1] for place in re.finditer(pattern, text) if not _spoils(place)]:
            return str(found[-1]).upper()
    last = re.search(rf"(?:\A|[.!。]\s{{0,4}}\n)\s{{0,4}}[*(]{{0,3}}{letter}[*).]{{0,4}}\s*\Z", text)
    return last[1] if last else None


def _spoils(found: re.Match[str]) -> bool:
    return is_spoiled(found.string, found.start(1), found.start(1), found.end(1))


def _find_option(given: str, texts: Sequence[str]) -> str | None:
    """Find the only option whose text occurs in the answer as whole words, not within a longer one.

    Where the answer denies, asks or makes conditional, only clauses that do not are read, and an option that is asked
    about leaves it unread.
    """
    found, rest = _options_in(given, texts)
    if DENIAL.search(rest) or DENIAL.search(given) or "?" in given:
        parts = [(*_options_in(part, texts), asked) for part, asked in clauses(given)]
        denying = any(DENIAL.search(text) for text in found)  # such as "no"
        if any(
            (options and asked) or (not denying and _denies_alone(options, rest)) for options, rest, asked in parts
        ):
            return None
        found = set().union(*(options for options, rest, _ in parts if not DENIAL.search(rest)))
    named = [letter for letter, text in zip(LETTERS, texts, strict=False) if text in found]
    return named[0] if len(named) == 1 else None


def _denies_alone(options: set[str], rest: str) -> bool:
    """Tell whether a clause says "no" or "that is wrong", of another clause."""
    return not options and "\0" not in rest and len(rest.split()) <= 3 and DENIAL.search(rest) is not None


def _options_in(given: str, texts: Sequence[str]) -> tuple[set[str], str]:
    """Find options that a text names and does not deny right before them, and what is left of it."""
    rest, found = f" {normalise(given)} ", set()
    for text in sorted({*texts} - {""}, key=len, reverse=True):
        rest = re.sub(f"{_DENIED_TEXT}{re.escape(text)} ", " \0 ", rest)
        if f" {text} " in rest:
            found.add(text)
            rest = rest.replace(f" {text} ", " \0 ")
    return found, rest


def is_in_words(sample: Sample) -> bool:
    """Tell whether the right answer of a row is the text of an option; one of the letters A to Z alone is a letter."""
    if sample.reference.strip().upper() in list(LETTERS):
        return False
    return normalise(sample.reference) in [normalise(choice) for choice in sample.choices]


def read_words(prediction: str, choices: Sequence[str]) -> str | None:
    """Read the option that an answer in words is, as `normalise` writes it; None if it is none, or several.

    The whole answer and the whole text of the option are compared after `normalise`, as in exact_match. An answer that
    says more than the option, or a part of it, is none.
    """
    given = normalise(without_thoughts(prediction))
    return given if [normalise(choice) for choice in choices].count(given) == 1 else None


def read_option(sample: Sample, prediction: str) -> str | None:
    """Read the option that an answer names: its letter, or its text where the row is answered in words."""
    read = read_words if is_in_words(sample) else read_choice
    return read(prediction, sample.choices)


def _right_option(sample: Sample) -> str:
    return normalise(sample.reference) if is_in_words(sample) else sample.reference.strip().upper()


def _read(samples: Sequence[Sample], predictions: Sequence[str]) -> tuple[Flags, Flags]:
    """Read hits and unparsed rows, both (rows,)."""
    options = [read_option(sample, prediction) for sample, prediction in zip(samples, predictions, strict=True)]
    hits = [option == _right_option(sample) for option, sample in zip(options, samples, strict=True)]
    return np.array(hits, dtype=bool), np.array([option is None for option in options], dtype=bool)


def _score_multiple_choice(samples: Sequence[Sample], predictions: Sequence[str]) -> Scores:
    hits, unparsed = _read(samples, predictions)
    return Scores({"accuracy": shares(hits)}, unparsed)


def _score_circular(samples: Sequence[Sample], predictions: Sequence[str]) -> Scores:
    """Score CircularEval (Liu et al. 2023, MMBench, arXiv 2307.06281): all rotations of a question must be right."""
    hits, unparsed = _read(samples, predictions)
    return Scores({"circular": group_shares(samples, hits), "accuracy": shares(hits)}, unparsed)


def _lacks_choice(sample: Sample) -> str | None:
    count = len(sample.choices)
    if not 2 <= count <= len(LETTERS):
        return f"'choices', a list of the options' texts; found {count}, expected 2 to {len(LETTERS)}."
    if sample.reference.strip().upper() in list(LETTERS[:count]):
        return None
    if not is_in_words(sample):
        return (
            f"the right option as the reference: its letter, A to {LETTERS[count - 1]}, or its text, one of "
            f"{list(sample.choices)} (one of A to Z alone is a letter); found {sample.reference!r}."
        )
    texts = [normalise(choice) for choice in sample.choices]
    if twice := [choice for choice, text in zip(sample.choices, texts, strict=True) if texts.count(text) > 1]:
        return (
            f"options whose texts differ, for it is answered in words; {' and '.join(map(repr, twice[:2]))} are alike "
            "without case, articles and punctuation. Change one, or answer by letters."
        )
    return None


def _lacks_rotation(sample: Sample) -> str | None:
    if not sample.group:
        return "'group', the same text in all rotations of a question. Add it, or use metric multiple_choice."
    return _lacks_choice(sample)


_READING = (
    "the option's letter, otherwise its text in lower case, no articles, no punctuation but that of numbers; where "
    "the right answer is a text, the whole answer is compared so"
)
MULTIPLE_CHOICE = Metric(_score_multiple_choice, _READING, lacks=_lacks_choice, answer=read_option)
CIRCULAR = Metric(_score_circular, _READING, lacks=_lacks_rotation, answer=read_option)

__all__ = ["CIRCULAR", "MULTIPLE_CHOICE", "is_in_words", "read_choice", "read_option", "read_words"]
