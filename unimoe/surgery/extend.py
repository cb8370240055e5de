"""Extend: a modality or a task gets experts of its own, and what the model computes for all else stays as it is.

Three things at once make that exact: the new experts and their router rows are parameters of their own, so that all
else can stay frozen; nothing else can choose them; and attention, norms and embeddings are not touched. It holds for
rows without the new modality (in a row with it, attention lets every later token read it), or while the task is off.
"""

import copy
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..checkpoint.loading import load_model, load_processor
from ..configuration_unimoe import UniMoEConfig
from ..errors import UniMoEError
from ..files.writing import new_folder, require_new
from ..modality import Modality
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..moe import SparseMoeBlock
from ..moe.experts import GroupedExperts
from ..moe.tasks import task_on
from ..processing_unimoe import UniMoEProcessor
from .calibration import Batch, read_calibration
from .certificate import Certificate
from .damage import ask
from .dense_sources import TOLERANCE
from .extension import added_parameters, changes, extended_config, extended_processor, reserved_key, trained_parts
from .folders import copy_settings
from .saliency import LayerUse, Saliency

Init = Literal["copy", "random"]
PROBES = 32
"""Random tokens of each old modality on which the model is compared with what it was."""


class Donor(NamedTuple):
    """A model of this package that has an encoder, and its processor."""

    model: UniMoEForConditionalGeneration
    processor: UniMoEProcessor

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype | str = "auto") -> "Donor":
        """Load both from a folder."""
        model = load_model(folder, dtype=dtype)
        return cls(model, load_processor(folder, model.config))


@torch.no_grad()
def extend(
    model: UniMoEForConditionalGeneration,
    modality: str | None = None,
    *,
    task: str | None = None,
    num_experts: int = 2,
    init: Init = "copy",
    noise: float = 0.01,
    router_bias: float = 1.0,
    use: Saliency | None = None,
    encoder_of: UniMoEForConditionalGeneration | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    batches: Iterable[Batch] | None = None,
    seed: int = 0,
) -> tuple[UniMoEForConditionalGeneration, Certificate]:
    """Give a modality or a task experts of its own in every sparse layer, and a modality the encoder that it lacks.

    Experts of a task are open to all tokens while it is on (`unimoe.moe.tasks.task_on`); it is off at first.

    Args:
        model: A mixture; it stays as it is.
        modality: Key of the modality: `image`, `video`, `audio` or `speech`. None: it is a task.
        task: Name of the task, of letters, digits and _. None: it is a modality.
        num_experts: New experts of each layer.
        init: `copy`: they begin as experts that are there, in turn. `random`: N(0, initializer_range).
        noise: Of `copy`: standard deviation of what is added to each weight matrix, relative to its own.
        router_bias: Logits by which tokens of the modality or task prefer the new experts at first.
        use: Of `copy`: what experts are asked for by all tokens; the most asked for are copied first.
        encoder_of: Model of the same hidden size with an encoder for the modality; it and its connector are copied.
        tokenizer: Of the model; it gets placeholders that it lacks. Needed if the model has no id for that of the
            modality.
        batches: Rows without the modality, on which old and new model are compared. None: random embeddings.
        seed: Of what is drawn.

    Returns:
        The model in evaluation mode, and a certificate that tokens of all other modalities (of all, while the task is
        off) get the logits that they got. Its details hold a training stage, as data, that trains only what is new.

    Raises:
        UniMoEError: If the model has no experts, or what is named has reserved ones, or no encoder is to be had.
    """
    _check(model, init, noise)
    fields: Any = {"encoder_of": encoder_of and encoder_of.config, "tokenizer": tokenizer}
    config = extended_config(model.config, modality, task=task, num_experts=num_experts, **fields)
    key, new = reserved_key(modality, task), _copy_of(model, config, seed)
    _copy_encoder(new, encoder_of, key)
    generator = torch.Generator().manual_seed(seed)
    copied = _begin_experts(new, key, noise, use, generator) if init == "copy" else {}
    _prefer_new_experts(new, key, router_bias)
    details = {
        **({"modality": modality} if task is None else {"task": task}),
        "experts": config.text_config.reserved_experts[key],
        "copied": copied,
        **{"init": init, "noise": noise, "router_bias": router_bias, "seed": seed},
        "encoder_of": encoder_of and str(encoder_of.name_or_path),
        "added": added_parameters(model, new),
        "stage": {"train": {"parts": trained_parts(new, key)}},
    }
    return new, _certificate(model, new, key, details, batches, generator)


def _check(model: UniMoEForConditionalGeneration, init: Init, noise: float) -> None:
    if not 0 <= noise < float("inf"):
        raise UniMoEError("noise", f"it is {noise}.", "Give a number of at least 0.")
    if init not in get_args(Init):
        raise UniMoEError("init", f"it is {init!r}.", f"Choose from {', '.join(get_args(Init))}.")
    if getattr(model, "hf_quantizer", None) is not None:
        raise UniMoEError(type(model).__name__, "it is quantised.", "Extend the model in floats; quantise last.")


def extend_folder(
    folder: str | Path,
    out: str | Path,
    modality: str | None = None,
    *,
    task: str | None = None,
    encoder_of: str | Path | None = None,
    data: str | Path | None = None,
    dry_run: bool = False,
    **options: Any,
) -> tuple[dict[str, int], Certificate | None]:
    """Extend the model of a folder into another folder, with its processor and the certificate.

    Args:
        folder: Of a mixture of this package.
        out: Of the new one, which is not there yet; what fails leaves none.
        modality: As in `extend`.
        task: As in `extend`.
        encoder_of: Folder of the model that the encoder is from.
        data: JSON Lines of `messages` without the modality, on which the two are compared.
        dry_run: Stop at what would be added.
        **options: Further arguments of `extend`.

    Returns:
        Part -> parameters that are added; and without `dry_run` the certificate.

    Raises:
        UniMoEError: If a folder or a row cannot be read, or as `extend`.
    """
    key = reserved_key(modality, task)
    if not dry_run:
        require_new(out)
    old, donor = Donor.load(folder), None if encoder_of is None else Donor.load(encoder_of)
    tokenizer = old.processor.tokenizer
    if dry_run:
        source = donor and donor.model.config
        options |= {"task": task, "encoder_of": source, "tokenizer": tokenizer}
        config = extended_config(old.model.config, modality, **options)
        with torch.device("meta"):
            return added_parameters(old.model, UniMoEForConditionalGeneration(config)), None
    if data is not None:
        kinds = {m.encoder_key for m in (Modality.TEXT, *old.model.config.media) if not changes(m, key)}
        options["batches"] = read_calibration(data, old.model, old.processor, modalities=kinds)
    model = donor and donor.model
    new, certificate = extend(old.model, modality, task=task, encoder_of=model, tokenizer=tokenizer, **options)
    with new_folder(out) as work:
        new.save_pretrained(work)
        copy_settings(folder, work)
        if donor is not None:
            extended_processor(old.processor, new.config, donor.processor).save_pretrained(work)
        certificate.save(work)
    return certificate.details["added"], certificate


def _copy_of(model: UniMoEForConditionalGeneration, config: UniMoEConfig, seed: int) -> UniMoEForConditionalGeneration:
    """Make a model of a larger configuration: what another one has is copied, and the rest is random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = UniMoEForConditionalGeneration._from_config(config, dtype=model.dtype).eval()
    new.set_experts_implementation(model.config._experts_implementation)
    new.generation_config = copy.deepcopy(model.generation_config)
    _copy_old(new, model)
    return new


def _copy_old(new: UniMoEForConditionalGeneration, model: UniMoEForConditionalGeneration) -> None:
    """Copy all that a model has; what the new one has more of a tensor is 0, and of embeddings their mean.

    The logit of a mean row is the mean of the others, so that a new token is never the likeliest.
    """
    first = model.config.text_config.num_experts
    own = new.state_dict()
    for name, value in model.state_dict().items():
        target = own[name]
        if target.shape == value.shape:
            target.copy_(value)
        elif name.endswith(".balance_bias"):  # new experts stand before the nulls
            nulls = target.shape[-1] - (value.shape[-1] - first)
            target.zero_()[..., :first] = value[..., :first]
            target[..., nulls:] = value[..., first:]
        else:
            target[: len(value)] = value
            target[len(value) :] = value.mean(dim=0)


def _copy_encoder(
    new: UniMoEForConditionalGeneration, source: UniMoEForConditionalGeneration | None, key: str
) -> None:
    """Copy the encoder and connector of a modality, if there is a model that they are from."""
    if source is None:
        return
    for part in ("encoders", "connectors"):
        getattr(new.model, part)[key].load_state_dict(getattr(source.model, part)[key].state_dict())


def _prefer_new_experts(model: UniMoEForConditionalGeneration, key: str, router_bias: float) -> None:
    for block in _blocks(model).values():
        rows: Any = block.router.reserved[key]
        rows.bias.fill_(router_bias)


def _blocks(model: UniMoEForConditionalGeneration) -> dict[int, SparseMoeBlock]:
    """Return the sparse feed-forwards by the index of their layer."""
    layers = enumerate(model.model.language_model.layers)
    return {index: layer.mlp for index, layer in layers if isinstance(layer.mlp, SparseMoeBlock)}


def _begin_experts(
    model: UniMoEForConditionalGeneration,
    key: str,
    noise: float,
    use: Saliency | None,
    generator: torch.Generator,
) -> dict[str, list[int]]:
    """Let the new experts begin as others; return which, by layer."""
    copied: dict[str, list[int]] = {}
    for index, block in _blocks(model).items():
        new: Any = block.reserved_experts[key]
        sources = cycle(_sources(block, key, use.layers[index] if use else None))
        copied[str(index)] = []
        for gate_up, down, source in zip(new.gate_up_proj, new.down_proj, sources):  # noqa: B905
            for target, value in ((gate_up, source.gate_up), (down, source.down)):
                drawn = torch.randn(value.shape, generator=generator).to(value)
                target.copy_(value + drawn * noise * value.std())
            copied[str(index)].append(source.expert)
    return copied


class _Source(NamedTuple):
    """An expert that others begin as."""

    expert: int
    gate_up: Tensor
    down: Tensor


def _sources(block: SparseMoeBlock, key: str, use: LayerUse | None) -> list[_Source]:
    """List the unreserved experts of the width of new ones that a modality may choose, for a task those that any may,
    the most used ones first.
    """
    experts, config = block.experts, block.config
    is_modality = key in {modality.key for modality in Modality}
    chosen_from = config.permitted_experts(Modality.from_key(key)) if is_modality else config.open_experts
    whole = [(experts, range(experts.num_experts))]
    stacks: Any = zip(experts.banks, experts.members, strict=True) if isinstance(experts, GroupedExperts) else whole
    found = [
        _Source(expert, stack.gate_up_proj[place], stack.down_proj[place])
        for stack, members in stacks
        for place, expert in enumerate(members)
        if stack.intermediate_dim == config.moe_intermediate_size and expert in chosen_from
    ]
    if not found:
        problem = f"no expert of width {config.moe_intermediate_size} is open to {key}."
        raise UniMoEError("init", f"it is 'copy', and {problem}", "Choose init='random'.")
    count = torch.zeros(config.num_experts) if use is None else use.count.sum(dim=0)
    return sorted(found, key=lambda source: -float(count[source.expert]))


def _random_batches(
    model: UniMoEForConditionalGeneration, modalities: list[Modality], generator: torch.Generator
) -> list[Batch]:
    """Make a row of random embeddings for each modality, the first half of it text."""
    table: Any = model.get_input_embeddings().weight
    shape = (len(modalities), PROBES)
    embeds = (torch.randn(*shape, table.shape[1], generator=generator) * float(table.std())).to(table)
    kinds = torch.tensor(modalities)[:, None].repeat(1, PROBES)
    kinds[:, : PROBES // 2] = Modality.TEXT
    inputs = {"inputs_embeds": embeds, "mm_token_type_ids": kinds}
    return [Batch(inputs, torch.zeros(shape, dtype=torch.long), kinds, torch.ones(shape, dtype=torch.bool))]


def _difference(
    old: UniMoEForConditionalGeneration, new: UniMoEForConditionalGeneration, batches: Iterable[Batch]
) -> float:
    """Find the largest difference of a logit, relative to the largest of the old model."""
    largest = scale = 0.0
    for batch in batches:
        before = ask(old, batch).double()
        if not len(before):
            continue
        after = ask(new, batch)[..., : before.shape[-1]]
        largest = max(largest, float((after - before).abs().max()))
        scale = max(scale, float(before.abs().max()))
    if not scale:
        raise UniMoEError(type(old).__name__, "no row asks it for a token.", "Add answers to the rows.")
    return largest / scale


def _certificate(
    model: UniMoEForConditionalGeneration,
    new: UniMoEForConditionalGeneration,
    key: str,
    details: dict[str, Any],
    batches: Iterable[Batch] | None,
    generator: torch.Generator,
) -> Certificate:
    """State what holds of tokens of the modalities that extending by a key does not change.

    Raises:
        ValueError: If it does not.
    """
    old = [m for m in (Modality.TEXT, *model.config.media) if not changes(m, key)]
    keys, tolerance = ", ".join(m.key for m in old), TOLERANCE[model.dtype]
    with task_on(model, None):
        difference = _difference(model, new, batches or _random_batches(model, old, generator))
    if not difference <= tolerance:
        raise ValueError(f"A logit of {keys} differs by {difference:.2e} > {tolerance:.0e}: this is a defect.")
    measured_on = "given rows" if batches else f"{PROBES} random tokens of each of these modalities"
    task = details.get("task")
    where = f"In rows without {details['modality']}" if task is None else f"While the task {task} is off"
    return Certificate(
        operation="extend",
        kind="exact",
        claim=f"{where}, tokens of {keys} get the logits that they got, before training and after training "
        "of nothing but the parts of `stage`.",
        difference=difference,
        details=details | {"measured_on": measured_on},
    )


__all__ = ["Donor", "Init", "extend", "extend_folder"]
