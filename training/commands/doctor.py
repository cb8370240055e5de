"""`python -m training doctor RUN`: what keeps the mixture that a stage left from being more than a dense model."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from unimoe.errors.terminal import fail, plain

if TYPE_CHECKING:
    from ..doctor.examine import Examination
    from ..doctor.facts import LayerFacts, MixtureFacts

_WIDTH = 120
"""Columns of what does not go to a terminal."""
FOUND = 1
"""Exit code: a problem or a warning was found."""
_COLOURS = {"problem": "red", "warning": "yellow", "note": "cyan"}


def doctor(
    run: Annotated[Path, typer.Argument(help="Output of a stage that trained a mixture, or of a recipe.")],
    rows: Annotated[int, typer.Option(min=0, help="Rows of its data for gradients. 0: data are not needed.")] = 32,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Share the experts out to so many. Default: as the stage did.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print findings and facts as JSON.")] = False,
) -> None:
    """Examine the mixture of experts that a stage left: gradients, experts, modalities, load; say what to change."""
    from transformers.utils import logging

    from ..doctor.examine import examine, find_stages
    from ..doctor.rules import is_healthy

    logging.disable_progress_bar()
    width = None if sys.stdout.isatty() else _WIDTH
    console, examined = Console(stderr=as_json, width=width), []
    try:
        for folder in find_stages(run):
            with console.status(plain(f"examining {folder}")):
                examined.append(examine(folder, rows=rows, processes=processes))
            if not as_json:
                show(examined[-1], console)
    except (OSError, ValueError) as error:
        fail(error)
    if as_json:
        typer.echo(json.dumps([each.as_json() for each in examined], indent=1))
    if not all(is_healthy(each.findings) for each in examined):
        raise typer.Exit(FOUND)


def show(examination: "Examination", console: Console) -> None:
    """Show the facts of a mixture and what was found."""
    from ..doctor.rules import is_healthy

    facts = examination.facts
    console.rule(plain(str(examination.folder)))
    for line in describe(facts):
        _say(plain(line), console)
    console.print(layer_table(facts))
    if facts.layers[0].load:
        console.print(load_table(facts))
    for missing in facts.missing:
        _say(plain(f"not examined: {missing}"), console)
    for finding in examination.findings:
        name = f"[{_COLOURS[finding.kind.severity]}]{finding.kind.severity}[/] [bold]{finding.name}[/]{finding.where}"
        _say(f"{name}: {plain(finding.measured)}", console)
        _say(f"  which means: {plain(finding.kind.meaning)}", console)
        _say(f"  cure: {plain(finding.kind.cure)}", console)
    if is_healthy(examination.findings):
        _say(f"[green]healthy[/]: {'notes alone were' if examination.findings else 'nothing was'} found", console)


def describe(facts: "MixtureFacts") -> list[str]:
    """Say what the mixture is, and how much of parameters and gradient is routed."""
    text = facts.text
    lines = [
        f"{len(facts.layers)} sparse layers of {text.num_experts} experts, {text.num_experts_per_tok} for a token"
    ]
    if facts.shares:
        share = facts.shares
        lines.append(
            f"experts and routers: {share['parameters']:.1%} of all parameters, {share['active']:.1%} of active ones"
        )
    if facts.gradients:
        gradients = facts.gradients
        tokens = ", ".join(f"{key} {number:,}" for key, number in gradients.tokens.items())
        lines.append(
            f"language loss of {gradients.rows} rows ({tokens} tokens): {gradients.routed_share:.1%} of the squared "
            "gradient norm of what trains is of experts and routers"
        )
    return lines


def layer_table(facts: "MixtureFacts") -> Table:
    """Show each sparse layer: norms of its gradients of the language loss, how experts differ and moved, its load."""
    from ..doctor.load import busiest_process

    table = Table(title="Layers")
    shown = (
        "layer",
        "gradient router / experts",
        "distance of experts",
        "moved router / experts",
        "busiest",
        "effective",
    )
    for column in shown:
        table.add_column(column, justify="right")
    if facts.processes > 1:
        table.add_column(f"busiest of {facts.processes} processes", justify="right")
    for layer in facts.layers:
        values = layer.as_json(facts.text.num_experts)
        row = [
            str(layer.layer),
            f"{_number(layer.router_gradient)} / {_number(layer.experts_gradient)}",
            f"{float(layer.pairs.min()):.3f} - {float(layer.pairs.max()):.3f}",
            f"{_number(layer.router_moved)} / {_moved(layer)}",
            f"{values['largest_share']:.0%}" if layer.load else "-",
            f"{values['effective_experts']:.1f}" if layer.load else "-",
        ]
        if facts.processes > 1:
            row.append(f"{busiest_process(facts, layer):.2f} x mean")
        table.add_row(*row)
    return table


def load_table(facts: "MixtureFacts") -> Table:
    """Show which experts each modality chooses, all layers together, in percent."""
    import torch

    from ..doctor.facts import total

    table = Table(title=f"Load, percent ({facts.load_of})")
    table.add_column("modality")
    for expert in range(facts.text.num_router_targets):
        owners = [key for key, experts in facts.own.items() if expert in experts]
        name = "null" if expert >= facts.text.num_experts else " ".join([str(expert), *owners])
        table.add_column(name, justify="right")
    for key in dict.fromkeys(key for layer in facts.layers for key in layer.load):
        counts = torch.stack([total(layer.load, [key]) for layer in facts.layers]).sum(dim=0)
        table.add_row(key, *(f"{100 * share:.0f}" for share in (counts / counts.sum().clamp(min=1)).tolist()))
    return table


def _say(text: str, console: Console) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _moved(layer: "LayerFacts") -> str:
    moved = layer.experts_moved
    return "-" if moved is None else f"{min(moved):.2g} - {max(moved):.2g}"


__all__ = ["doctor"]
