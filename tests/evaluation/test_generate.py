import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from evaluation.errors import EvaluationError
from evaluation.generate import generate_predictions, make_batches
from evaluation.predictions import open_predictions
from evaluation.progress import track
from evaluation.tasks import Sample, read_task


class FakeProcessor:
    """Encodes a row as the number of its colour; refuses what it is told to refuse."""

    def __init__(self, refuse: str = "") -> None:
        self.refuse = refuse

    def apply_chat_template(self, conversations: list, **options: Any) -> dict[str, torch.Tensor]:
        assert options["add_generation_prompt"] and options["padding_side"] == "left"
        paths = [conversation[0]["content"][0]["path"] for conversation in conversations]
        if self.refuse and any(self.refuse in path for path in paths):
            raise ValueError("unreadable")
        ids = torch.tensor([[7, 7, 7, sum(Path(path).name.encode())] for path in paths])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.zeros(2, dtype=float)}

    def batch_decode(self, sequences: torch.Tensor, **options: Any) -> list[str]:
        return [f" {int(row[0])} " for row in sequences]


class FakeModel:
    """Answers with the last prompt token; stops the run after a number of batches."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, stop_after: int = 1000) -> None:
        self.stop_after = stop_after
        self.rows = 0

    def generate(self, input_ids: torch.Tensor, pixel_values: torch.Tensor, **options: Any) -> torch.Tensor:
        assert pixel_values.dtype == self.dtype
        if self.stop_after == 0:
            raise KeyboardInterrupt
        self.stop_after -= 1
        self.rows += len(input_ids)
        return torch.cat([input_ids, input_ids[:, -1:]], dim=1)


@pytest.fixture
def samples(colour_data: Path) -> list[Sample]:
    return read_task(colour_data / "colour_test.jsonl")


def run(samples: list[Sample], path: Path, model: FakeModel, **changes: Any) -> list[str]:
    options: dict[str, Any] = {
        "path": path,
        "header": {"model": "abc", "decoding": {"do_sample": False}},
        "decoding": {},
        "batch_size": 3,
        "seed": 0,
        "overwrite": False,
        "description": "colour",
        "console": Console(file=io.StringIO()),
    }
    processor = changes.pop("processor", FakeProcessor())
    return generate_predictions(model, processor, samples, **{**options, **changes})


def test_predictions_come_in_the_order_of_the_rows(samples: list[Sample], tmp_path: Path) -> None:
    predictions = run(samples, tmp_path / "p.jsonl", FakeModel())
    assert predictions == [str(sum(Path(row.media[0]["path"]).name.encode())) for row in samples]
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert lines[0]["header"]["model"] == "abc"
    assert {line["id"]: line["reference"] for line in lines[1:]} == {row.id: row.reference for row in samples}


def test_a_stopped_run_goes_on_and_gives_the_same(samples: list[Sample], tmp_path: Path) -> None:
    whole = run(samples, tmp_path / "whole.jsonl", FakeModel())
    with pytest.raises(KeyboardInterrupt):
        run(samples, tmp_path / "p.jsonl", FakeModel(stop_after=2))
    with (tmp_path / "p.jsonl").open("a") as file:
        file.write('{"id": "row')  # killed while writing
    rest = FakeModel()
    assert run(samples, tmp_path / "p.jsonl", rest) == whole
    assert rest.rows == len(samples) - 6
    again = FakeModel()
    assert run(samples, tmp_path / "p.jsonl", again) == whole
    assert again.rows == 0


def test_predictions_of_another_run_are_refused_with_the_cure(samples: list[Sample], tmp_path: Path) -> None:
    run(samples, tmp_path / "p.jsonl", FakeModel())
    other = {"model": "xyz", "decoding": {"do_sample": False}}
    with pytest.raises(EvaluationError, match=r"different: model\). Add --overwrite"):
        run(samples, tmp_path / "p.jsonl", FakeModel(), header=other)
    model = FakeModel()
    run(samples, tmp_path / "p.jsonl", model, header=other, overwrite=True)
    assert model.rows == len(samples)


def test_a_file_without_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "a", "prediction": "b"}\n')
    with pytest.raises(EvaluationError, match="it has no header"):
        open_predictions(path, {"model": "abc"})


def test_the_row_that_the_processor_refuses_is_named(samples: list[Sample], tmp_path: Path) -> None:
    culprit = next(row for row in samples if "blue_0" in row.media[0]["path"])
    with pytest.raises(EvaluationError, match=f"row {culprit.id}: the processor refused it: unreadable"):
        run(samples, tmp_path / "p.jsonl", FakeModel(), processor=FakeProcessor(refuse="blue_0"))


def test_the_longest_rows_come_first() -> None:
    def row(text: str) -> Sample:
        messages = ({"role": "user", "content": [{"type": "text", "text": text}]},)
        return Sample(id=text, messages=messages, reference="", answers=(), cluster="")

    batches = make_batches([row("a"), row("aaa"), row("aa")], 2)
    assert [[sample.id for sample in batch] for batch in batches] == [["aaa", "aa"], ["a"]]


def test_without_a_terminal_progress_is_plain_lines(samples: list[Sample], tmp_path: Path) -> None:
    stream = io.StringIO()
    run(samples, tmp_path / "p.jsonl", FakeModel(), console=Console(file=stream, width=100))
    first, *_, last = stream.getvalue().splitlines()
    assert "s left" in first and last.startswith("colour  8/8 rows") and "left" not in last


def test_without_a_terminal_there_is_a_line_each_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, now = io.StringIO(), iter(range(0, 4000, 31))
    monkeypatch.setattr("evaluation.progress.time", SimpleNamespace(monotonic=lambda: next(now)))
    list(track([[row] for row in range(100)], "slow", console=Console(file=stream, width=100)))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 50 and lines[0] == "slow  2/100 rows  62 s, about 3038 s left"
