"""Metrics by name. Every value is a ratio of sums over rows, and a fraction (1 is 100 %) save CIDEr-D and MME's score.

rows and predictions -> `Metric.score` -> `Scores` (pairs of each named value, unparsed rows) -> `scores.estimates`
"""

from .captions import CAPTIONS
from .choice import CIRCULAR, MULTIPLE_CHOICE, read_choice, read_option
from .error_rates import CER, WER, character_errors, word_errors
from .evalai import normalise_vqa_answer
from .metric import Flags, Metric, Pairs, Scores, check_rows, ratio
from .normalise import is_unparsed, normalise, without_thoughts
from .short_answers import ANLS, CONTAINS, EXACT_MATCH, VQA_ACCURACY, anls, contains, exact_match, vqa_accuracy
from .yes_no import MME, YES_NO, read_yes_no

METRICS: dict[str, Metric] = {
    "exact_match": EXACT_MATCH,
    "vqa_accuracy": VQA_ACCURACY,
    "anls": ANLS,
    "multiple_choice": MULTIPLE_CHOICE,
    "circular": CIRCULAR,
    "yes_no": YES_NO,
    "mme": MME,
    "wer": WER,
    "cer": CER,
    "captions": CAPTIONS,
    "contains": CONTAINS,
}

__all__ = [
    "METRICS",
    "Flags",
    "Metric",
    "Pairs",
    "Scores",
    "anls",
    "character_errors",
    "check_rows",
    "contains",
    "exact_match",
    "is_unparsed",
    "normalise",
    "normalise_vqa_answer",
    "ratio",
    "read_choice",
    "read_option",
    "read_yes_no",
    "vqa_accuracy",
    "without_thoughts",
    "word_errors",
]
