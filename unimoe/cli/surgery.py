"""Commands that change the model of a folder into another folder, with a certificate of what it kept."""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import UniMoEError
from ..errors.terminal import fail
from .calibration import DryRun, Score, Source, on_rows
from .common import app, console, cost, say
from .outcome import Out, Outcome, carry_out


@app.command()
@on_rows
def prune(
    folder: Source,
    out: Out,
    rows: Any,
    ratio: Annotated[float | None, typer.Option(help="Share of the experts that go.")] = None,
    keep: Annotated[int | None, typer.Option(help="Experts of each layer that stay, instead of a ratio.")] = None,
    score: Score = "reap",
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
        return prune_folder(folder, out, rows=rows, wish=wish, mode=mode, ranking=ranking, dry_run=dry_run)

    carry_out(change, out)


@app.command()
@on_rows
def merge(
    folder: Source,
    out: Out,
    rows: Any,
    keep: Annotated[int, typer.Option(min=1, help="Experts of each layer after merging.")],
    similarity: Annotated[
        Literal["outputs", "weights", "router"], typer.Option(help="Which experts are similar.")
    ] = "outputs",
    align: Annotated[bool, typer.Option(help="Bring the channels of a group into one order first.")] = True,
    router_rows: Annotated[
        Literal["keep", "drop"], typer.Option(help="drop: one row for each group, for classes of transformers.")
    ] = "keep",
    dry_run: DryRun = False,
) -> None:
    """Let groups of similar experts become one expert each: the average of their weights."""
    from ..surgery.merge import MergeWish, merge_folder

    wish = MergeWish(keep, similarity, align=align, rows=router_rows)
    carry_out(lambda: merge_folder(folder, out, rows=rows, wish=wish, dry_run=dry_run), out)


@app.command()
@on_rows
def latent(
    folder: Source,
    out: Out,
    rows: Any,
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
    dry_run: DryRun = False,
) -> None:
    """Give experts a shared latent space and small maps of their own in it (MoLAE)."""
    from ..surgery.latent import LatentWish, latent_folder

    wish = LatentWish(groups, rank, ratio, max_error, whiten=whiten, materialize=materialize)
    carry_out(lambda: latent_folder(folder, out, rows=rows, wish=wish, dry_run=dry_run), out)


@app.command()
@on_rows
def quantize(
    folder: Source,
    out: Out,
    rows: Any,
    bits: Annotated[int, typer.Option(help="Of a weight of the experts: 8, or 4 where torchao has a kernel.")] = 8,
    budget: Annotated[
        float | None, typer.Option(help="Mean bits of a weight, instead: experts that matter more get more.")
    ] = None,
    score: Score = "reap",
    parts: Annotated[
        str | None, typer.Option(help="What gets 8 bits as well: attention,mlp,shared_experts,expert_base.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where models run; 4 bits need a GPU.")] = "cpu",
    dry_run: DryRun = False,
) -> None:
    """Keep the weights of experts in 8 bits, or fewer, through torchao; routers and norms stay as they are."""
    from ..surgery.quantize import quantize_folder

    def change() -> Outcome:
        options: Any = {"bits": bits, "budget": budget, "score": score, "device": device, "dry_run": dry_run}
        return quantize_folder(folder, out, rows=rows, parts=parts.split(",") if parts else (), **options)

    carry_out(change, out)


@app.command()
@on_rows
def recalibrate(
    folder: Source,
    out: Out,
    rows: Any,
    like: Annotated[Path, typer.Option(help="Folder of the model before the operation.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps, each over all rows.")] = 20,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-3,
    dry_run: DryRun = False,
) -> None:
    """Teach the routers of a changed model the answers of the model before; all else stays as it is."""
    from ..surgery.recalibrate import recalibrate_folder

    def tell(step: int, divergence: float) -> None:
        console.print(f"step {step} of {steps}: divergence {divergence:.5f}", highlight=False)

    def change() -> Outcome:
        options: Any = {"steps": steps, "learning_rate": learning_rate, "dry_run": dry_run, "on_step": tell}
        return recalibrate_folder(folder, out, like=like, rows=rows, **options)

    carry_out(change, out)


@app.command()
@on_rows
def adapt(
    folder: Source,
    out: Out,
    rows: Any,
    parts: Annotated[str, typer.Option(help="What learns, such as router,norms.")] = "router",
    steps: Annotated[int, typer.Option(min=1, help="Steps, each over one batch.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-3,
    dry_run: DryRun = False,
) -> None:
    """Teach the routers, or other parts alone, the rows of a task in a few steps."""
    from ..surgery.adapt import adapt_folder

    chosen = tuple(parts.split(","))
    options: Any = {"steps": steps, "learning_rate": learning_rate, "parts": chosen, "dry_run": dry_run}
    carry_out(lambda: adapt_folder(folder, out, rows=rows, **options), out)


@app.command("rank")
@on_rows
def rank_experts(
    folder: Source,
    out: Annotated[Path, typer.Argument(help="File for the ranking: JSON Lines of layers and their experts.")],
    rows: Any,
    score: Score = "reap",
) -> None:
    """Rank the experts of each layer by what they matter on calibration rows, for `prune` and for other tools."""
    from transformers.utils import logging

    from ..checkpoint.loading import load_mixture, reason
    from ..surgery.ranking import rank, write_ranking
    from ..surgery.saliency import saliency

    logging.disable_progress_bar()
    started = time.perf_counter()
    try:
        model, processor = load_mixture(folder)
        found = saliency(model, rows.read(model, processor))
        write_ranking(out, rank(found, score))
    except (OSError, ValueError) as error:
        fail(reason(error))
    say(f"written to {out} in {cost(started)}")


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
