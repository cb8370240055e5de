"""What operations cannot do is refused in one line, before work is done for it; what they print stays as it is."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from stock import make
from surgery.rows import write_rows
from surgery.test_prune import TEXT_AND_IMAGE
from surgery.test_stock_folders import rows_of, save
from tiny import TEXT
from tiny_model import save_tiny
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from unimoe import UniMoETextConfig
from unimoe.checkpoint.loading import load_model
from unimoe.cli import app
from unimoe.errors import UniMoEError
from unimoe.surgery.calibration import IGNORED, as_batch
from unimoe.surgery.choice import Wish, choose
from unimoe.surgery.extend import extend
from unimoe.surgery.folders import Rows
from unimoe.surgery.latent import LatentWish, to_latent
from unimoe.surgery.merge import MergeWish, merge, merge_folder
from unimoe.surgery.prune import prune
from unimoe.surgery.recalibrate import recalibrate_folder


def run(*command: str) -> Any:
    return CliRunner().invoke(app, command)


def test_experts_of_modalities_stay_theirs_in_every_layer() -> None:
    model = make("two widths")
    with pytest.raises(UniMoEError, match="experts of modalities in different places"):
        prune(model, {0: [0, 1, 2], 1: [0, 2, 3]})
    fields = {"modality_routing": "isolated", "expert_groups": {"text": [0, 1], "image": [2, 3]}}
    config = UniMoETextConfig(**TEXT, num_experts=4, moe_intermediate_size=24, num_experts_per_tok=1, **fields)
    isolated = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UniMoEError, match="experts of modalities in different places"):
        merge(isolated, {0: [0, 0, 1, 2], 1: [0, 1, 2, 2]}, rows="drop")


def test_experts_of_modalities_that_share_latent_spaces_are_refused() -> None:
    fields = {"expert_type": "latent", "expert_latent_groups": 2, "modality_routing": "semi_isolated"}
    config = UniMoETextConfig(
        **TEXT, num_experts=6, num_experts_per_tok=1, expert_groups={"image": [3, 4, 5]}, **fields
    )
    with pytest.raises(UniMoEError, match="Prune before experts become latent"):
        choose(TEXT_AND_IMAGE, config, Wish(keep=4))


def test_what_a_row_asks_for_does_not_depend_on_the_others() -> None:
    ids = torch.arange(12).view(2, 6)
    said = torch.tensor([[0, 0, 0, 0, 1, 1], [0] * 6])
    alone = [as_batch({"input_ids": ids[row : row + 1], "assistant_masks": said[row : row + 1]}) for row in (0, 1)]
    together = as_batch({"input_ids": ids, "assistant_masks": said}).labels
    assert torch.equal(together, torch.cat([batch.labels for batch in alone]))
    assert (together != IGNORED).sum(dim=-1).tolist() == [2, 6]


@pytest.mark.parametrize(
    ("wish", "problem"),
    [
        (LatentWish(ratio=math.nan), "ratio: it is nan"),
        (LatentWish(ratio=math.inf), "ratio: it is inf"),
        (LatentWish(max_error=math.nan), "max_error: it is nan"),
    ],
)
def test_numbers_that_are_none_are_refused(wish: LatentWish, problem: str) -> None:
    with pytest.raises(UniMoEError, match=problem):
        to_latent(make("mlp"), wish)


def test_a_number_and_a_ratio_are_not_both_taken() -> None:
    with pytest.raises(UniMoEError, match="both a ratio and a number to keep"):
        choose(TEXT_AND_IMAGE, UniMoETextConfig(**TEXT, num_experts=6), Wish(ratio=0.5, keep=3))


def test_a_class_with_another_name_for_its_experts_is_refused() -> None:
    fields = {"n_routed_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2, "first_k_dense_replace": 0}
    config = AutoConfig.for_model("glm4_moe", **TEXT, **fields, head_dim=8, n_shared_experts=1)
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UniMoEError, match="Glm4MoeConfig: its experts are counted under a name that is not known"):
        prune(model, {0: [0, 1], 1: [0, 1]})


def test_a_tied_head_that_stands_in_a_file_is_no_other_part(tmp_path: Path) -> None:
    folder, rows = save("mixtral", tmp_path / "model"), rows_of("mixtral", tmp_path / "data")
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    model.config.tie_word_embeddings = True
    model.config.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    _, certificate = merge_folder(folder, tmp_path / "out", rows=Rows(rows), wish=MergeWish(3))
    assert certificate is not None and set(certificate.details["touched"]) <= {"experts", "router"}


def test_models_of_other_vocabularies_are_no_model_before(tmp_path: Path) -> None:
    folder, rows = save("mixtral", tmp_path / "model"), rows_of("mixtral", tmp_path / "data")
    other = save("qwen2_moe", tmp_path / "other")
    config = AutoConfig.from_pretrained(other, vocab_size=300)
    AutoModelForCausalLM.from_config(config).save_pretrained(other)
    with pytest.raises(UniMoEError, match="its vocabulary has 300 tokens, and that of"):
        recalibrate_folder(folder, tmp_path / "out", like=other, rows=Rows(rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("a [name]") / "m[a]", num_experts=4, num_experts_per_tok=2)


def test_a_folder_that_is_there_is_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    rows = ["--data", str(tmp_path / "no rows")]  # nobody looks for them
    for command in (["prune", "--keep", "3", *rows], ["merge", "--keep", "3", *rows], ["extend", "--task", "x"]):
        result = run(command[0], str(folder), str(tmp_path), *command[1:])
        assert result.exit_code == 2 and "there is such a file or folder already" in result.output


def test_folders_that_cannot_be_written_are_named(folder: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "data")
    result = run("rank", str(folder), str(tmp_path), "--data", str(rows))
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.exception
    (tmp_path / "file").touch()
    result = run("extend", str(folder), str(tmp_path / "file/out"), "--task", "x")
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.exception


def test_names_and_lists_in_brackets_are_printed(folder: Path, tmp_path: Path) -> None:
    result = run("extend", str(folder), str(tmp_path / "out"), "--task", "ocr")
    assert result.exit_code == 0, result.output
    assert "train.parts: [reserved_experts.task_ocr, reserved_router.task_ocr]" in result.output
    rows = write_rows(tmp_path / "data")
    result = run("prune", str(folder), str(tmp_path / "pruned"), "--keep", "3", "--data", str(rows))
    assert "m[a]" in result.output


def test_noise_that_is_no_number_is_refused(folder: Path, tmp_path: Path) -> None:
    result = run("extend", str(folder), str(tmp_path / "out"), "--task", "ocr", "--noise", "nan")
    assert result.exit_code == 2 and "noise: it is nan" in result.output


def test_a_divergence_is_no_share(folder: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "data")
    words = ["--like", str(folder), "--data", str(rows), "--dry-run"]
    result = run("recalibrate", str(folder), str(tmp_path / "out"), *words)
    assert result.exit_code == 0 and "%" not in result.output, result.output


def test_rows_that_ask_for_nothing_compare_no_models(folder: Path) -> None:
    model = load_model(folder)
    batch = as_batch({"input_ids": torch.tensor([[5, 6]]), "labels": torch.full((1, 2), IGNORED)})
    with pytest.raises(UniMoEError, match="no row asks it for a token"):
        extend(model, task="ocr", batches=[batch])
