"""The answer normaliser of the EvalAI VQA challenges, used by VQA accuracy on VQAv2, OK-VQA, A-OKVQA and TextVQA.

Written from the description of the steps; the table of contractions is built by a rule, one apostrophe left out.
Steps, in order: lower case; `,` and `?` dropped; `'s` split off; line breaks and tabs to spaces; punctuation; periods;
number words; articles; contractions.
"""

import re

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD_BEFORE_NO_DIGIT = re.compile(r"\.(?!\d)")
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {"none": "0"} | {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())}
_ARTICLES = frozenset(("a", "an", "the"))

# Bare forms that are words of their own (well, were, ill, id, its, lets, wed, shell) are left out.
_CONTRACTIONS = """
    'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've
    mustn't needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's
    there'd there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _misspellings(word: str) -> list[str]:
    """Leave out one of a word's apostrophes."""
    return [word[:index] + word[index + 1 :] for index, letter in enumerate(word) if letter == "'"]


_RESTORED = {wrong: word for word in _CONTRACTIONS.split() for wrong in _misspellings(word)}


def normalise_vqa_answer(text: str) -> str:
    """Bring an answer into the form in which VQA accuracy compares: "The red, car" -> "red car", "two" -> "2"."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = text.replace("\n", " ").replace("\t", " ").strip()
    text = _PERIOD_BEFORE_NO_DIGIT.sub("", _strip_punctuation(text))
    words = (_NUMBERS.get(word, word) for word in text.split())
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def _strip_punctuation(text: str) -> str:
    """Drop a mark everywhere if it stands beside a space anywhere, otherwise put spaces in its place."""
    stripped = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if beside_space else " ")
    return stripped


__all__ = ["normalise_vqa_answer"]
