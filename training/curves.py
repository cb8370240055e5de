"""Pictures of what `metrics.jsonl` holds: the loss of the training and of held-back rows, stage by stage."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .progress import METRICS_FILE

CURVES_FILE = "curves.png"


def read_curves(metrics: Path) -> dict[str, list[tuple[int, float]]]:
    """Read the losses of a stage: `training`, `held-back`, and `held-back FILE` of each file; (step, loss) each."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in map(json.loads, metrics.read_text(encoding="utf-8").splitlines()):
        for key, value in line.items():
            if (name := _curve(key)) is not None:
                curves.setdefault(name, []).append((line["step"], value))
    return curves


def _curve(key: str) -> str | None:
    if key in ("loss_language", "eval_loss"):
        return {"loss_language": "training", "eval_loss": "held-back"}[key]
    return f"held-back {key.partition('/')[2]}" if key.startswith("eval_loss/") else None


def plot_curves(folders: Sequence[Path], file: Path) -> bool:
    """Draw the losses of one stage, or of several side by side.

    Args:
        folders: Outputs of stages; one without `metrics.jsonl` is left out.
        file: The picture.

    Returns:
        Whether it was written: not without matplotlib, or without any loss.
    """
    stages = {folder: read_curves(folder / METRICS_FILE) for folder in folders if (folder / METRICS_FILE).is_file()}
    stages = {folder: curves for folder, curves in stages.items() if curves}
    if not stages or importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(5.0, 4.0 * len(stages)), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(stages), squeeze=False)[0]
    for panel, (folder, curves) in zip(panels, stages.items(), strict=True):
        _draw(panel, folder.name, curves)
    figure.savefig(file, dpi=120)
    return True


def _draw(panel: Any, title: str, curves: dict[str, list[tuple[int, float]]]) -> None:
    for name, points in curves.items():
        steps, losses = zip(*points, strict=True)
        is_held_back = name != "training"
        width = 1.0 if name in ("training",) or " " in name else 2.0
        panel.plot(steps, losses, marker="o" if is_held_back else None, markersize=3, linewidth=width, label=name)
    panel.set_title(title)
    panel.set_xlabel("step")
    panel.set_ylabel("loss, nats per label")
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")


__all__ = ["CURVES_FILE", "plot_curves", "read_curves"]
