"""Router losses once more, token by token in float64 and plain Python, written apart from the code that they check.

`group_of` says for each token which group it belongs to; None: padding. Lists of lists stand for tensors.
"""

import math
from collections.abc import Sequence

Matrix = Sequence[Sequence[float]]
Groups = Sequence[int | None]


def average(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def members(group_of: Groups) -> list[list[int]]:
    """Tokens of each group that has some."""
    present = sorted({group for group in group_of if group is not None})
    return [[token for token, group in enumerate(group_of) if group == wanted] for wanted in present]


def open_to(logits: Matrix, tokens: Sequence[int]) -> list[int]:
    return [e for e in range(len(logits[0])) if any(logits[t][e] != -math.inf for t in tokens)]


def balance(logits: Matrix, probs: Matrix, mask: Matrix, group_of: Groups) -> float:
    values = []
    for tokens in members(group_of):
        targets = open_to(logits, tokens)
        assignments = sum(1 for t in tokens for e in targets if mask[t][e])
        value = 0.0
        for e in targets:
            fraction = sum(1 for t in tokens if mask[t][e]) / assignments
            value += fraction * average([probs[t][e] for t in tokens])
        values.append(len(targets) * value)
    return average(values)


def z(logits: Matrix, group_of: Groups) -> float:
    values = []
    for tokens in members(group_of):
        sums = [math.log(sum(math.exp(score) for score in logits[t])) for t in tokens]
        values.append(average([value**2 for value in sums]))
    return average(values)


def variation(logits: Matrix, weights: Matrix, group_of: Groups) -> float:
    values = []
    for tokens in members(group_of):
        totals = [sum(weights[t][e] for t in tokens) for e in open_to(logits, tokens)]
        mean = average(totals)
        values.append(average([(total - mean) ** 2 for total in totals]) / mean**2)
    return average(values)


def entropy_of(probabilities: Sequence[float]) -> float:
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def entropy(probs: Matrix, group_of: Groups) -> float:
    return average([average([entropy_of(probs[t]) for t in tokens]) for tokens in members(group_of)])


def global_entropy(probs: Matrix, group_of: Groups, threshold: float | None = None) -> float:
    values = []
    for tokens in members(group_of):
        mean = [average([probs[t][e] for t in tokens]) for e in range(len(probs[0]))]
        values.append(-entropy_of(mean) if threshold is None else max(0.0, threshold - entropy_of(mean)))
    return average(values)


def mutual_information(probs: Matrix, tokens: Sequence[int]) -> float:
    """Of token and expert, if a token is drawn evenly and then an expert by its probabilities."""
    information = 0.0
    for e in range(len(probs[0])):
        marginal = sum(probs[t][e] / len(tokens) for t in tokens)
        for t in tokens:
            joint = probs[t][e] / len(tokens)
            if joint > 0:
                information += joint * math.log(joint / (marginal / len(tokens)))
    return information


def score_variance(logits: Matrix, probs: Matrix, group_of: Groups) -> float:
    values = []
    for tokens in members(group_of):
        variances = []
        for e in open_to(logits, tokens):
            mean = average([probs[t][e] for t in tokens])
            variances.append(average([(probs[t][e] - mean) ** 2 for t in tokens]))
        values.append(-average(variances))
    return average(values)


def dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def overlap(outputs: Sequence[Matrix], index: Sequence[Sequence[int]], experts: int, real: Sequence[bool]) -> float:
    values = []
    for answers, chosen, counts in zip(outputs, index, real, strict=True):
        if not counts:
            continue
        vectors = [vector for vector, expert in zip(answers, chosen, strict=True) if expert < experts]
        value = 0.0
        for i, this in enumerate(vectors):
            for k, other in enumerate(vectors):
                if i != k:
                    factor = dot(this, other) / dot(other, other)
                    value += sum((factor * x) ** 2 for x in other)
        values.append(value)
    return average(values)


def distance_from_identity(rows: Matrix, power: int) -> float:
    values = []
    for i, this in enumerate(rows):
        for k, other in enumerate(rows):
            values.append(abs(dot(this, other) - (1.0 if i == k else 0.0)) ** power)
    return average(values)


def unit(rows: Matrix) -> list[list[float]]:
    return [[x / math.sqrt(dot(row, row)) for x in row] for row in rows]
