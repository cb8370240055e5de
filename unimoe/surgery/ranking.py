"""Rankings of experts as other tools read and write them: JSON Lines, `{"0": [5, 1, 7]}`, a layer and its best first.

vLLM-Ascend prunes by such files (vllm-project/vllm-ascend#12525); lists of REAP's ports are brought to it in a line.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import DataError
from ..files.json_rows import JsonRows
from ..files.strict_json import parse_json
from ..files.writing import write_whole
from .saliency import Saliency, Score

Ranking = Mapping[int, Sequence[int]]
"""Layer -> all its experts, best first."""


def rank(found: Saliency, score: Score) -> dict[int, list[int]]:
    """Rank the experts of each layer, of equal ones the first first.

    Args:
        found: How much they matter.
        score: What they are scored by.
    """
    scores = found.scores(score)
    return {layer: own.argsort(descending=True, stable=True).tolist() for layer, own in scores.items()}


def write_ranking(path: str | Path, ranking: Ranking) -> None:
    """Write a ranking, a line for each layer.

    Args:
        path: The file.
        ranking: Layer -> experts.
    """
    lines = (json.dumps({str(layer): list(experts)}) for layer, experts in ranking.items())
    write_whole(Path(path), "".join(f"{line}\n" for line in lines))


def read_ranking(path: str | Path, counts: Mapping[int, int]) -> dict[int, list[int]]:
    """Read a ranking.

    Args:
        path: The file.
        counts: Sparse layer of the model -> its experts.

    Raises:
        DataError: If a line is none, or the file names other layers or experts than the model has.
    """
    rows, ranking = JsonRows(str(path)), {}
    if rows.broken is not None:
        raise rows.broken
    for number in range(len(rows)):
        where = rows.where(number)
        line = parse_json(rows.raw(number), where=where)
        if not isinstance(line, dict) or len(line) != 1 or not isinstance(experts := next(iter(line.values())), list):
            cure = 'Write {"3": [5, 1, 7]}: a layer and its experts, best first.'
            raise DataError(where, "expected an object with one layer and a list of its experts.", cure)
        key = next(iter(line))
        layer = int(key) if key.isdecimal() else -1
        if layer not in counts:
            raise DataError(where, f"the model has no sparse layer {key!r}.", f"It has {', '.join(map(str, counts))}.")
        if sorted(experts, key=str) != sorted(range(counts[layer]), key=str):
            problem = f"the list of layer {layer} does not name each of its {counts[layer]} experts once."
            raise DataError(where, problem, f"Name 0 to {counts[layer] - 1}.")
        ranking[layer] = experts
    if missing := [layer for layer in counts if layer not in ranking]:
        raise DataError(str(path), f"it has no line for layer {missing[0]}.", "Give one for each sparse layer.")
    return ranking


__all__ = ["Ranking", "rank", "read_ranking", "write_ranking"]
