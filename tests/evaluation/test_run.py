"""From the command line to results.json and back, with tiny random models and with one that really sees."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from task_rows import colour_row, write_rows
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

from evaluation import run as run_module
from evaluation.__main__ import app
from evaluation.config import load_config
from evaluation.loading import LoadedModel
from evaluation.predictions import append_predictions
from evaluation.report.terminal import loading_lines, print_report
from evaluation.run import Run, evaluate
from unimoe import UniMoEConfig, UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.processing_unimoe import add_placeholder_tokens

VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VIT |= {"intermediate_size": 16, "image_size": 16, "patch_size": 8}
TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>")
    add_placeholder_tokens(tokenizer)
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


def save_model(folder: Path, **text: Any) -> Path:
    tokenizer = tiny_tokenizer()
    ids = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{kind}|>") for kind in ("image", "video")}
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = UniMoEConfig(
        text_config={**TEXT, **special, "vocab_size": len(tokenizer), **text},
        vision_config={"tower_config": VIT},
        **ids,
    )
    torch.manual_seed(0)
    UniMoEForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    UniMoEProcessor.from_config(config, tokenizer, images).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("sparse"), num_experts=4, num_experts_per_tok=2, num_null_experts=1)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("dense"))


@pytest.fixture
def config_file(colour_data: Path) -> Path:
    path = colour_data.parent / "eval.yaml"
    path.write_text(
        f"output: {colour_data.parent / 'out'}\ndata_root: {colour_data}\nbatch_size: 3\nmax_new_tokens: 4\n"
        "bootstrap: {samples: 100}\n"
        'tasks:\n  colour: {data: colour_test.jsonl, train: colour_train.jsonl, prompt: " One word."}\n'
    )
    return path


def test_a_task_that_is_on_is_measured_and_told(config_file: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", num_experts=4, reserved_experts={"task_ocr": [3]})
    asked = ("--model", model, "--baseline", model, "--config", config_file, "reserved_task=ocr")
    result = command(*asked, "--no-routing")
    assert result.exit_code == 0, result.output
    assert "task ocr on" in result.output and "set_task(model, 'ocr')" in result.output
    results = json.loads((config_file.parent / "out" / "results.json").read_text())
    assert [results[which]["reserved_task"] for which in ("model", "baseline")] == ["ocr", None]
    assert "different: model" in command(*asked[:-1]).output
    assert "no experts reserved for 'vqa'" in command(*asked[:-1], "reserved_task=vqa").output


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_measures_writes_and_reports(config_file: Path, sparse: Path, dense: Path) -> None:
    pytest.importorskip("matplotlib")
    asked = ("--model", sparse, "--baseline", dense, "--config", config_file, "--shuffled-media")
    result = command(*asked)
    assert result.exit_code == 0, result.output
    output = config_file.parent / "out"
    results = json.loads((output / "results.json").read_text())

    task = results["tasks"]["colour"]
    assert task["metric"] == "exact_match"
    assert task["floors"] == {"majority": 0.25, "question_only": 0.25}
    assert task["floor"] == 0.25
    assert 0 <= task["low"] <= task["value"] <= task["high"] <= 1
    assert task["n"] == task["clusters"] == 8
    assert {"unparsed_rate", "data_hash", "verdict"} <= task.keys()
    assert "<|image|>what colour is it? One word." in task["prompt"]
    assert {"value", "low", "high", "n"} <= task["shuffled"].keys()
    assert task["baseline"]["difference"]["value"] == pytest.approx(task["value"] - task["baseline"]["value"])

    assert task["decoding"] == {"do_sample": False, "max_new_tokens": 4}
    assert {"python", "unimoe", "torch", "transformers", "processor"} <= results["versions"].keys()
    assert results["baseline"]["active_parameters"] <= results["baseline"]["parameters"]
    assert results["model"]["active_parameters"] < results["model"]["parameters"]

    routing = results["routing"]
    assert routing["layers"] == [0, 1]
    assert set(routing["modalities"]) == {"text", "image"}
    per_layer = np.array(routing["modalities"]["image"]["counts"]).sum(axis=1)
    assert per_layer.tolist() == [8 * 4 * 2] * 2  # 8 pictures x 4 tokens x 2 experts
    assert routing["plots"] and all((output / name).is_file() for name in routing["plots"])
    assert 0 <= routing["modalities"]["image"]["specialisation"][0] <= 1
    page, markdown = (output / "report.html").read_text(), (output / "report.md").read_text()
    assert page.count("data:image/png") == len(routing["plots"]) and "data:image/jpeg" in page
    assert 'src="http' not in page and "| colour | exact_match |" in markdown
    for name in ("colour", "shuffled/colour", "baseline/colour"):
        assert (output / "predictions" / f"{name}.jsonl").is_file()

    for words in (
        "exact_match",
        "experts used: image",
        "dense baseline",
        "shuffled media",
        "active of",
        loading_lines(str(sparse)),
    ):
        assert words in result.output

    (output / "results.json").unlink()
    assert command(*asked).exit_code == 0  # from the predictions alone
    assert json.loads((output / "results.json").read_text()) == results


def test_the_reported_lines_of_python_load_the_model(sparse: Path) -> None:
    names: dict[str, Any] = {}
    exec(loading_lines(str(sparse)), names)
    assert isinstance(names["model"], UniMoEForConditionalGeneration)
    assert isinstance(names["processor"], UniMoEProcessor)


def test_a_dense_model_has_no_routing(config_file: Path, dense: Path) -> None:
    assert command("--model", dense, "--config", config_file).exit_code == 0
    results = json.loads((config_file.parent / "out" / "results.json").read_text())
    assert results["routing"] is None
    assert results["baseline"] is None
    assert "shuffled" not in results["tasks"]["colour"]


def test_batch_size_and_padding_do_not_change_answers(config_file: Path, colour_data: Path, tmp_path: Path) -> None:
    sparse = save_model(tmp_path, num_experts=4, num_experts_per_tok=2, initializer_range=0.3)  # answers differ
    rows = [colour_row(i, name, "why? " * i) for i, name in enumerate(("red", "green", "blue", "white"))]
    write_rows(colour_data / "colour_test.jsonl", rows)

    def predictions(batch_size: int) -> dict[str, str]:
        output = config_file.parent / f"out{batch_size}"
        result = command(
            "--model",
            sparse,
            "--config",
            config_file,
            "--output",
            output,
            f"batch_size={batch_size}",
            "routing_rows=0",
        )
        assert result.exit_code == 0, result.output
        lines = (output / "predictions" / "colour.jsonl").read_text().splitlines()[1:]
        return {row["id"]: row["prediction"] for row in map(json.loads, lines)}

    alone = predictions(1)
    assert alone == predictions(4) and len(set(alone.values())) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["batch_sise=3"], "Did you mean 'batch_size'?"),
        (["tasks.colour.data=none.jsonl"], "none.jsonl: cannot be read"),
        (["--model", "no/such/folder"], "no/such/folder: no such folder"),
        (["--model", "."], "no config.json"),
        (["device=cdua"], "no device 'cdua'"),
        (["device=cuda"], "device: cuda, but torch finds no GPU here"),
        (["generation.temprature=1"], "model.generate has no argument 'temprature'. Did you mean 'temperature'?"),
        (["generation.max_new_tokens=1"], "set 'max_new_tokens' beside 'generation', not in it"),
        (["--output", "pyproject.toml"], "pyproject.toml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    config_file: Path, sparse: Path, changes: list[str], message: str
) -> None:
    result = command("--model", sparse, "--config", config_file, *changes)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_stale_predictions_are_not_reused(config_file: Path, sparse: Path, dense: Path) -> None:
    arguments = ("--config", config_file, "routing_rows=0")
    asked = command("--model", sparse, *arguments)
    assert asked.exit_code == 0 and "routing is left out" not in asked.output, "it was not asked for"
    refused = command("--model", dense, *arguments)
    assert refused.exit_code == 2
    assert "different: model). Add --overwrite" in refused.stderr
    assert command("--model", dense, "--overwrite", *arguments).exit_code == 0


def test_answers_about_media_that_changed_are_not_reused(config_file: Path, colour_data: Path, sparse: Path) -> None:
    arguments = ("--model", sparse, "--config", config_file, "routing_rows=0")
    assert command(*arguments).exit_code == 0 == command(*arguments).exit_code
    Image.new("RGB", (24, 24), "black").save(colour_data / "media" / "red_0.png")
    refused = command(*arguments)
    assert refused.exit_code == 2 and "different: questions and media). Add --overwrite" in refused.stderr


class KilledError(BaseException):
    """What nothing catches."""


def test_a_run_that_broke_off_goes_on_to_the_same_results(
    config_file: Path, sparse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a real signal: test_benchmarks_run.py, in the slow tier."""
    output = config_file.parent / "out"
    written, asked = output / "predictions" / "colour.jsonl", ("--model", sparse, "--config", config_file)
    assert command(*asked).exit_code == 0
    unbroken = (output / "results.json").read_bytes(), written.read_bytes()
    shutil.rmtree(output)

    def append_once(path: Path, rows: Any) -> None:
        if path.read_bytes().count(b"\n") > 1:
            raise KilledError
        append_predictions(path, rows)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr("evaluation.generate.append_predictions", append_once)
        command(*asked)
    kept = written.read_text()
    assert len(kept.splitlines()) == 4 and not (output / "results.json").exists()
    written.write_text(kept + '{"id": "row7", "predic')
    assert command(*asked).exit_code == 0
    assert ((output / "results.json").read_bytes(), written.read_bytes()) == unbroken
    header, first, *further = kept.splitlines()
    answer = {**json.loads(first), "prediction": "an answer of the first run"}
    written.write_text("\n".join([header, json.dumps(answer), *further, ""]))
    assert command(*asked).exit_code == 0
    assert answer in map(json.loads, written.read_text().splitlines())


def test_given_predictions_are_scored_without_thoughts_and_name_no_decoding(config_file: Path, tmp_path: Path) -> None:
    lines = [{"id": str(number), "prediction": "<think>blue?</think> red"} for number in range(8)]
    rows = [json.loads(line)["id"] for line in (config_file.parent / "data/colour_test.jsonl").open()]
    given = write_rows(tmp_path / "r.jsonl", [{**line, "id": row} for line, row in zip(lines, rows, strict=True)])
    output = tmp_path / "o[/x]"  # no markup of the console
    done = command("--predictions", given, "--config", config_file, "--output", output)
    assert done.exit_code == 0 and str(output) in done.output
    task = json.loads((output / "results.json").read_text())["tasks"]["colour"]
    assert task["value"] == 0.25 and task["decoding"] is None
    assert "Decoding: unknown." in (output / "report.md").read_text()
    refused = command("--predictions", given, "--config", config_file, "--shuffled-media")
    assert refused.exit_code == 2 and "--shuffled-media asks a model again" in refused.stderr


class SeeingProcessor:
    """Hands the picture's mean colour to the model as a token."""

    def apply_chat_template(self, conversations: Any, tokenize: bool = True, **options: Any) -> Any:
        if not tokenize:
            return "what colour is it?"
        colours = [np.asarray(Image.open(row[0]["content"][0]["path"]))[0, 0] for row in conversations]
        names = ["red", "green", "blue"]
        ids = [[3 if min(colour) > 200 else names.index(names[int(np.argmax(colour))])] for colour in colours]
        return {"input_ids": torch.tensor(ids)}

    def batch_decode(self, sequences: torch.Tensor, **options: Any) -> list[str]:
        return [("Red.", "green", "a blue", "white")[int(row[0])] for row in sequences]


class SeeingModel(torch.nn.Module):
    """Answers with the colour that it was handed."""

    device = torch.device("cpu")
    dtype = torch.float32
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_experts=0))

    def generate(self, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        return input_ids.repeat(1, 2)


def test_a_model_that_sees_is_above_the_floor_and_falls_with_shuffled_media(
    config_file: Path, colour_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["red", "green", "blue", "white"]
    write_rows(
        colour_data / "colour_test.jsonl", [colour_row(i * 4 + j, n) for j, n in enumerate(names) for i in (0, 1)]
    )
    seeing = LoadedModel("seeing", SeeingModel(), SeeingProcessor(), "0")
    monkeypatch.setattr(run_module, "load_model", lambda name, **options: seeing)
    console = Console(file=io.StringIO(), width=140)
    run = Run(config=load_config(config_file), output=config_file.parent / "out", overwrite=False, console=console)
    results = evaluate(run, model="seeing", shuffled_media=True)
    task = results["tasks"]["colour"]
    assert task["value"] == 1.0
    assert task["verdict"] == "above floor"
    assert task["shuffled"]["value"] == 0.0
    print_report(results, console=console)
    assert "above floor" in console.file.getvalue()  # type: ignore[attr-defined]
