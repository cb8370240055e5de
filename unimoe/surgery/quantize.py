"""Quantise: weights of experts in fewer bits; routers, norms and embeddings stay as they are, to the bit.

Weights alone, through torchao: 8 bits with a scale for each row, or 4 bits in groups of 128 where it has a kernel.
Products are computed in floats. Saving memory, not time. E experts.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..checkpoint.quantised import mark_quantised, require_torchao
from ..errors import UniMoEError
from ..modeling.parts import part_of
from ..moe.experts import experts_as_linears, fold_experts
from ..moe.experts.linears import forget_stacks
from .audit import as_float, audit
from .bits import Bits, as_plan, mean_bits, plan_bits
from .certificate import Certificate
from .damage import Answers
from .folders import Draft, Rows, change_folder
from .mixture import SparseLayer, sparse_layers
from .saliency import Score, saliency
from .statistics import losses_by_use

Part = Literal["shared_experts", "expert_base", "attention", "mlp"]
GROUP = 128
"""Weights that share a scale in 4 bits."""


@dataclass(frozen=True)
class Quantised:
    """What became of a model.

    Args:
        errors: Index of a sparse layer -> ||W - W'|| / ||W|| of the weights of each expert, (E,).
        shares: Part -> share of its parameters whose modules were quantised.
    """

    errors: dict[int, Tensor]
    shares: dict[str, float]


@torch.no_grad()
def quantize(model: Any, bits: int | Bits = 8, *, parts: Collection[str] = ()) -> Quantised:
    """Quantise the experts of a model, in place; its experts are linear modules from then on.

    `save_pretrained` writes it, and `from_pretrained` loads it where unimoe was imported.

    Args:
        model: Of this package, or of transformers with stacked experts, in floats.
        bits: Of each weight of the experts, 8 or 4; or a plan, see `plan_bits`.
        parts: Whose linear maps get 8 bits as well: `shared_experts`, `expert_base`, `attention`, `mlp`.

    Raises:
        UniMoEError: If torchao is missing or has no kernel, or experts have weights that it does not reach; before
            anything is changed.
    """
    require_torchao()
    layers = sparse_layers(model)
    plan = as_plan(layers, bits)
    names = experts_as_linears(model, split_gate_up=False)
    try:
        _require_all_experts(model, names)
        dense = _dense_maps(model, parts)
        maps = {layer.index: _expert_maps(layer) for layer in layers}
        _require_kernels(_wanted(maps, plan, dense))
    except UniMoEError:
        fold_experts(model)
        raise
    errors = {}
    for layer in layers:
        pairs = zip(maps[layer.index], plan[layer.index], strict=True)
        errors[layer.index] = torch.tensor([_quantise(own, own_bits) for own, own_bits in pairs])
        forget_stacks(layer.block)
    _quantise(dense, 8)
    mark_quantised(model)
    return Quantised(errors, _shares(model))


def quantize_folder(
    folder: str | Path,
    out: str | Path,
    *,
    rows: Rows,
    bits: int = 8,
    budget: float | None = None,
    score: Score = "reap",
    parts: Collection[str] = (),
    device: Literal["cpu", "cuda"] = "cpu",
    dry_run: bool = False,
) -> tuple[Draft, Certificate | None]:
    """Quantise the model of a folder.

    Args:
        folder: Of the model.
        out: Of the new one.
        rows: Calibration rows.
        bits: As in `quantize`.
        budget: As in `plan_bits`, instead of bits.
        score: As in `plan_bits`.
        parts: As in `quantize`.
        device: Where models run; kernels of 4 bits need a GPU.
        dry_run: Stop at what would be lost.

    Returns:
        As `change_folder`.
    """
    require_torchao()
    if device == "cuda" and not torch.cuda.is_available():
        raise UniMoEError("device", "there is no GPU.", "Use cpu, which has kernels of 8 bits.")

    def decide(model: Any, batches: Iterable[Any]) -> Draft:
        found = saliency(model, batches)
        plan = as_plan(sparse_layers(model), bits) if budget is None else plan_bits(model, found, budget, score)
        mean, answers = mean_bits(model, plan), None if dry_run else Answers.of(model, batches)
        made = quantize(model, plan, parts=parts)
        details = {
            "bits": {str(layer): list(own) for layer, own in plan.items()},
            "mean_bits": mean,
            "score": None if budget is None else score,
            "quantised": made.shares,
        }
        losses = losses_by_use(found, made.errors, "weight error")
        return Draft("quantize", losses, model.save_pretrained, None, details, answers=answers)

    return change_folder(folder, out, decide, rows, device=device, dry_run=dry_run)


def _expert_maps(layer: SparseLayer) -> list[list[Any]]:
    """Linear modules of each expert of a layer that is seen so."""
    maps: list[list[Any]] = [[] for _ in range(layer.experts.num_experts)]
    for stack, members in layer.stacks:
        for modules in (child for child in stack.children() if isinstance(child, nn.ModuleList)):
            for expert, linear in zip(members, modules, strict=True):
                maps[expert].append(linear)
    return maps


def _require_all_experts(model: nn.Module, names: list[str]) -> None:
    """Refuse experts with weights that are in no linear module."""
    if (share := audit(model, names).share("experts")) < 1:
        problem = f"{1 - share:.0%} of the parameters of its experts are shared by several, and would stay in floats."
        raise UniMoEError(type(model).__name__, problem, "Pass a model whose experts are MLPs; latent ones are not.")


def _dense_maps(model: nn.Module, parts: Collection[str]) -> list[nn.Linear]:
    """Linear modules of parts other than experts."""
    if wrong := sorted(set(parts) - set(get_args(Part))):
        raise UniMoEError("parts", f"{wrong[0]!r} is none that can be.", f"Choose from {', '.join(get_args(Part))}.")
    found: dict[str, list[nn.Linear]] = {}
    for name, module in model.named_modules():
        if type(module) is nn.Linear:
            found.setdefault(part_of(f"{name}.weight"), []).append(module)
    if missing := [part for part in parts if part not in found]:
        raise UniMoEError("parts", f"the model has no linear maps of {missing[0]}.", "Leave the part out.")
    return [module for part in dict.fromkeys(parts) for module in found[part]]


def _wanted(
    maps: Mapping[int, list[list[nn.Linear]]], plan: Bits, dense: list[nn.Linear]
) -> Iterator[tuple[nn.Linear, int]]:
    """Yield each module that is to be quantised or left, and its bits."""
    for layer, experts in maps.items():
        for own, bits in zip(experts, plan[layer], strict=True):
            yield from ((linear, bits) for linear in own)
    yield from ((linear, 8) for linear in dense)


def _require_kernels(wanted: Iterable[tuple[nn.Linear, int]]) -> None:
    """Quantise one weight of each kind on trial, and refuse where that is not done or cannot be computed with."""
    kinds = {(bits, tuple(linear.weight.shape), linear.weight.dtype): linear.weight for linear, bits in wanted}
    for (bits, (rows, columns), dtype), weight in kinds.items():
        if bits == 8 * dtype.itemsize:
            continue
        trial = nn.Linear(columns, rows, bias=False, device="meta")
        trial.weight = nn.Parameter(weight.detach())
        try:
            _convert(trial, bits)
            trial(weight.new_ones(1, columns))
            reason = f"it quantises groups of {GROUP} columns" if type(trial.weight) is nn.Parameter else ""
        except (AssertionError, ImportError, NotImplementedError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
        if reason:
            kind = f"{rows} x {columns} {str(dtype).removeprefix('torch.')} on {weight.device}"
            problem = f"torchao has no kernel of {bits} bits for {kind} ({reason})."
            raise UniMoEError("bits", problem, "Choose 8 bits; or, for 4, bfloat16 on a GPU.")


def _convert(linear: nn.Linear, bits: int) -> None:
    """Let torchao put a tensor of its own in place of a weight."""
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    # without `set_inductor_config` torchao leaves the precision of float32 products on GPUs as it is
    options: dict[str, Any] = {"set_inductor_config": False}
    if bits == 4:
        config = Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d", **options)
    else:
        config = Int8WeightOnlyConfig(**options)
    linear.weight = nn.Parameter(linear.weight.detach().contiguous())  # values lie as they will when they are loaded
    quantize_(linear, config)


def _quantise(linears: Iterable[nn.Linear], bits: int) -> float:
    """Quantise modules, and return ||W - W'|| / ||W|| of their weights together; 0 if they stay."""
    changed = total = 0.0
    for linear in linears:
        before = linear.weight.detach()
        if bits < 8 * before.itemsize:
            _convert(linear, bits)
        total += float(before.double().square().sum())
        changed += float((as_float(linear.weight).double() - before.double()).square().sum())
    return (changed / max(total, 1e-300)) ** 0.5


def _shares(model: nn.Module) -> dict[str, float]:
    """Part -> share of its parameters whose modules have tensors of torchao by now."""
    linears = [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]
    found = audit(model, [name for name, module in linears if type(module.weight) is not nn.Parameter])
    return {part: found.share(part) for part in found.by_part()}


__all__ = ["GROUP", "Part", "Quantised", "quantize", "quantize_folder"]
