"""The logs of a stage are read whatever a kill left of them, and other damage is named."""

import json

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from training.monitor.curves import read_curves
from training.monitor.metrics_file import METRICS_FILE, read_metrics
from training.monitor.progress import MetricsFile
from unimoe.errors import ConfigError
from unimoe.files.writing import append, write_whole

LINES = [{"step": step, "loss_language": 1.5, "load": {}} for step in (1, 2, 3)]


@pytest.fixture
def metrics(tmp_path):
    path = tmp_path / METRICS_FILE
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_last_line_that_was_cut_off_is_left_out(metrics, cut):
    raw = metrics.read_bytes()
    metrics.write_bytes(raw[:-cut])
    assert read_metrics(metrics) == (LINES if cut == 1 else LINES[:2])
    metrics.write_bytes(raw + b"\0" * cut)
    assert read_metrics(metrics) == LINES
    metrics.write_bytes(raw + b'{"step": 4, \xff'[:cut])
    assert read_metrics(metrics) == LINES and len(read_curves(metrics)["training"]) == 3


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[]", b"", b"{", b'{"step": "1"}', b"[" * 10**5, b"1" * 10**4])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_another_damaged_line_is_named(metrics, line, number):
    lines = metrics.read_bytes().splitlines()
    lines.insert(number - 1, line)
    metrics.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(ConfigError, match=rf"{METRICS_FILE}:{number}: is damaged. Take this line out"):
        read_metrics(metrics)


def test_what_is_no_log_at_all_is_named(metrics):
    metrics.write_bytes(b"\x80\xff garbage")
    with pytest.raises(ConfigError, match=rf"{METRICS_FILE}:1: is damaged"):
        read_metrics(metrics)
    metrics.unlink()
    assert read_metrics(metrics) == []


def test_a_training_that_goes_on_keeps_whole_lines_and_adds_to_them(metrics, tmp_path):
    metrics.write_bytes(metrics.read_bytes()[:-5])
    args, state = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState(global_step=2)
    callback = MetricsFile(metrics)
    callback.on_train_begin(args, state, TrainerControl())
    callback.on_log(args, state, TrainerControl(), logs={"loss": float("nan")})
    assert [line["step"] for line in read_metrics(metrics)] == [1, 2, 2]


def test_neither_writing_nor_appending_goes_through_a_link(tmp_path):
    mine, link = tmp_path / "mine", tmp_path / "link"
    mine.write_text("mine")
    link.symlink_to(mine)
    with pytest.raises(OSError, match="link"):
        append(link, "more")
    write_whole(link, "ours")
    append(link, ", more")
    assert mine.read_text() == "mine" and link.read_text() == "ours, more" and not link.is_symlink()
