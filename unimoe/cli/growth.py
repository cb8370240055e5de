"""Commands that make a mixture of a dense model, or back, or give a modality or a task experts of its own."""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from ..errors.terminal import fail
from .common import app, console, cost, load, say, summary
from .outcome import Out, Outcome, carry_out, outcome_line


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would differ only.")] = False,
) -> None:
    """Turn the experts of every sparse layer into one feed-forward."""
    from ..surgery.densify import densify as make_dense
    from ..surgery.folders import save_model

    started = time.perf_counter()
    model, _ = load(str(folder), with_processor=False)
    try:
        dense, certificate = make_dense(model, how=how, expert=expert, exact=not inexact, seed=seed)
        if not dry_run:
            save_model(dense, certificate, folder, out)
    except (OSError, ValueError) as error:
        fail(str(error))
    say(summary(certificate, dense.dtype))
    if not dry_run:
        say(f"written to {out} in {cost(started)}")


@app.command()
def extend(
    folder: Annotated[Path, typer.Argument(help="Folder of a mixture of this package.")],
    out: Out,
    modality: Annotated[str | None, typer.Option(help="The modality: image, video, audio or speech.")] = None,
    task: Annotated[str | None, typer.Option(help="Instead of a modality, the name of a task.")] = None,
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
    """Give a modality (and an encoder for it) or a task experts of its own; all else gets what it got."""
    from transformers.utils import logging

    from ..checkpoint.loading import reason
    from ..surgery.extend import extend_folder

    logging.disable_progress_bar()
    started = time.perf_counter()
    options: Any = {"num_experts": experts, "init": init, "noise": noise, "router_bias": router_bias, "seed": seed}
    try:
        added, certificate = extend_folder(
            folder, out, modality, task=task, encoder_of=encoder_of, data=data, dry_run=dry_run, **options
        )
    except (OSError, ValueError) as error:
        fail(reason(error))
    table = Table("part", "parameters", title=f"what {modality or task} adds")
    for part, number in added.items():
        table.add_row(part, f"{number:,}")
    console.print(table)
    if certificate is None:
        return
    say(outcome_line(certificate))
    say(f"train.parts: [{', '.join(certificate.details['stage']['train']['parts'])}]")
    say(f"written to {out} in {cost(started)}")
