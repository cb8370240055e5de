"""Pictures of what `metrics.jsonl` holds: the loss of the training and of validation rows, stage by stage."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .metrics_file import METRICS_FILE, read_metrics

CURVES_FILE = "curves.png"
PRIOR, SHUFFLED = "label prior: ", "shuffled media: "


def read_curves(metrics: Path) -> dict[str, list[tuple[int, float]]]:
    """Read the losses of a stage: `training`, `validation`, and `validation FILE` of each file; (step, loss) each.

    Those of the label prior and with shuffled media have the same names behind `label prior: ` and `shuffled media: `.

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
    kind, _, file = key.partition("/")
    names = {"loss_language": "training", "eval_loss": "validation"}
    names |= {"loss_prior": f"{PRIOR}training", "eval_loss_prior": f"{PRIOR}validation"}
    names |= {"eval_loss_shuffled": f"{SHUFFLED}validation"}
    return f"{names[kind]} {file}".strip() if kind in names else None


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
    names = list(dict.fromkeys(_own(name) for curves in stages.values() for name in curves))
    panels = figure.subplots(1, len(stages), squeeze=False)[0]
    lines: dict[str, Any] = {}
    for panel, (title, curves) in zip(panels, stages.items(), strict=True):
        lines |= _draw(panel, title, curves, names)
    panels[0].set_ylabel("loss, nats per label")
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=min(len(lines), 2 * len(stages)))
    figure.savefig(file, dpi=120)
    return True


def _own(name: str) -> str:
    """Return the name of the loss that stands beside a curve: that of the same rows, with their own media."""
    return name.removeprefix(PRIOR).removeprefix(SHUFFLED)


def _draw(panel: Any, title: str, curves: dict[str, list[tuple[int, float]]], names: list[str]) -> dict[str, Any]:
    """Draw one stage; a curve has the same colour in all of them. Returns the lines by name.

    Beside the losses of files, or of all rows where there is one file, stand those of the label prior, dashed, and
    with shuffled media, dotted, in the same colour.
    """
    lines: dict[str, Any] = {}
    has_files = any(name.startswith("validation ") for name in curves)
    for name, points in curves.items():
        steps, losses = zip(*points, strict=True)
        own = _own(name)
        is_sum = own == "validation" and has_files
        style: dict[str, Any] = {"color": "0.7" if own == "training" else f"C{names.index(own)}"}
        if own == name:
            style |= {"zorder": 1} if name == "training" else {"marker": "o", "markersize": 3}
            lines[name] = panel.plot(steps, losses, linewidth=2.0 if name == "validation" else 1.0, **style)[0]
        elif not is_sum:
            legend = "label prior" if name.startswith(PRIOR) else "shuffled media"
            dashes = "--" if name.startswith(PRIOR) else ":"
            panel.plot(steps, losses, linewidth=1.0, linestyle=dashes, **style)
            lines[legend] = panel.plot([], [], linewidth=1.0, linestyle=dashes, color="0.3")[0]
    panel.set_title(title)
    panel.set_xlabel("step")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    return lines


__all__ = ["CURVES_FILE", "plot_curves", "read_curves"]
