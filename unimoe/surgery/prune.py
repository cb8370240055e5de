"""Prune: leave out the experts that matter least, by layer and modality, on calibration rows.

Saving memory, not time: a token still passes K experts. Scores: `unimoe.surgery.saliency`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..errors import UniMoEError
from ..files.tensors import open_weights, write_shards
from .calibration import Batch
from .certificate import Certificate
from .choice import Wish, choose, lost
from .expert_axis import Kept, Piece, kept_config, kept_pieces, zeroed
from .folders import Draft, Losses, Rows, change_folder
from .mixture import rebuild, sparse_layers
from .ranking import read_ranking
from .saliency import saliency

Mode = Literal["reroute", "zero"]


def prune(model: Any, kept: Kept, *, mode: Mode = "reroute") -> Any:
    """Make the model that keeps some of its experts, in memory.

    Args:
        model: Of this package, or of transformers with stacked experts.
        kept: Layer -> experts that stay; of each sparse layer as many. See `choose_experts`.
        mode: `reroute`: the router chooses among those that stay. `zero`: the router chooses as before, and the others
            answer 0; nothing gets smaller.

    Returns:
        A new model in evaluation mode.

    Raises:
        UniMoEError: If layers keep different numbers, or none of them is meant.
    """
    _check(model, kept)
    state = model.state_dict()
    config, pieces = _plan(model.config, state, kept, mode)
    return rebuild(model, config, {name: piece.take(state) for name, piece in pieces.items()})


def choose_experts(model: Any, batches: Iterable[Batch], wish: Wish) -> tuple[Kept, Losses]:
    """Choose which experts a model keeps, from the routing that it really uses.

    Args:
        model: In evaluation mode.
        batches: Calibration rows.
        wish: What is to be kept.

    Returns:
        Layer -> experts that stay; and layer -> modality key -> share of its `assignments`, and of its `output` (the
        sum of g ||f_e(x)||), that the others have.
    """
    found = saliency(model, batches)
    kept = choose(found, model.config, wish)
    return kept, lost(found, kept)


def prune_folder(
    folder: str | Path,
    out: str | Path,
    *,
    rows: Rows,
    wish: Wish,
    mode: Mode = "reroute",
    ranking: str | Path | None = None,
    dry_run: bool = False,
    shard_size: str = "5GB",
) -> tuple[Draft, Certificate | None]:
    """Prune the model of a folder; weights are copied one by one.

    Args:
        folder: Of the model.
        out: Of the new one.
        rows: Calibration rows.
        wish: What is to be kept.
        mode: As in `prune`.
        ranking: File of a ranking, which takes the place of the score; see `unimoe.surgery.ranking`.
        dry_run: Stop at what would be lost.
        shard_size: Largest size of a file of weights.

    Returns:
        As `change_folder`.
    """

    def decide(model: Any, batches: Iterable[Batch]) -> Draft:
        counts = {layer.index: layer.experts.num_experts for layer in sparse_layers(model)}
        chosen = replace(wish, ranking=read_ranking(ranking, counts)) if ranking else wish
        kept, losses = choose_experts(model, batches, chosen)
        write = partial(write_pruned, folder, config=model.config, kept=kept, mode=mode, shard_size=shard_size)
        details = {
            "mode": mode,
            "score": str(ranking or wish.score),
            "kept": {str(layer): list(own) for layer, own in kept.items()},
        }
        return Draft("prune", losses, write, details=details)

    return change_folder(folder, out, decide, rows, dry_run=dry_run)


def write_pruned(
    folder: str | Path, out: Path, config: Any, kept: Kept, *, mode: Mode = "reroute", shard_size: str = "5GB"
) -> None:
    """Write weights and configuration of the model that keeps some of its experts, from folder to folder.

    Args:
        folder: Of the model.
        out: Folder of the new one, which is there.
        config: Of the model.
        kept: As in `prune`.
        mode: As in `prune`.
        shard_size: Largest size of a file of weights.
    """
    tensors = open_weights(Path(folder))
    config, pieces = _plan(config, tensors, kept, mode)
    meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    blanks = {name: piece.take(meta) for name, piece in pieces.items()}
    write_shards(out, blanks, lambda name: pieces[name].take(tensors), shard_size=shard_size)
    config.save_pretrained(out)


def _plan(config: Any, tensors: Mapping[str, Tensor], kept: Kept, mode: Mode) -> tuple[Any, dict[str, Piece]]:
    """Describe the new model, and where its tensors come from."""
    if mode == "zero":
        return config, zeroed(tensors, config, kept)
    try:
        return kept_config(config, kept), kept_pieces(tensors, config, kept)
    except ValueError as error:
        raise UniMoEError("keep", f"{' '.join(str(error).split())}", "Keep others, or more.") from error


def _check(model: Any, kept: Kept) -> None:
    if getattr(model.config.get_text_config(), "expert_aliases", None):
        raise UniMoEError("expert_aliases", "experts were merged, and answer for several.", "Prune before merging.")
    counts = {layer.index: layer.experts.num_experts for layer in sparse_layers(model)}
    if counts.keys() != kept.keys():
        problem = f"it names the layers {sorted(kept)}, and the sparse layers are {sorted(counts)}."
        raise UniMoEError("kept", problem, "Name each sparse layer.")
    for layer, own in kept.items():
        if len(set(own)) < len(own) or not all(0 <= expert < counts[layer] for expert in own):
            raise UniMoEError("kept", f"layer {layer} has the experts 0 to {counts[layer] - 1}, each once.")
    if len({len(own) for own in kept.values()}) > 1:
        problem = f"layers keep different numbers of experts: {sorted({len(own) for own in kept.values()})}."
        raise UniMoEError("kept", problem, "Keep as many in each layer; the model's class has one number for all.")


__all__ = ["Mode", "choose_experts", "prune", "prune_folder", "write_pruned"]
