"""Every published benchmark, from files in its publisher's layout to results.json: answers of a model, or given."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmark_fixtures import FIXTURES
from task_rows import colour_row, write_rows
from typer.testing import CliRunner

from evaluation.__main__ import app
from evaluation.fingerprint import CHECKSUMS
from evaluation.tasks import BENCHMARKS, Sample
from unimoe.tiny import save_tiny_checkpoint

ROOT = Path(__file__).parents[2]
BEST = {"wer": 0.0, "cer": 0.0}
"""Score of right answers, by metric, where it is not 1."""


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    for name, write in FIXTURES.items():
        write(folder / name)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("model"))


def command(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def results_of(output):
    return json.loads((output / "results.json").read_text())


def right_answer(sample: Sample) -> str:
    return sample.reference.replace("<AND>", " ") if "<AND>" in sample.reference else sample.reference


@pytest.mark.usefixtures("no_java")
def test_a_model_answers_every_benchmark(data_root, model, tmp_path):
    chosen = ["--tasks", ",".join(BENCHMARKS), "--data-root", data_root, "--output", tmp_path]
    short = ["max_new_tokens=3", "routing_rows=2", "bootstrap.samples=100", "worst_rows=2"]
    done = command("--model", model, *chosen, *short)
    assert done.exit_code == 0, done.output
    tasks = results_of(tmp_path)["tasks"]
    assert tasks.keys() == BENCHMARKS.keys()
    for name, task in tasks.items():
        benchmark = BENCHMARKS[name]
        assert task["metric"] == benchmark.metric and task["n"] > 0 and task["licence"] == benchmark.licence, name
        assert task["files"] and (benchmark.source(data_root).root / CHECKSUMS).is_file(), name
        assert task["decoding"]["max_new_tokens"] == 3
    routing = results_of(tmp_path)["routing"]["tasks"]
    assert "speech" in routing["librispeech_test_clean"] and "video" in routing["mvbench"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("<audio controls") >= 2 and page.count("data:image/jpeg") >= 2


@pytest.mark.usefixtures("no_java")
@pytest.mark.parametrize("name", BENCHMARKS)
def test_right_answers_that_are_given_score_best(data_root, tmp_path, name):
    benchmark = BENCHMARKS[name]
    samples = benchmark.samples(benchmark.source(data_root))
    lines = [{"id": sample.id, "prediction": right_answer(sample)} for sample in reversed(samples)]
    given = write_rows(tmp_path / "given.jsonl", lines)
    options = ["--tasks", name, "--data-root", data_root, "--output", tmp_path / "out", "bootstrap.samples=100"]
    done = command("--predictions", given, *options)
    assert done.exit_code == 0, done.output
    task = results_of(tmp_path / "out")["tasks"][name]
    assert task["unparsed_rate"] == 0
    if benchmark.metric == "captions":
        assert task["value"] > 1, "CIDEr-D of a reference itself"
    elif benchmark.metric == "mme":
        assert task["value"] == pytest.approx(200 * len(task["categories"][benchmark.average.axis]))
    else:
        assert task["value"] == pytest.approx(BEST.get(benchmark.metric, 1.0))
    assert "model: predictions in" in done.output


def test_missing_files_are_named_with_where_to_get_them(tmp_path):
    """What is said of each benchmark: test_benchmark_readers.py."""
    name = "pope"
    done = command("--predictions", tmp_path, "--tasks", name, "--data-root", tmp_path, "--output", tmp_path / "out")
    assert done.exit_code == 2
    assert "is missing" in done.stderr and BENCHMARKS[name].origin in " ".join(done.stderr.split())


def test_a_corrupt_picture_names_its_row(model, tmp_path):
    FIXTURES["vqav2"](tmp_path / "vqav2")
    picture = sorted((tmp_path / "vqav2").rglob("*.jpg"))[0]
    picture.write_bytes(picture.read_bytes()[:50])
    done = command("--model", model, "--tasks", "vqav2", "--data-root", tmp_path, "--output", tmp_path / "out")
    assert done.exit_code == 2
    assert picture.name in done.stderr and "row" in done.stderr and "the processor refused it" in done.stderr


def test_changed_annotations_are_noticed(tmp_path):
    FIXTURES["mmvet"](tmp_path / "mmvet")
    samples = BENCHMARKS["mmvet"].samples(BENCHMARKS["mmvet"].source(tmp_path))
    given = write_rows(tmp_path / "p.jsonl", [{"id": row.id, "prediction": "no"} for row in samples])
    options = ["--predictions", given, "--tasks", "mmvet", "--data-root", tmp_path, "--output", tmp_path / "out"]
    assert command(*options).exit_code == 0
    annotations = next((tmp_path / "mmvet").rglob("mm-vet.json"))
    annotations.write_text(annotations.read_text().replace("?", "??", 1))
    refused = command(*options)
    assert refused.exit_code == 2 and "is not what it was when it was first used" in refused.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name either --model, which answers, or --predictions"),
        (["--model", "a", "--predictions", "b"], "name either --model"),
        (["--model", "a"], "name --config FILE, or --tasks: vqav2"),
        (["--model", "a", "--tasks", "vqa2"], "no benchmark 'vqa2'. Did you mean 'vqav2'?"),
    ],
)
def test_a_command_that_does_not_say_what_is_measured_is_refused(words, message):
    done = command(*words)
    assert done.exit_code == 2 and message in done.stderr


@pytest.fixture
def long_task(tmp_path):
    """A configuration of 48 rows of text, whose answers are long enough to be killed in their midst."""
    rows = [colour_row(number, "red", f"question {'very ' * (number % 7)}{number}?") for number in range(48)]
    for row in rows:
        row["messages"][0]["content"] = row["messages"][0]["content"][1:]
    write_rows(tmp_path / "rows.jsonl", rows)
    config = tmp_path / "evaluation.yaml"
    config.write_text(
        f"output: {tmp_path / 'out'}\ndata_root: {tmp_path}\nbatch_size: 2\nmax_new_tokens: 40\nrouting_rows: 8\n"
        "bootstrap: {samples: 100}\ntasks:\n  colour: {data: rows.jsonl}\n"
    )
    return config


def arguments(model, config, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    asked = ["-m", "evaluation", "--model", str(model), "--config", str(config)]
    return [sys.executable, *(launcher if processes > 1 else []), *asked]


def run(model, config, processes=1):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        arguments(model, config, processes), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return (config.parent / "out" / "results.json").read_bytes()


def clear(config):
    for path in sorted((config.parent / "out").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_results(model, long_task):
    unbroken = run(model, long_task)
    clear(long_task)
    written = long_task.parent / "out" / "predictions" / "colour.jsonl"
    with subprocess.Popen(
        arguments(model, long_task), cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
    ) as running:
        while not written.is_file() or len(written.read_text().splitlines()) < 10:
            assert running.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    kept = written.read_text().splitlines()
    assert 10 <= len(kept) < 48 and not (long_task.parent / "out" / "results.json").exists()
    *_, (number, line) = enumerate(kept[:-1])  # the last one may be cut off
    answer = json.loads(line)
    assert run(model, long_task) == unbroken
    kept[number] = json.dumps({**answer, "prediction": "an answer of the first run"})
    clear(long_task)
    written.parent.mkdir(parents=True)
    written.write_text("\n".join(kept[:-1]) + "\n")
    run(model, long_task)
    lines = map(json.loads, written.read_text().splitlines()[1:])
    assert {row["id"]: row["prediction"] for row in lines}[answer["id"]] == "an answer of the first run"


@pytest.mark.distributed
def test_two_processes_give_the_results_of_one(model, long_task):
    alone = run(model, long_task)
    answers = (long_task.parent / "out" / "predictions" / "colour.jsonl").read_bytes()
    clear(long_task)
    assert run(model, long_task, processes=2) == alone
    assert (long_task.parent / "out" / "predictions" / "colour.jsonl").read_bytes() == answers
    assert not list((long_task.parent / "out").rglob("*.part-*"))
