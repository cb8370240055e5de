"""What one sees of a running stage: a bar in a terminal, plain lines without one, and `metrics.jsonl` always."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from unimoe.errors.terminal import plain
from unimoe.errors.visible import visible
from unimoe.files.writing import append, write_whole

from .metrics_file import read_metrics

T = TypeVar("T")


class MetricsFile(TrainerCallback):
    """Append what the trainer logs to a JSON Lines file, one object for each log; lines after a checkpoint that a
    training goes on from are dropped, for they will be written again.

    Args:
        path: The file.
        details: What a log has beside its numbers.
    """

    def __init__(self, path: Path, details: Callable[[], dict[str, Any]] = dict) -> None:
        self.path, self.details = path, details

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the lines up to the step that the training begins at: none, or those of the checkpoint."""
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            logs = read_metrics(self.path) if state.global_step else []
            kept = [json.dumps(log) + "\n" for log in logs if log["step"] <= state.global_step]
            write_whole(self.path, "".join(kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line."""
        if state.is_world_process_zero and logs:
            append(self.path, json.dumps({"step": state.global_step, **logs, **self.details()}) + "\n")


class StageProgress(TrainerCallback):
    """Show how far a stage is: a bar with the losses below it, or one line for each log if there is no terminal."""

    def __init__(self, console: Console, *, title: str) -> None:
        self.console = console
        self.title = title
        self.losses = Text()
        self.warnings: list[str] = []
        self.bar: Progress | None = None
        self.live: Live | None = None
        self.began = (time.monotonic(), 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar."""
        self.began = (time.monotonic(), state.global_step)
        if not state.is_world_process_zero or not self.console.is_terminal:
            return
        self.bar = counting_bar(self.console)
        self.task = self.bar.add_task(plain(self.title), total=state.max_steps, completed=state.global_step)
        self.live = Live(Group(self.bar, self.losses), console=self.console)
        self.live.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the losses, and which expert each modality uses most."""
        if not state.is_world_process_zero or not logs or not {"loss", "eval_loss"} & logs.keys():
            return
        text = summarize(logs) if "loss" in logs else summarize_validation(logs)
        if self.bar is not None:
            self.losses.plain = visible(text)
        else:
            where = f"{self.title}  step {state.global_step}/{state.max_steps}"
            self.console.print(plain(f"{where}  {text}{self._left(state)}"), highlight=False, soft_wrap=True)

    def _left(self, state: TrainerState) -> str:
        """Say how long it will take to the last step, at the pace so far; nothing before the first and at the last."""
        moment, step = self.began
        done, left = state.global_step - step, state.max_steps - state.global_step
        return f"  {duration((time.monotonic() - moment) / done * left)} left" if done > 0 and left > 0 else ""

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        self.close()

    def track(self, items: Iterable[T], total: int, what: str) -> Iterator[T]:
        """As `track`; while the bar is open, as a second one below it."""
        if self.bar is None:
            yield from track(items, total, what, self.console)
            return
        bar, task = self.bar, self.bar.add_task(what, total=total)
        try:
            for item in items:
                yield item
                bar.advance(task)
        finally:
            bar.remove_task(task)

    def warn(self, sentence: str) -> None:
        """Say what should be looked at, and keep it."""
        self.warnings.append(sentence)
        self.console.print(f"[yellow]Warning:[/yellow] {plain(sentence)}", highlight=False, soft_wrap=True)

    def say(self, sentence: str) -> None:
        """Say what is worth knowing, and no warning."""
        self.console.print(plain(sentence), highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Stop drawing; also after an error."""
        if self.live is not None:
            self.live.stop()
        self.bar = self.live = None


def duration(seconds: float) -> str:
    """Write out how long something takes, in two units at most."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def counting_bar(console: Console, *, transient: bool = False) -> Progress:
    """Make a bar with counts and the time that is left."""
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    ]
    return Progress(*columns, console=console, transient=transient)


FIRST_LINE, NEXT_LINES = 5.0, 30.0
"""Seconds after which work that goes on is told in a plain log, for the first time and then again."""


def track(
    items: Iterable[T],
    total: int,
    what: str,
    console: Console,
    *,
    first: float = FIRST_LINE,
    seconds: float = NEXT_LINES,
) -> Iterator[T]:
    """Give items one after the other and show how far they are: a bar, or a line now and then without a terminal.

    Args:
        items: Any number of them.
        total: How many there are.
        what: What is done with them, in a word or two.
        console: Where it is shown.
        first: Seconds to the first line.
        seconds: Between two lines.
    """
    if console.is_terminal:
        with counting_bar(console, transient=True) as bar:
            yield from bar.track(items, total=total, description=what)
        return
    started = time.monotonic()
    due = started + first
    for done, item in enumerate(items):
        if done and (now := time.monotonic()) >= due:
            left = duration((now - started) / done * (total - done))
            console.print(f"{what}: {done:,} of {total:,}, {left} left", highlight=False)
            due = now + seconds
        yield item
    if due != started + first:
        console.print(f"{what}: all {total:,} in {duration(time.monotonic() - started)}", highlight=False)


SHOWN_EXPERTS = 8
"""Most experts whose shares are all shown in a line; of more, the three that are used most."""


def summarize(logs: dict[str, float]) -> str:
    """Put a log into one line: losses, speed, memory, then each modality's shares of the experts in percent."""
    parts = [f"loss {logs['loss']:.3f}"]
    parts += [f"prior {logs['loss_prior']:.3f}"] if "loss_prior" in logs else []
    parts += [f"{name} {logs[f'loss_{name}']:.3f}" for name in ("balance", "z") if f"loss_{name}" in logs]
    shown = {"grad_norm": "grad {:.2f}", "tokens_per_second": "{:,.0f} tok/s", "data_wait": "wait {:.0%}"}
    shown |= {"memory_gb": "mem {:.2f} GB", "router_entropy": "entropy {:.2f}"}
    parts += [text.format(logs[key]) for key, text in shown.items() if key in logs]
    loads: dict[str, list[float]] = {}
    for key, value in logs.items():
        if key.startswith("load_"):
            loads.setdefault(key.removeprefix("load_").partition("/")[0], []).append(value)
    return "  ".join(parts + [f"{modality} {_shares(shares)}" for modality, shares in loads.items()])


def _shares(shares: list[float]) -> str:
    if len(shares) <= SHOWN_EXPERTS:
        return "/".join(f"{100 * share:.0f}" for share in shares)
    most = sorted(range(len(shares)), key=lambda expert: -shares[expert])[:3]
    return " ".join(f"e{expert} {100 * shares[expert]:.0f}" for expert in most)


def summarize_validation(logs: dict[str, float]) -> str:
    """Put what validation rows told into one line: of all, then of each file."""
    suffixes = [key.removeprefix("eval_loss") for key in logs if key.startswith("eval_loss/")]
    files = [f"{suffix[1:]} {_told(logs, suffix)}" for suffix in suffixes]
    return "  ".join([f"validation loss {_told(logs, '')}", *files])


def _told(logs: dict[str, float], suffix: str) -> str:
    """Write the loss of a file and, in brackets, what it is compared with."""
    loss, beside = logs[f"eval_loss{suffix}"], []
    if (prior := logs.get(f"eval_loss_prior{suffix}")) is not None:
        beside.append(f"{'below' if loss < prior else 'not below'} the label prior's {prior:.3f}")
    if (shuffled := logs.get(f"eval_loss_shuffled{suffix}")) is not None:
        beside.append(f"shuffled media {shuffled:.3f}")
    if (exact := logs.get(f"eval_exact_match{suffix}")) is not None:
        distinct = [f"{logs[f'eval_distinct_{what}{suffix}']:.0f}" for what in ("answers", "labels")]
        beside.append(f"exact {exact:.2f}, {distinct[0]} distinct answers of {distinct[1]}")
    return f"{loss:.3f}" + (f" ({', '.join(beside)})" if beside else "")
