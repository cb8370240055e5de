"""Quantising: rounding as written apart, nothing but experts touched, and folders that load as what was saved."""

import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from documents import ROOT, blocks
from stock import KINDS, make
from surgery.rows import measure_again, token_batches, write_rows
from surgery.test_prune import TEXT_AND_IMAGE, lone
from tiny import TEXT
from tiny_model import save_tiny
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText
from typer.testing import CliRunner

from unimoe import experts_as_linears
from unimoe.checkpoint.loading import load_mixture
from unimoe.cli import app
from unimoe.configuration.base import QUANTISED
from unimoe.configuration.checks import InvalidConfig
from unimoe.errors import UniMoEError
from unimoe.surgery import Certificate, audit_change
from unimoe.surgery.audit import as_float
from unimoe.surgery.bits import mean_bits, plan_bits
from unimoe.surgery.folders import Rows
from unimoe.surgery.quantize import quantize, quantize_folder
from unimoe.surgery.saliency import Saliency, saliency
from unimoe.surgery.statistics import losses_by_use

torchao = pytest.importorskip("torchao.quantization", reason="make test-quantize installs torchao")
IDS = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(0))
REACHED = [kind for kind in KINDS if kind != "latent"]


def weights(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def logits(model: Any, **inputs: Any) -> Tensor:
    with torch.no_grad():
        return cast("Tensor", model(**{"input_ids": IDS, **inputs}).logits)


def test_each_weight_becomes_the_nearest_of_256_steps_of_its_row() -> None:
    view, model = make("mlp"), make("mlp")
    names = experts_as_linears(view, split_gate_up=False)
    quantize(model)
    for name in names:
        before, after = view.get_submodule(name).weight, as_float(model.get_submodule(name).weight)
        step = before.abs().amax(dim=1, keepdim=True) / 127.5
        steps = after / step
        assert ((steps - steps.round()).abs() < 1e-4).all() and steps.min() > -128.1 and steps.max() < 127.1
        assert ((after - before).abs() <= step / 2 * (1 + 1e-4)).all()


@pytest.mark.parametrize("kind", REACHED)
def test_experts_alone_change_and_logits_stay_near(kind: str) -> None:
    model = make(kind)
    before, expected = weights(model), logits(model)
    made = quantize(model)
    assert (logits(model) - expected).abs().max() < 0.03 * expected.abs().max()
    assert made.shares["experts"] == 1 and not any(own for part, own in made.shares.items() if part != "experts")
    assert all(0 < float(error) < 0.01 for errors in made.errors.values() for error in errors)
    untouched = audit_change(before, model)
    assert untouched.share() == 0 and {"router", "norms", "embeddings", "attention"} <= untouched.by_part().keys()
    assert all(".experts." in name for name in (*untouched.gone, *untouched.new))


@pytest.mark.parametrize("kind", REACHED)
def test_a_saved_folder_loads_below_the_auto_classes_as_what_was_saved(kind: str, tmp_path: Path) -> None:
    make(kind).save_pretrained(tmp_path / "floats")
    auto_class: Any = AutoModelForImageTextToText if kind == "qwen3_vl_moe" else AutoModelForCausalLM
    model = auto_class.from_pretrained(tmp_path / "floats")
    quantize(model)
    model.save_pretrained(tmp_path / "out", max_shard_size="40KB")
    again, found = auto_class.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(found.values()), found
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0
    for inputs in ({}, {"attention_mask": mask}):
        assert torch.equal(logits(again, **inputs), logits(model, **inputs))
    told = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(again.generate(IDS, **told), model.generate(IDS, **told))
    again.save_pretrained(tmp_path / "twice")
    assert torch.equal(logits(auto_class.from_pretrained(tmp_path / "twice")), logits(model))


def test_the_base_of_a_saved_model_loads_alone(tmp_path: Path) -> None:
    model: Any = make("mixtral")
    quantize(model)
    model.save_pretrained(tmp_path)
    base: Any = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(base(IDS).last_hidden_state, model.model(IDS).last_hidden_state)


def test_files_of_experts_are_a_quarter_of_float32_and_half_of_bfloat16(tmp_path: Path) -> None:
    for dtype, share in ((torch.float32, 0.25), (torch.bfloat16, 0.5)):
        wide = {**TEXT, "hidden_size": 128, "vocab_size": 8, "num_experts": 16, "moe_intermediate_size": 256}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **wide), dtype=dtype)
        experts = sum(p.nbytes for name, p in model.named_parameters() if ".experts." in name)
        model.save_pretrained(tmp_path / "floats")
        quantize(model)
        model.save_pretrained(tmp_path / "out")
        before, after = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("floats", "out"))
        assert share < 1 - (before - after) / experts < share + 0.03


def test_other_linear_maps_are_quantised_when_asked_for(tmp_path: Path) -> None:
    model = make("qwen2_moe")
    before = weights(model)
    made = quantize(model, parts=("attention", "shared_experts"))
    assert made.shares["attention"] > 0.9 and made.shares["shared_experts"] == 1 and made.shares["router"] == 0
    touched = {part for part, (_, own, _) in audit_change(before, model).by_part().items() if own}
    assert touched == {"attention", "shared_experts"}
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))


def test_the_same_quantiser_passes_stacked_experts_by_and_the_audit_says_so() -> None:
    model = make("qwen3_moe")
    before = weights(model)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig(set_inductor_config=False))
    found = audit_change(before, model)
    assert found.share("experts") == 0 and found.share("attention") > 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plan_leaves_experts_in_floats_and_loads(dtype: torch.dtype, tmp_path: Path) -> None:
    make("mixtral").save_pretrained(tmp_path / "floats")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "floats", dtype=dtype)
    most = 8 * dtype.itemsize
    before = weights(model)["model.layers.1.mlp.experts.down_proj"]
    made = quantize(model, {0: [8, 8, most, 8], 1: [most, 8, 8, 8]})
    assert (made.errors[0] > 0).tolist() == [True, True, False, True] and made.shares["experts"] == 0.75
    model.save_pretrained(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(again), logits(model))
    assert torch.equal(again.model.layers[1].mlp.experts.down_proj[0].weight, before[0])


@pytest.mark.parametrize(("kind", "dtype"), [("mlp", torch.bfloat16), ("two widths", torch.float32)])
def test_a_budget_is_kept_to_one_expert_and_experts_that_matter_more_have_more_bits(
    kind: str, dtype: torch.dtype
) -> None:
    model = make(kind).to(dtype)
    found = saliency(model, token_batches(modalities=kind == "two widths"))
    shares = {layer: own / own.sum() for layer, own in found.scores("reap").items()}
    for budget in (4.0, 5.5, 6.0, 8.0, 11.0):
        plan = plan_bits(model, found, budget)
        mean = mean_bits(model, plan)
        step = max(8 * dtype.itemsize - 8, 4) / 6  # of the largest of 8 experts, two thirds of which are small
        assert budget - step < mean <= budget
        ranked = sorted((-float(shares[layer][e]), own) for layer, bits in plan.items() for e, own in enumerate(bits))
        assert [own for _, own in ranked] == sorted((own for _, own in ranked), reverse=True)
        assert plan == plan_bits(model, found, budget)


def test_equal_experts_get_bits_in_their_order() -> None:
    equal = Saliency(dict.fromkeys((0, 1), lone([[1, 1, 1, 1]])))
    assert plan_bits(make("mlp"), equal, 6) == {0: [8, 8, 8, 8], 1: [4, 4, 4, 4]}
    assert plan_bits(make("mlp"), equal, 4.4) == {0: [4, 4, 4, 4], 1: [4, 4, 4, 4]}


def test_what_is_lost_is_the_error_of_the_experts_that_a_modality_uses() -> None:
    losses = losses_by_use(TEXT_AND_IMAGE, {0: torch.tensor([0.1, 0, 0, 0, 0, 0.2])}, "weight error")
    assert losses[0]["text"] == {"weight error": pytest.approx(0.1 * 9 / 31)}
    assert losses[0]["image"] == {"weight error": pytest.approx(0.1 / 6 + 0.2 / 2)}


@pytest.mark.parametrize(
    ("bits", "parts", "problem"),
    [
        (3, (), "bits: 3 bits are not on offer. Choose 8, 4, or 32"),
        (32, (), "bits: floats of this model have 32"),
        (
            4,
            (),
            "bits: torchao has no kernel of 4 bits for 48 x 32 float32 on cpu (it quantises groups of 128 columns)",
        ),
        ({0: [8] * 4}, (), "bits: the plan does not name each expert once. The sparse layers are 0 (4 experts), 1"),
        (8, ("router",), "parts: 'router' is none that can be. Choose from shared_experts"),
        (8, ("mlp",), "parts: the model has no linear maps of mlp"),
    ],
)
def test_what_cannot_be_is_refused_and_the_model_is_as_it_was(bits: Any, parts: tuple[str, ...], problem: str) -> None:
    model = make("mlp")
    before, expected = list(model.state_dict()), logits(model)
    with pytest.raises(UniMoEError) as caught:
        quantize(model, bits, parts=parts)
    assert str(caught.value).startswith(problem)
    assert list(model.state_dict()) == before and torch.equal(logits(model), expected)


def test_kernels_of_4_bits_that_the_device_lacks_are_refused_with_the_reason() -> None:
    wide = {**TEXT, "hidden_size": 128, "num_experts": 2, "moe_intermediate_size": 128}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **wide), dtype=torch.bfloat16)
    with pytest.raises(UniMoEError, match=r"no kernel of 4 bits for 256 x 128 bfloat16 on cpu \(.+\)\. Choose 8 bits"):
        quantize(model, 4)


def test_latent_experts_and_quantised_models_are_refused_by_name() -> None:
    with pytest.raises(UniMoEError, match=r"40% of the parameters of its experts are shared .* latent ones are not"):
        quantize(make("latent"))
    model = make("mixtral")
    quantize(model)
    with pytest.raises(
        UniMoEError, match="MixtralForCausalLM: it is quantised, and its experts are in no stacks any more"
    ):
        quantize(model)
    with pytest.raises(UniMoEError, match="a budget of 32 bits is not on offer"):
        plan_bits(make("mlp"), TEXT_AND_IMAGE, 32)


def test_without_torchao_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("mlp")
    quantize(model)
    model.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "torchao", None)
    for call in (lambda: quantize(make("mlp")), lambda: AutoModelForCausalLM.from_pretrained(tmp_path)):
        with pytest.raises(UniMoEError, match=r"torchao: it is not installed\. .*pip install 'unimoe\[quantize\]'"):
            call()


def test_a_configuration_names_no_other_quantiser() -> None:
    config = make("mlp").config.to_dict()
    assert AutoConfig.for_model(**config, quantization_config=QUANTISED).quantization_config == QUANTISED
    with pytest.raises(InvalidConfig, match=r"quantization_config is .*fp8"):
        AutoConfig.for_model(**config, quantization_config={"quant_method": "fp8"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("mixture") / "model", num_experts=4, num_experts_per_tok=2)


def test_the_command_quantises_a_folder_and_its_certificate_can_be_measured_again(
    folder: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "data")
    command = ["quantize", str(folder), str(tmp_path / "out"), "--data", str(rows), "--parts", "attention"]
    result = CliRunner().invoke(app, [*command, "--dry-run"])
    assert result.exit_code == 0 and "weight error" in result.output, result.output
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    certificate = Certificate.load(tmp_path / "out")
    found = measure_again(folder, tmp_path / "out", rows)
    assert 0 < found.largest < 0.05
    assert certificate.details["quantised"]["experts"] == 1 and certificate.details["mean_bits"] == 8
    touched = audit_change(folder, tmp_path / "out").by_part()
    assert touched["router"][1] == touched["norms"][1] == 0


def test_a_folder_is_quantised_by_a_budget_and_4_bits_are_refused_on_a_cpu(folder: Path, tmp_path: Path) -> None:
    rows = Rows(write_rows(tmp_path / "data"))
    draft, _ = quantize_folder(folder, tmp_path / "out", rows=rows, budget=20, dry_run=True)
    assert draft.details["mean_bits"] == 20 and {8, 32} == {
        own for layer in draft.details["bits"].values() for own in layer
    }
    with pytest.raises(UniMoEError, match="no kernel of 4 bits"):
        quantize_folder(folder, tmp_path / "out", rows=rows, bits=4)
    assert not (tmp_path / "out").exists()


def test_commands_that_need_stacked_experts_say_that_a_folder_is_quantised(tmp_path: Path, folder: Path) -> None:
    model, processor = load_mixture(folder)
    quantize(model)
    model.save_pretrained(tmp_path / "out")
    processor.save_pretrained(tmp_path / "out")
    told = CliRunner().invoke(app, ["info", str(tmp_path / "out")])
    assert told.exit_code == 0 and "bytes are given as if all were floats" in told.output
    for command in (["prune", "--keep", "3", "--data", str(write_rows(tmp_path / "data"))], ["verify"]):
        places = [str(tmp_path / "out"), str(tmp_path / "new")][: 1 + (command[0] == "prune")]
        refused = CliRunner().invoke(app, [command[0], *places, *command[1:]])
        assert refused.exit_code == 2 and "it is quantised, and its experts" in refused.output


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [4, 8])
def test_a_model_on_a_gpu_loads_as_it_was_saved(bits: int, tmp_path: Path) -> None:
    wide = {**TEXT, "hidden_size": 128, "num_experts": 4, "moe_intermediate_size": 128}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **wide), dtype=torch.bfloat16)
    model.to("cuda")
    quantize(model, bits)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="cuda")
    assert torch.equal(logits(again, input_ids=IDS.cuda()), logits(model, input_ids=IDS.cuda()))


def test_the_example_of_the_docs_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in blocks(ROOT / "docs/surgery.md") if block.needs == "torchao"]
    exec(compile(block.text, block.document, "exec"), {})
    assert capsys.readouterr().out.splitlines()[0] == "1.0 0.0"
