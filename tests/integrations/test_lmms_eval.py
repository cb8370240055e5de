"""lmms-eval itself, on the quickstart's model: its metrics are ours, and a batch of four answers as one row does."""

import json
import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lmms_tasks import SIMPLE, command, write_tasks

from evaluation.metrics import METRICS, vqa_accuracy, word_errors
from evaluation.metrics.metric import ratio
from evaluation.tasks import Sample, ask
from unimoe.integrations.lmms_eval_media import SPEECH_TASKS

ROOT = Path(__file__).parents[2]
RECIPE = "configs/quickstart/quickstart.yaml"
PYTHON = os.environ.get("UNIMOE_LMMS_PYTHON", "")
PYTHON = PYTHON and os.path.abspath(PYTHON)  # lmms-eval runs in another folder
BATCHES = (1, 4)
TOLERANCE = 1e-6
POPE = {"accuracy": "pope_accuracy", "precision": "pope_precision", "recall": "pope_recall", "f1": "pope_f1_score"}
"""Our name of a value -> theirs."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON,
        reason="UNIMOE_LMMS_PYTHON names no python of an environment with lmms-eval: docs/lmms_eval.md",
    ),
]


@pytest.fixture(scope="module")
def package() -> Path:
    """Folder of the installed `lmms_eval`."""
    code = "import importlib.util as u; print(u.find_spec('lmms_eval').submodule_search_locations[0])"
    return Path(subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.strip())


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's data, and its model trained a fiftieth as long; UNIMOE_LMMS_QUICKSTART names one at hand."""
    if at_hand := os.environ.get("UNIMOE_LMMS_QUICKSTART"):
        return Path(at_hand).resolve()
    folder = tmp_path_factory.mktemp("quickstart")
    for words in (["training.quickstart", str(folder)], ["training", RECIPE, f"output={folder}", "scale=0.02"]):
        subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def tasks(quickstart: Path, package: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder of the tasks, and the rows of each."""
    folder = tmp_path_factory.mktemp("lmms")
    return folder, write_tasks(quickstart / "data", folder, package)


@pytest.fixture(scope="module")
def runs(quickstart: Path, tasks: tuple[Path, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Batch size -> results, and predictions of each task in the order of its rows."""
    folder, rows = tasks
    asked = [task for task in rows if task not in SIMPLE]
    found = {}
    for size in BATCHES:
        results = run(quickstart, asked, folder, folder / f"batch{size}", size)
        found[size] = {"results": results, **{task: predictions(folder / f"batch{size}", task) for task in asked}}
    return found


def run(quickstart: Path, asked: list[str], folder: Path, out: Path, batch_size: int) -> dict[str, Any]:
    """Scores of each task."""
    environment = {**os.environ, "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    words = command(PYTHON, quickstart / "model", asked, folder, results=out, batch_size=batch_size)
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    written = sorted(out.rglob("*_results.json"))
    assert written, done.stdout[-3000:] + done.stderr[-3000:]  # lmms-eval's exit code is 0 all the same
    results: dict[str, Any] = json.loads(written[-1].read_text(encoding="utf-8"))["results"]
    return results


def predictions(folder: Path, task: str) -> list[str]:
    return [first(sample["filtered_resps"]) for sample in read_samples(folder, task)]


def read_samples(folder: Path, task: str) -> list[dict[str, Any]]:
    (file,) = folder.rglob(f"*_samples_{task}.jsonl")
    samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted(samples, key=lambda sample: sample["doc_id"])


def first(answer: Any) -> str:
    while isinstance(answer, list):
        answer = answer[0]
    return str(answer)


def value(run: dict[str, Any], task: str, metric: str) -> float:
    return next(value for name, value in run["results"][task].items() if name.split(",")[0] == metric)


def test_a_batch_of_four_answers_as_one_row_does(runs: dict, tasks: tuple[Path, dict[str, Any]]) -> None:
    one, four = (runs[size] for size in BATCHES)
    for task, rows in tasks[1].items():
        if task in SIMPLE:
            continue
        assert len(one[task]) == len(rows) and any(one[task])
        assert one[task] == four[task], task


@pytest.mark.parametrize("size", BATCHES)
def test_vqa_accuracy_is_ours(runs: dict, tasks: tuple[Path, dict[str, Any]], size: int) -> None:
    rows = tasks[1]["unimoe_vqa"]
    ours = [
        vqa_accuracy(text, [said["answer"] for said in row["answers"]])
        for text, row in zip(runs[size]["unimoe_vqa"], rows, strict=True)
    ]
    assert value(runs[size], "unimoe_vqa", "exact_match") == pytest.approx(np.mean(ours), abs=TOLERANCE)
    assert 0 < np.mean(ours) < 1, "a score of nothing or of everything shows little"


@pytest.mark.parametrize("size", BATCHES)
def test_pope_scores_are_ours_on_plain_answers(runs: dict, tasks: tuple[Path, dict[str, Any]], size: int) -> None:
    """lmms-eval takes "yes" and "no" alone: other answers are wrong there, and no part of precision, recall and F1."""
    said = [text.lower().strip() for text in runs[size]["unimoe_pope"]]
    plain = [
        (Sample(str(number), ask(row["question"]), row["answer"], (row["answer"],), str(number)), text)
        for number, (text, row) in enumerate(zip(said, tasks[1]["unimoe_pope"], strict=True))
        if text in ("yes", "no")
    ]
    assert plain, "the model says neither yes nor no"
    scores = METRICS["yes_no"].score(*zip(*plain, strict=True)).values
    ours = {name: np.nan_to_num(ratio(scores[name])) for name in POPE}  # of no yes at all, lmms-eval's precision is 0
    ours["accuracy"] *= len(plain) / len(said)
    theirs = {name: value(runs[size], "unimoe_pope", metric) for name, metric in POPE.items()}
    assert theirs == pytest.approx(ours, abs=TOLERANCE)


@pytest.mark.parametrize("size", BATCHES)
def test_word_error_rate_is_ours(runs: dict, tasks: tuple[Path, dict[str, Any]], size: int) -> None:
    pairs = zip(runs[size]["unimoe_asr"], tasks[1]["unimoe_asr"], strict=True)
    errors, words = np.sum([word_errors(text, row["gt"]) for text, row in pairs], axis=0)
    assert value(runs[size], "unimoe_asr", "wer") == pytest.approx(100 * errors / words, abs=TOLERANCE)


def test_films_and_captions_are_scored(runs: dict) -> None:
    for size in BATCHES:
        assert 0 <= value(runs[size], "unimoe_film", "videomme_perception_score") <= 100
        assert value(runs[size], "unimoe_caption", "flickr_CIDEr") >= 0


def test_likelihoods_choose_the_option_of_the_lowest_loss(
    quickstart: Path, tasks: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    results = run(quickstart, ["unimoe_choice"], tasks[0], tmp_path, 4)
    right = []
    for sample, row in zip(read_samples(tmp_path, "unimoe_choice"), tasks[1]["unimoe_choice"], strict=True):
        losses = [float(loss) for loss, _ in sample["filtered_resps"]]  # logged as text
        right.append("ABCD"[int(np.argmin(losses))] == row["answer"])
    assert value({"results": results}, "unimoe_choice", "acc") == pytest.approx(np.mean(right), abs=TOLERANCE)


def test_names_of_speech_tasks_are_those_of_lmms_eval(package: Path) -> None:
    """Each pattern fits a task that lmms-eval has; what its YAMLs call them is read without importing it."""
    names = {
        line.partition(":")[2].strip(" \"'\n")
        for path in (package / "tasks").rglob("*.yaml")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.replace(" ", "").startswith("task:")
    }
    for pattern in SPEECH_TASKS:
        assert any(fnmatch(name, pattern) for name in names), pattern
