"""The command line: what it prints, and how it refuses."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from tiny import tiny_model
from tiny_processor import FOLDER
from transformers import AutoModelForMultimodalLM
from typer.testing import CliRunner

from unimoe.analysis.describe import describe
from unimoe.cli import app
from unimoe.cli.commands import cache_of

runner = CliRunner()
IMAGE, SOUND = str(FOLDER / "image_kind/food_00.png"), str(FOLDER / "spoken_word/zero_flite-kal16.flac")


def test_env_names_every_package_with_its_version() -> None:
    output = runner.invoke(app, ["env"]).output
    assert f"torch {version('torch')}" in output and "deepspeed" in output and "devices:" in output


def test_info_describes_experts_media_and_parameters(model_folder: Path) -> None:
    result = runner.invoke(app, ["info", str(model_folder)])
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "4 of width 48, 1 null" in words and "top 2, modality mode bias" in words
    assert "16 x id" in words and "active for a token" in words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"router_type": "top_p", "router_top_p": 0.6}, ["top_p, top 2 until 0.6 of the probability"]),
        ({"combine_weights": "near_tie"}, ["top_k, top 2, weights by near ties, modality mode shared"]),
        ({"expert_type": "lora"}, ["4 of width 48, as changes of rank 8 to one feed-forward", "one image token"]),
        (
            {
                "modality_routing": "isolated",
                "expert_groups": {"text": [0, 1], "image": [2, 3]},
                "expert_group_intermediate_sizes": {"image": 16},
                "shared_expert_intermediate_size": 8,
            },
            ["4 of width 16 and 48, 1 shared of width 8 (weight: one)", "experts of video: 2, 3"],
        ),
        ({"n_group": 2, "topk_group": 1, "expert_type": "latent"}, ["best 1 of 2 groups", "latent of size 48"]),
        ({"router_type": "soft"}, ["soft, top 2", "active for a token"]),
    ],
)
def test_info_describes_every_kind_of_sparse_layer(text: dict, said: list[str]) -> None:
    rows = [f"{name}: {value}" for name, value in describe(tiny_model(num_experts=4, **text))]
    for phrase in said:
        assert any(phrase in row for row in rows), rows


@pytest.mark.parametrize("option", [["--image", IMAGE], ["--speech", SOUND], ["--audio", SOUND, "--image", IMAGE], []])
def test_chat_answers_about_real_media(model_folder: Path, option: list[str]) -> None:
    result = runner.invoke(app, ["chat", str(model_folder), *option, "--max-new-tokens", "3", "what is this?"])
    assert result.exit_code == 0, result.output


def test_chat_without_a_question_goes_on_for_several_turns(model_folder: Path) -> None:
    arguments = ["chat", str(model_folder), "--image", IMAGE, "--max-new-tokens", "2"]
    result = runner.invoke(app, arguments, input="what is this?\nand why?\n\n")
    assert result.exit_code == 0 and result.output.count("you:") == 3, result.output


def test_a_chat_goes_on_from_its_cache_only_where_the_conversation_does(model_folder: Path) -> None:
    model = AutoModelForMultimodalLM.from_pretrained(model_folder)
    output = model.generate(torch.tensor([[70, 71, 72]]), max_new_tokens=3, return_dict_in_generate=True)
    goes_on = torch.cat([output.sequences, torch.tensor([[73, 74]])], dim=1)
    assert cache_of(output, goes_on) is output.cache
    goes_on[0, 4] += 1  # the answer was written in other tokens than it was generated in
    assert cache_of(output, goes_on) is None and cache_of(None, goes_on) is None
    assert cache_of(output, output.sequences[:, :2]) is None


def test_a_missing_folder_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    result = runner.invoke(app, ["info", str(tmp_path / "nothing")])
    assert result.exit_code == 2 and "cannot be loaded" in result.output and "Traceback" not in result.output


def test_a_model_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    result = runner.invoke(app, ["chat", str(tmp_path), "hello"])
    assert result.exit_code == 2 and "holds a 'llama' model, not a unimoe model" in result.output


def refusal(arguments: list[str]) -> str:
    """Standard error of a command that must end with exit code 2 and one line."""
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize("path", ["/nowhere", "nowhere", "a/b/c", __file__])
def test_a_path_that_is_no_folder_is_named_as_such(path: str) -> None:
    assert f"{path} cannot be loaded: there is no such folder" in refusal(["info", path])


def test_a_medium_that_does_not_exist_is_refused(model_folder: Path) -> None:
    arguments = ["chat", str(model_folder), "--image", "nowhere.png", "what is this?"]
    assert "--image nowhere.png: there is no such file" in refusal(arguments)


@pytest.mark.parametrize("option", ["--image", "--speech", "--audio", "--video"])
def test_a_file_that_is_no_medium_is_refused(model_folder: Path, option: str) -> None:
    assert Path(__file__).name in refusal(["chat", str(model_folder), option, __file__, "what is this?"])


def test_an_invalid_configuration_is_refused_with_the_check_that_failed(model_folder: Path, tmp_path: Path) -> None:
    values = json.loads((model_folder / "config.json").read_text())
    values["text_config"]["num_experts_per_tok"] = 99
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert "num_experts_per_tok (99) must lie between" in refusal(["info", str(tmp_path)])


def test_a_damaged_weight_file_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"not weights")
    assert "cannot be loaded" in refusal(["info", str(folder)])
