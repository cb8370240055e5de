"""The label prior: what a model loses that knows nothing but how often each answer occurs in the training rows.

Such a model gives an answer the probability with which it occurs, whatever is asked and shown. The loss of an answer
is the sum over its tokens, end of turn included, so that it loses -log p(answer) nats there; and on all rows the sum
of these over the number of labels: nats per label, as the language loss.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import repeat

from unimoe import Modality, UniMoEProcessor

from .mixture.dataset import MixtureDataset
from .readers.sources import RowStream
from .rows import Row

COUNTED = 4_000
"""Rows of a file whose answers are counted; of a longer one, as many that are spread evenly."""
BATCH = 256


@dataclass(frozen=True)
class Answers:
    """The answers of a data file, or of some of its rows.

    Args:
        counts: How often each occurs; every turn of an assistant is one.
        problem: Why they have no prior. Empty: they have one.
    """

    counts: Counter[str]
    problem: str = ""

    @property
    def total(self) -> int:
        """How many answers there are."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class PriorLoss:
    """What the label prior loses.

    Args:
        nats: On all answers together.
        labels: Their tokens that are learned.
        problem: Why there is none. Empty: there is one.
    """

    nats: float = 0.0
    labels: float = 0.0
    problem: str = ""

    @property
    def loss(self) -> float | None:
        """Nats per label; None where the prior is not defined."""
        return None if self.problem else self.nats / self.labels


def count_answers(rows: Iterable[Row]) -> Answers:
    """Count the answers of rows, and say whether they have a prior.

    They have none where an answer has media, all answers are the same, or more than half of them are distinct, as free
    text is: from such rows nothing can be learned about which answers are frequent.
    """
    counts: Counter[str] = Counter()
    for row in rows:
        for message in row.messages:
            if message["role"] == "assistant":
                if any(item["type"] != Modality.TEXT.key for item in message["content"]):
                    return Answers(Counter(), "answers with media")
                counts["".join(item["text"] for item in message["content"])] += 1
    total = sum(counts.values())
    if len(counts) < 2:
        return Answers(counts, "one answer alone")
    free = f"{len(counts):,} of {total:,} answers are distinct" if 2 * len(counts) > total else ""
    return Answers(counts, free)


def answers_of_source(rows: Sequence[Row] | RowStream) -> Answers:
    """Count the answers of a training file; those of a stream are not known before it is read."""
    if isinstance(rows, RowStream):
        return Answers(Counter(), "a stream")
    return count_answers(rows[number] for number in evenly(len(rows), COUNTED))


def prior_loss(answers: Answers, known: Answers, labels: Mapping[str, int]) -> PriorLoss:
    """Compute what the prior that `known` answers give loses on answers.

    Of n known answers, one that occurs k times has probability k / (n + u); each of the u distinct answers that are
    not among them counts as one that occurred once, 1 / (n + u).

    Args:
        answers: What it is measured on.
        known: Where it has learned how often each occurs.
        labels: Tokens of each answer that are learned.
    """
    if known.problem or not answers.total:
        return PriorLoss(problem=known.problem or answers.problem)
    unseen = [answer for answer in answers.counts if answer not in known.counts]
    if 2 * sum(answers.counts[answer] for answer in unseen) > answers.total:
        return PriorLoss(problem="most answers are in no training file")
    total = known.total + len(unseen)
    nats = sum(count * -math.log(known.counts.get(a, 1) / total) for a, count in answers.counts.items())
    return PriorLoss(nats, sum(labels[answer] * count for answer, count in answers.counts.items()))


def best_prior_loss(answers: Answers, training: Iterable[Answers], labels: Callable[[str], int]) -> PriorLoss:
    """Compute what the prior of that training file loses on answers which fits them best."""
    tokens = {answer: labels(answer) for answer in answers.counts}
    found = [prior_loss(answers, known, tokens) for known in training]
    defined = [each for each in found if not each.problem]
    return min(defined, key=lambda each: each.nats) if defined else (found or [PriorLoss(problem="no rows")])[0]


def add_priors(losses: Iterable[PriorLoss], weights: Iterable[float] = repeat(1.0)) -> PriorLoss:
    """Add up what priors lose on all their answers, each file's weighted; there must be one for every file."""
    nats = labels = 0.0
    for each, weight in zip(losses, weights, strict=False):
        if each.problem:
            return each
        nats, labels = nats + weight * each.nats, labels + weight * each.labels
    return PriorLoss(nats, labels) if labels else PriorLoss(problem="no rows")


def prior_losses(answers: Sequence[Answers], processor: UniMoEProcessor) -> list[PriorLoss]:
    """Compute what each training file's prior loses on its own rows: the entropy of its answers, over their labels."""
    count = label_counter(processor)
    return [
        PriorLoss(problem=each.problem) if each.problem else prior_loss(each, each, {a: count(a) for a in each.counts})
        for each in answers
    ]


def mixture_prior(dataset: MixtureDataset, losses: Sequence[PriorLoss]) -> PriorLoss:
    """Compute what the priors of the files of a mixture lose on all that one pass shows.

    Args:
        dataset: The mixture.
        losses: Of each of its files.
    """
    weights = [
        source.weight * size / max(min(size, COUNTED), 1)
        for source, size in zip(dataset.sources, dataset.sizes, strict=True)
    ]
    return add_priors(losses, weights)


def label_counter(processor: UniMoEProcessor) -> Callable[[str], int]:
    """Return what counts the tokens of an answer that are learned, as the chat template marks them."""

    @cache
    def count(answer: str) -> int:
        turns = [("user", "?"), ("assistant", answer)]
        inputs = processor.apply_chat_template(
            [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        mask = inputs["assistant_masks"]
        return int(sum(mask[0] if isinstance(mask[0], Sequence) else mask))

    return count


def evenly(size: int, most: int) -> list[int]:
    """Return numbers below a size, spread evenly, so many at most."""
    chosen = min(size, most)
    return [number * size // chosen for number in range(chosen)]


__all__ = [
    "Answers",
    "PriorLoss",
    "add_priors",
    "answers_of_source",
    "best_prior_loss",
    "count_answers",
    "evenly",
    "label_counter",
    "mixture_prior",
    "prior_loss",
    "prior_losses",
]
