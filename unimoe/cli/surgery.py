"""Commands that change the model of a folder into another folder, with a certificate of what it kept."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from ..errors import UniMoEError
from ..errors.terminal import fail
from .common import app, console, cost, load, summary

Source = Annotated[Path, typer.Argument(help="Folder of a mixture, of this package or of transformers.")]
Out = Annotated[Path, typer.Argument(help="Folder for the new model.")]
Data = Annotated[
    list[Path],
    typer.Option(help="Calibration rows: JSON Lines of `messages`; together with all modalities of the model."),
]
Limit = Annotated[int, typer.Option(min=1, help="Calibration rows that are used.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Calibration rows at a time.")]
Modalities = Annotated[
    str | None, typer.Option(help="The modalities that are meant, such as text,image. Default: all of the model.")
]
ScoreOption = Annotated[
    Literal["reap", "frequency", "activation_norm", "router_weighted", "max_share"],
    typer.Option("--score", help="What the experts are scored by."),
]
Seed = Annotated[int, typer.Option(help="Of the choice of rows.")]
Outcome = tuple[Any, Any]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be lost, by layer and modality, only.")]


@app.command()
def upcycle(
    folder: Annotated[Path, typer.Argument(help="Folder of a dense model of this package.")],
    out: Out,
    experts: Annotated[int, typer.Option(min=1, help="Experts of each sparse layer.")] = 4,
    top_k: Annotated[int, typer.Option(min=1, help="Experts that each token passes.")] = 2,
    pieces: Annotated[int, typer.Option(min=1, help="Slices that each copy is cut into, an expert each.")] = 1,
    virtual_groups: Annotated[bool, typer.Option(help="Slices of a copy begin with one router row: exact.")] = True,
    drop_ratio: Annotated[float, typer.Option(help="Share of each expert's channels that is drawn anew.")] = 0.0,
    shared: Annotated[int, typer.Option(help="Width of a shared expert, a slice of the feed-forward.")] = 0,
    expert_type: Annotated[Literal["mlp", "lora"], typer.Option(help="lora: changes of one frozen copy.")] = "mlp",
    rank: Annotated[int, typer.Option(help="Of LoRA experts.")] = 8,
    routing: Annotated[
        Literal["shared", "bias", "separate"], typer.Option(help="Modality mode of the routers.")
    ] = "shared",
    noise: Annotated[float, typer.Option(help="Standard deviation of what is added, relative to a matrix's.")] = 0.0,
    inexact: Annotated[bool, typer.Option("--inexact", help="Allow what computes something else at first.")] = False,
    seed: Annotated[int, typer.Option(help="Of routers, noise and what is drawn anew.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print how far each layer would differ only.")] = False,
) -> None:
    """Turn the feed-forwards of a dense model into experts, one layer in memory at a time."""
    from ..surgery.recipe import Recipe
    from ..surgery.upcycle import upcycle_folder

    def change() -> Outcome:
        recipe = Recipe(pieces, virtual_groups, drop_ratio, shared)
        options: Any = {"num_experts": experts, "num_experts_per_tok": top_k, "modality_routing": routing}
        options |= {
            "expert_type": expert_type,
            "expert_rank": rank,
            "noise": noise,
            "exact": not inexact,
            "seed": seed,
        }
        return upcycle_folder(folder, out, recipe=recipe, dry_run=dry_run, **options)

    carry_out(change, out)


@app.command()
def densify(
    folder: Annotated[Path, typer.Argument(help="Folder of a mixture of this package.")],
    out: Out,
    how: Annotated[
        Literal["concatenate", "average", "extract"], typer.Option(help="Side by side, their average, or one of them.")
    ] = "concatenate",
    expert: Annotated[int | None, typer.Option(help="The one to extract.")] = None,
    inexact: Annotated[bool, typer.Option("--inexact", help="Allow what computes something else.")] = False,
    seed: Annotated[int, typer.Option(help="Of the hidden states on which gates and differences are measured.")] = 0,
) -> None:
    """Turn the experts of every sparse layer into one feed-forward."""
    from ..surgery.densify import densify as make_dense
    from ..surgery.folders import save_model

    started = time.perf_counter()
    model, _ = load(str(folder), with_processor=False)
    try:
        dense, certificate = make_dense(model, how=how, expert=expert, exact=not inexact, seed=seed)
        save_model(dense, certificate, folder, out)
    except (OSError, ValueError) as error:
        fail(str(error))
    console.print(summary(certificate, dense.dtype), soft_wrap=True)
    console.print(f"written to {out} in {cost(started)}", highlight=False)


@app.command()
def prune(
    folder: Source,
    out: Out,
    data: Data,
    ratio: Annotated[float | None, typer.Option(help="Share of the experts that go.")] = None,
    keep: Annotated[int | None, typer.Option(help="Experts of each layer that stay, instead of a ratio.")] = None,
    score: ScoreOption = "reap",
    quota: Annotated[
        list[str] | None,
        typer.Option(help="MODALITY=N: the N experts of each layer that serve it most stay; repeat for several."),
    ] = None,
    protect: Annotated[list[str] | None, typer.Option(help="LAYER:EXPERT that stays; repeat for several.")] = None,
    ranking: Annotated[
        Path | None, typer.Option(help="JSON Lines of layers and their experts, best first, instead of a score.")
    ] = None,
    keep_multiple_of: Annotated[int, typer.Option(min=1, help="What the number of experts is a multiple of.")] = 1,
    mode: Annotated[
        Literal["reroute", "zero"], typer.Option(help="zero: the experts stay and answer 0, nothing gets smaller.")
    ] = "reroute",
    modalities: Modalities = None,
    rows: Limit = 256,
    batch_size: BatchSize = 8,
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """Leave out the experts that matter least on calibration rows; saves memory, not time."""
    from ..surgery.choice import Wish
    from ..surgery.prune import prune_folder

    def change() -> Outcome:
        counts = {key: whole(count, f"--quota {key}") for key, count in pairs(quota, "=", "--quota")}
        stay: dict[int, list[int]] = {}
        for layer, expert in pairs(protect, ":", "--protect"):
            stay.setdefault(whole(layer, "--protect"), []).append(whole(expert, "--protect"))
        wish = Wish(ratio, keep, score, quota=counts, protect=stay, multiple_of=keep_multiple_of)
        chosen = chosen_rows(data, rows, batch_size, modalities, seed)
        return prune_folder(folder, out, rows=chosen, wish=wish, mode=mode, ranking=ranking, dry_run=dry_run)

    carry_out(change, out)


@app.command()
def merge(
    folder: Source,
    out: Out,
    data: Data,
    keep: Annotated[int, typer.Option(min=1, help="Experts of each layer after merging.")],
    similarity: Annotated[
        Literal["outputs", "weights", "router"], typer.Option(help="Which experts are similar.")
    ] = "outputs",
    align: Annotated[bool, typer.Option(help="Bring the channels of a group into one order first.")] = True,
    router_rows: Annotated[
        Literal["keep", "drop"], typer.Option(help="drop: one row for each group, for classes of transformers.")
    ] = "keep",
    modalities: Modalities = None,
    rows: Limit = 256,
    batch_size: BatchSize = 8,
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """Let groups of similar experts become one expert each: the average of their weights."""
    from ..surgery.merge import MergeWish, merge_folder

    chosen = chosen_rows(data, rows, batch_size, modalities, seed)
    wish = MergeWish(keep, similarity, align=align, rows=router_rows)
    carry_out(lambda: merge_folder(folder, out, rows=chosen, wish=wish, dry_run=dry_run), out)


@app.command()
def latent(
    folder: Source,
    out: Out,
    data: Data,
    groups: Annotated[int, typer.Option(min=1, help="Groups of experts with a space of their own.")] = 1,
    rank: Annotated[int | None, typer.Option(help="Size of the space.")] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Share of the experts' parameters that is left, at most.")
    ] = None,
    max_error: Annotated[float | None, typer.Option(help="Largest relative error of a group.")] = None,
    whiten: Annotated[bool, typer.Option(help="Weigh errors by the activations on the rows.")] = True,
    materialize: Annotated[
        bool, typer.Option("--materialize", help="Multiply out again: nothing is saved, any class can hold it.")
    ] = False,
    modalities: Modalities = None,
    rows: Limit = 256,
    batch_size: BatchSize = 8,
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """Give experts a shared latent space and small maps of their own in it (MoLAE)."""
    from ..surgery.latent import LatentWish, latent_folder

    chosen = chosen_rows(data, rows, batch_size, modalities, seed)
    wish = LatentWish(groups, rank, ratio, max_error, whiten=whiten, materialize=materialize)
    carry_out(lambda: latent_folder(folder, out, rows=chosen, wish=wish, dry_run=dry_run), out)


@app.command()
def quantize(
    folder: Source,
    out: Out,
    data: Data,
    bits: Annotated[int, typer.Option(help="Of a weight of the experts: 8, or 4 where torchao has a kernel.")] = 8,
    budget: Annotated[
        float | None, typer.Option(help="Mean bits of a weight, instead: experts that matter more get more.")
    ] = None,
    score: ScoreOption = "reap",
    parts: Annotated[
        str | None, typer.Option(help="What gets 8 bits as well: attention,mlp,shared_experts,expert_base.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where models run; 4 bits need a GPU.")] = "cpu",
    modalities: Modalities = None,
    rows: Limit = 256,
    batch_size: BatchSize = 8,
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """Keep the weights of experts in 8 bits, or fewer, through torchao; routers and norms stay as they are."""
    from ..surgery.quantize import quantize_folder

    def change() -> Outcome:
        options: Any = {"bits": bits, "budget": budget, "score": score, "device": device, "dry_run": dry_run}
        chosen = chosen_rows(data, rows, batch_size, modalities, seed)
        return quantize_folder(folder, out, rows=chosen, parts=parts.split(",") if parts else (), **options)

    carry_out(change, out)


@app.command()
def recalibrate(
    folder: Source,
    out: Out,
    data: Data,
    like: Annotated[Path, typer.Option(help="Folder of the model before the operation.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps, each over all rows.")] = 20,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-3,
    modalities: Modalities = None,
    rows: Limit = 256,
    batch_size: BatchSize = 8,
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """Teach the routers of a changed model the answers of the model before; all else stays as it is."""
    from ..surgery.recalibrate import recalibrate_folder

    def tell(step: int, divergence: float) -> None:
        console.print(f"step {step} of {steps}: divergence {divergence:.5f}", highlight=False)

    def change() -> Outcome:
        options: Any = {"steps": steps, "learning_rate": learning_rate, "dry_run": dry_run, "on_step": tell}
        chosen = chosen_rows(data, rows, batch_size, modalities, seed)
        return recalibrate_folder(folder, out, like=like, rows=chosen, **options)

    carry_out(change, out)


@app.command("rank")
def rank_experts(
    folder: Source,
    out: Annotated[Path, typer.Argument(help="File for the ranking: JSON Lines of layers and their experts.")],
    data: Data,
    score: ScoreOption = "reap",
    modalities: Modalities = None,
    rows: Limit = 256,
    batch_size: BatchSize = 8,
    seed: Seed = 0,
) -> None:
    """Rank the experts of each layer by what they matter on calibration rows, for `prune` and for other tools."""
    from transformers.utils import logging

    from ..checkpoint.loading import load_mixture
    from ..surgery.ranking import rank, write_ranking
    from ..surgery.saliency import saliency

    logging.disable_progress_bar()
    started = time.perf_counter()
    try:
        model, processor = load_mixture(folder)
        found = saliency(model, chosen_rows(data, rows, batch_size, modalities, seed).read(model, processor))
        write_ranking(out, rank(found, score))
    except UniMoEError as error:
        fail(error)
    console.print(f"written to {out} in {cost(started)}", highlight=False)


@app.command()
def extend(
    folder: Annotated[Path, typer.Argument(help="Folder of a mixture of this package.")],
    out: Out,
    modality: Annotated[str, typer.Option(help="The modality: image, video, audio or speech.")],
    experts: Annotated[int, typer.Option(help="New experts of each layer.")] = 2,
    encoder_of: Annotated[
        Path | None, typer.Option(help="Folder of a model whose encoder it gets, if the mixture has none.")
    ] = None,
    init: Annotated[
        Literal["copy", "random"], typer.Option(help="copy: the experts begin as those that are there, in turn.")
    ] = "copy",
    noise: Annotated[float, typer.Option(help="Added to copies, relative to the weights.")] = 0.01,
    router_bias: Annotated[float, typer.Option(help="Logits by which the new experts are preferred at first.")] = 1.0,
    data: Annotated[
        Path | None, typer.Option(help="Rows without the modality, on which both models are compared.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be added, only.")] = False,
) -> None:
    """Give a modality experts of its own, and an encoder; all other modalities get what they got."""
    from transformers.utils import logging

    from ..surgery.extend import extend_folder

    logging.disable_progress_bar()
    started = time.perf_counter()
    options: Any = {"num_experts": experts, "init": init, "noise": noise, "router_bias": router_bias, "seed": seed}
    try:
        added, certificate = extend_folder(
            folder, out, modality, encoder_of=encoder_of, data=data, dry_run=dry_run, **options
        )
    except UniMoEError as error:
        fail(error)
    table = Table("part", "parameters", title=f"what {modality} adds")
    for part, number in added.items():
        table.add_row(part, f"{number:,}")
    console.print(table)
    if certificate is None:
        return
    console.print(f"{certificate.kind}: {certificate.claim} Largest difference: {certificate.difference:.1e}.")
    console.print(f"train.parts: [{', '.join(certificate.details['stage']['train']['parts'])}]", highlight=False)
    console.print(f"written to {out} in {cost(started)}", highlight=False)


def chosen_rows(data: list[Path], rows: int, batch_size: int, modalities: str | None, seed: int) -> Any:
    """Name the calibration rows that options ask for."""
    from ..surgery.folders import Rows

    return Rows(data, rows, batch_size, modalities.split(",") if modalities else None, seed)


def carry_out(change: Callable[[], Outcome], out: Path) -> None:
    """Do it, or say in one line why not and exit with code 2; print what is lost, and what was measured.

    Args:
        change: Returns what was decided, and the certificate if it was done.
        out: Folder of the new model.
    """
    from transformers.utils import logging

    from ..checkpoint.loading import reason

    logging.disable_progress_bar()
    started = time.perf_counter()
    try:
        draft, certificate = change()
    except (OSError, ValueError) as error:
        fail(reason(error))
    console.print(losses_table(draft))
    if certificate is None:
        return
    if "damage" in certificate.details:
        console.print(damage_table(certificate))
    console.print(f"{certificate.kind}: {certificate.claim} Largest difference: {certificate.difference:.1e}.")
    console.print(f"written to {out} in {cost(started)}", highlight=False)


def losses_table(draft: Any) -> Table:
    """Lay out what would be lost: a row for each layer and modality, a column for each measure."""
    measures = list(dict.fromkeys(what for own in draft.losses.values() for lost in own.values() for what in lost))
    table = Table("layer", "modality", *measures, title=f"what {draft.operation} takes away")
    for layer, own in draft.losses.items():
        for key, lost in own.items():
            table.add_row(str(layer), key, *(number(lost.get(what)) for what in measures))
    return table


def number(value: float | None) -> str:
    """Write a share, or another number where it is above 1."""
    return "" if value is None else f"{value:.1%}" if value <= 1 else f"{value:.3g}"


def damage_table(certificate: Any) -> Table:
    """Lay out what was measured on the calibration rows, a row for each modality."""
    table = Table("rows with", "rows", "tokens", "loss before", "loss after", "divergence", "other top token")
    for key, damage in certificate.details["damage"].items():
        losses = (f"{damage[name]:.4f}" for name in ("loss_before", "loss_after", "divergence"))
        table.add_row(key, str(damage["rows"]), str(damage["tokens"]), *losses, f"{damage['changed_top']:.1%}")
    return table


def pairs(given: list[str] | None, between: str, option: str) -> list[tuple[str, str]]:
    """Read values such as `image=2`.

    Raises:
        UniMoEError: Naming one that is none.
    """
    found = []
    for value in given or []:
        left, sign, right = value.partition(between)
        if not (left and sign and right):
            raise UniMoEError(option, f"{value!r} is no A{between}B.", f"Write it as A{between}B.")
        found.append((left, right))
    return found


def whole(text: str, option: str) -> int:
    """Read a whole number of at least 0.

    Raises:
        UniMoEError: If it is none.
    """
    if not text.isdecimal():
        raise UniMoEError(option, f"{text!r} is no whole number.", "Write one, such as 2.")
    return int(text)
