"""docs/benchmarks.md, written from the benchmarks: `python -m evaluation.tasks.page > docs/benchmarks.md`."""

import sys
from collections.abc import Iterable

from .benchmark import Benchmark

INTRODUCTION = """\
# Benchmarks

Published benchmarks that `python -m evaluation` reads. Their files are not part of this project: get them from their
publishers, under their licences, and put those of `NAME` into `DATA_ROOT/NAME` in the layout shown. Links to folders
work, so that pictures which several benchmarks use need to be there only once. What is missing is named, with the row
that needs it, before a model is loaded. Media that a publisher keeps inside of annotation files are written to
`DATA_ROOT/NAME/unpacked`.
"""
READING = """\
## How to read this page

A benchmark in `evaluation/tasks/` is a `Benchmark`, which holds its facts, and three small things: a model of its rows
(`Row`), a function that finds the rows in the publisher's files, and one reader that makes a question of a row. The
rows of the Hub have a model of their own and go through the same reader. `read` says what these were written from.
Where that is a description and no real file, a first run may show a difference: the error names the row. Prompts are
appended to the question; `⏎` is a line break.

**Speech or sound.** Spoken language goes through the speech encoder (`speech`), other sounds through that of sounds
(`audio`). Where a benchmark has both, its rows say which. The sound of a video is heard through the model's option
`video_sound` ([media](media.md)).

**Intervals.** Rows about one medium are one cluster, and so are those of one question; of LibriSpeech, of one speaker.

`python -m evaluation.tasks.page > docs/benchmarks.md` writes this page.
"""


def render_page(benchmarks: Iterable[Benchmark]) -> str:
    """Write the page: introduction, a line for each benchmark, how to read what follows, a section for each."""
    listed = list(benchmarks)
    rows = [f"| [`{b.name}`](#{b.name}) | {b.title} | {b.measures} | {_score(b)} |" for b in listed]
    table = "\n".join(["| name | benchmark | what it measures | score |", "|---|---|---|---|", *rows])
    return "\n".join([INTRODUCTION, table, "", READING, *map(render_section, listed)])


def render_section(benchmark: Benchmark) -> str:
    """Write the section of one benchmark."""
    facts = {
        "score": _score(benchmark),
        "prompt": _prompt(benchmark),
        "decoding": _decoding(benchmark),
        "files from": benchmark.origin,
        "licence": benchmark.licence,
        "read": benchmark.read_on,
        "on the Hub": _hub(benchmark),
    }
    table = "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items() if value)])
    tree = f"```text\n{_folder(benchmark)}\n{benchmark.tree.strip()}\n```"
    return (
        "\n\n".join(
            filter(
                None, [f"## {benchmark.name}", f"{benchmark.title}. {benchmark.measures}", table, tree, benchmark.note]
            )
        )
        + "\n"
    )


def _score(benchmark: Benchmark) -> str:
    average = benchmark.average
    over = "over all rows" if average.over == "rows" else f"{average.over} over `{average.axis}`"
    return f"`{benchmark.metric}`, {over}" + (", a judge by choice" if benchmark.judge else "")


def _prompt(benchmark: Benchmark) -> str:
    shown = benchmark.prompt.replace("\n", "⏎")
    return f"`{shown}`" if shown else "none: the question alone"


def _decoding(benchmark: Benchmark) -> str:
    further = "".join(f", {key}={value}" for key, value in benchmark.decoding.items())
    return f"at most {benchmark.max_new_tokens} tokens, {further.removeprefix(', ') or 'greedy'}"


def _hub(benchmark: Benchmark) -> str:
    hub = benchmark.hub
    if hub is None:
        return ""
    return f"`{hub.dataset}`" + (f", configuration `{hub.config}`" if hub.config else "") + f", split `{hub.split}`"


def _folder(benchmark: Benchmark) -> str:
    shared = f", or DATA_ROOT/{benchmark.shares}/ if there is none" if benchmark.shares else ""
    return f"DATA_ROOT/{benchmark.name}/{shared}"


def main() -> None:
    """Write the page to standard output."""
    from . import BENCHMARKS

    sys.stdout.write(render_page(BENCHMARKS.values()))


if __name__ == "__main__":
    main()


__all__ = ["INTRODUCTION", "render_page", "render_section"]
