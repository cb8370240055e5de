"""Pictures of what `metrics.jsonl` holds: the loss of the training and of validation rows, stage by stage."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .metrics_file import METRICS_FILE, read_metrics

CURVES_FILE = "curves.png"


def read_curves(metrics: Path) -> dict[str, list[tuple[int, float]]]:
    """Read the losses of a stage: `training`, `validation`, and `validation FILE` of each file; (step, loss) each.

    Raises:
        ConfigError: If the file is damaged.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in read_metrics(metrics):
        for key, value in line.items():
            if (name := _curve(key)) is not None and isinstance(value, int | float):
                curves.setdefault(name, []).append((line["step"], value))
    return curves


def _curve(key: str) -> str | None:
    if key in ("loss_language", "eval_loss"):
        return {"loss_language": "training", "eval_loss": "validation"}[key]
    return f"validation {key.partition('/')[2]}" if key.startswith("eval_loss/") else None


def plot_curves(folders: Mapping[str, Path], file: Path) -> bool:
    """Draw the losses of one stage, or of several side by side.

    Args:
        folders: Title -> output of a stage; one without `metrics.jsonl` is left out.
        file: The picture.

    Returns:
        Whether it was written: not without matplotlib, or without any loss.

    Raises:
        ConfigError: If the losses of a stage are damaged.
    """
    metrics = {title: folder / METRICS_FILE for title, folder in folders.items()}
    stages = {title: read_curves(path) for title, path in metrics.items() if path.is_file()}
    stages = {title: curves for title, curves in stages.items() if curves}
    if not stages or importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, 4.0 * len(stages)), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(name for curves in stages.values() for name in curves))
    panels = figure.subplots(1, len(stages), squeeze=False)[0]
    lines: dict[str, Any] = {}
    for panel, (title, curves) in zip(panels, stages.items(), strict=True):
        lines |= _draw(panel, title, curves, names)
    panels[0].set_ylabel("loss, nats per label")
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=min(len(lines), 2 * len(stages)))
    figure.savefig(file, dpi=120)
    return True


def _draw(panel: Any, title: str, curves: dict[str, list[tuple[int, float]]], names: list[str]) -> dict[str, Any]:
    """Draw one stage; a curve has the same colour in all of them. Returns the lines by name."""
    lines = {}
    for name, points in curves.items():
        steps, losses = zip(*points, strict=True)
        style: dict[str, Any] = {"color": f"C{names.index(name)}", "marker": "o", "markersize": 3}
        if name == "training":
            style = {"color": "0.7", "zorder": 1}
        lines[name] = panel.plot(steps, losses, linewidth=2.0 if name == "validation" else 1.0, **style)[0]
    panel.set_title(title)
    panel.set_xlabel("step")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    return lines


__all__ = ["CURVES_FILE", "plot_curves", "read_curves"]
