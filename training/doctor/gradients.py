"""The gradient of the language loss alone: a few rows, forward and backward, no router loss, no step.

The model is one that was loaded for this: what it is afterwards does not matter to any training.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from unimoe import Modality, UniMoEForConditionalGeneration
from unimoe.moe import count_routing
from unimoe.moe.experts import GroupedExperts

from ..config.train import TrainConfig
from ..data.batching.collator import IGNORED
from ..monitor.metrics import layer_load
from ..monitor.mixture import router_parameters, sparse_blocks
from .facts import TaskGradients


def task_gradients(
    model: UniMoEForConditionalGeneration, train: TrainConfig, batches: Iterable[dict[str, Any]]
) -> TaskGradients:
    """Measure the gradient of the language loss, a mean over all labels of some batches.

    Sparse layers run as they train (estimators of the router's gradient, noise), all else as in evaluation.

    Args:
        model: Its gradients are written over.
        train: Of its stage: which parts train.
        batches: As the stage's collator makes them.
    """
    routers = {layer: router_parameters(block) for layer, block in sparse_blocks(model)}
    experts = {
        layer: [parameter for stack in block.expert_stacks for parameter in stack.parameters()]
        for layer, block in sparse_blocks(model)
    }
    routed = [parameter for group in (*routers.values(), *experts.values()) for parameter in group]
    examined = {id(parameter): parameter for parameter in [*routed, *_trained(model, train)]}
    _prepare(model, list(examined.values()))
    labels, rows, tokens = 0, 0, Counter[str]()
    counts: Tensor | None = None
    for batch in batches:
        rows += len(batch.pop("row_ids"))
        inputs = {
            name: value.to(model.device) if isinstance(value, Tensor) else value for name, value in batch.items()
        }
        learned = int((inputs["labels"][:, 1:] != IGNORED).sum())
        outputs = model(**inputs, output_router_logits=True, use_cache=False)
        (outputs.losses["language"] * learned).backward()
        labels += learned
        tokens += _count_tokens(inputs)
        if outputs.expert_mask:
            mask, kinds = inputs.get("attention_mask"), inputs["mm_token_type_ids"]
            own = count_routing(outputs.expert_mask, kinds, mask).cpu()
            counts = own if counts is None else counts + own
    whole = _norm(list(examined.values())) / max(labels, 1)
    return TaskGradients(
        router={layer: _norm(own) / max(labels, 1) for layer, own in routers.items() if own},
        experts={layer: _norm(own) / max(labels, 1) for layer, own in experts.items()},
        by_expert={layer: _by_expert(block) for layer, block in sparse_blocks(model)},
        routed_share=(_norm(routed) / max(labels, 1)) ** 2 / whole**2 if whole else 0.0,
        rows=rows,
        tokens=dict(tokens),
        load=[] if counts is None else _by_layer(counts),
    )


def _prepare(model: UniMoEForConditionalGeneration, examined: list[Any]) -> None:
    model.eval()
    for _, block in sparse_blocks(model):
        block.train()
    model.requires_grad_(False)
    for parameter in examined:
        parameter.requires_grad_(True)
        parameter.grad = None


def _trained(model: UniMoEForConditionalGeneration, train: TrainConfig) -> list[Any]:
    """Weights of the parts that train in a stage, whole or by LoRA."""
    parts, parameters = model.parts(), dict(model.named_parameters())
    named = {*train.parts, *(train.lora.parts if train.lora else [])}
    return [parameters[name] for part in named & parts.keys() for name in parts[part] if name in parameters]


def _norm(parameters: list[Any]) -> float:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0


def _by_expert(block: Any) -> list[float]:
    """Norm of the gradient of what is each expert's own, or the merged one's that answers for it, not by labels."""
    norms = [norm for stack in block.expert_stacks for norm in _of_stack(stack)]
    return norms if block.aliases is None else [norms[expert] for expert in block.aliases]


def _of_stack(experts: Any) -> list[float]:
    squares = torch.zeros(experts.num_experts)
    grouped = isinstance(experts, GroupedExperts)
    stacks = zip(experts.banks, experts.members, strict=True) if grouped else [(experts, [*range(len(squares))])]
    for stack, members in stacks:
        for parameter in stack.parameters(recurse=False):
            if parameter.grad is not None and len(parameter) == len(members):
                squares[members] += parameter.grad.flatten(1).double().square().sum(dim=-1).float().cpu()
    return squares.sqrt().tolist()


def _count_tokens(inputs: dict[str, Any]) -> Counter[str]:
    kinds, mask = inputs["mm_token_type_ids"], inputs.get("attention_mask")
    real = kinds if mask is None else kinds[mask.bool()]
    counts = torch.bincount(real.flatten(), minlength=len(Modality)).tolist()
    return Counter({modality.key: counts[modality] for modality in Modality if counts[modality]})


def _by_layer(counts: Tensor) -> list[dict[str, list[int]]]:
    """Lay assignments (L, M, E+N) out as layer -> modality -> target."""
    load = layer_load(counts)
    return [{key: layers[number] for key, layers in load.items()} for number in range(len(counts))]


__all__ = ["task_gradients"]
