"""`training plan`: counts are exact, a step on nothing takes what a real one takes, and nothing is allocated."""

import json
import math
import resource
from pathlib import Path

import pytest
import torch
import yaml
from launch import ROOT
from test_real_parts import MODELS
from tiny_parts import save_parts
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoProcessor
from typer.testing import CliRunner

from benchmarks.plan_memory import compare, write_recipe
from training.__main__ import app
from training.config.recipe import load_recipe
from training.config.training_arguments import arguments_for_estimate, training_arguments
from training.data import MixtureBatches
from training.planning.batches import estimate_batches
from training.planning.memory import (
    GRADIENTS,
    OPTIMIZER,
    WEIGHTS,
    Step,
    StepMemory,
    estimate,
    tensors_of,
)
from training.planning.memory_parallel import BUCKET, BUFFERS, across_processes, trained_bytes
from training.planning.memory_tracker import ACTIVATIONS, MemoryTracker, grouped_product
from training.planning.models import DescribedRecipe
from training.planning.plan import estimate_recipe, estimate_stage
from training.stage.run import run_stage
from training.trainable.parts import choose_trainable, keep_frozen_steady
from training.trainer.data import read_data, schedule_data
from training.trainer.start import load_start
from training.trainer.trainer import StageTrainer
from unimoe import UniMoEConfig, UniMoEForConditionalGeneration
from unimoe.build import build_model, describe_model
from unimoe.moe.counting import count_parameters
from unimoe.surgery.assemble import assemble, assembled_config

EVERYTHING = {"parts": ["connectors", "mlp", "attention", "norms", "embeddings"]}


def plan(config, **options):
    return estimate_stage("stage", config, DescribedRecipe().begin(config), **options)


def one_batch(config) -> dict[str, Tensor]:
    processor = AutoProcessor.from_pretrained(config.start.path)
    return estimate_batches(config, arguments_for_estimate(config), processor, processes=1).largest[0]


STARTS = {
    "a dense model": ("start", {"parts": ["connectors", "mlp"]}),
    "a mixture of experts": ("mixture", {"parts": ["router", "experts"]}),
    "deltas on experts and attention": ("mixture", {"parts": ["router"], "lora": {"parts": ["experts", "attention"]}}),
}


@pytest.mark.parametrize("name", STARTS)
def test_parameters_are_counted_as_those_of_the_loaded_model(name, make_stage, workspace, mixture_start) -> None:
    start, train = STARTS[name]
    config = make_stage(start=mixture_start if start == "mixture" else str(workspace / "start"), train=train)
    planned = plan(config).parameters
    model, _, _ = load_start(config)
    counts = count_parameters(model)
    choose_trainable(model, config.train)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert planned == {**counts, "trainable": trained}


def test_an_assembled_model_is_described_as_it_would_be_assembled(workspace) -> None:
    dense = UniMoEConfig.from_pretrained(workspace / "start")
    options = {"base_experts": 2, "copies": 2, "pieces": 2, "moe": {"num_null_experts": 1}}
    model, _ = assemble(
        workspace / "start", {"image": workspace / "start"}, num_experts_per_tok=3, exact=False, **options
    )
    config = assembled_config(dense, {"image": 1}, num_experts_per_tok=3, exact=False, **options)
    assert config.text_config.to_dict() == {**model.config.text_config.to_dict(), "dtype": config.text_config.dtype}


@pytest.mark.parametrize(
    "connector", [{}, {"type": "query_decoder", "num_queries": 3}, {"type": "blip2_qformer", "num_queries": 3}]
)
def test_a_composed_model_is_described_as_it_would_be_composed(connector, tmp_path) -> None:
    save_parts(tmp_path)
    parts = {name: tmp_path / name for name in ("language", "vision", "speech", "audio")}
    options = {"connectors": {"speech": connector} if connector else {}}
    model, processor = build_model(**parts, **options, dtype="float32")
    config, described = describe_model(**parts, **options)
    assert shapes(config) == {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert described.media_layout == processor.media_layout
    assert len(described.tokenizer) == len(processor.tokenizer)


def shapes(config: UniMoEConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = UniMoEForConditionalGeneration._from_config(config)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


RECIPE = {
    "output": "none",
    "stages": {
        "experts": {"start": {"specialists": {"base": "START", "modalities": ["image", "text"]}}, "train": EVERYTHING},
        "mixed": {
            "start": {"assemble": {"base": "START", "experts": {"image": "${output}/experts/image"}}},
            "train": {"parts": ["router"]},
        },
        "last": {"start": "${output}/mixed", "train": {"parts": ["experts"]}},
    },
}


@pytest.fixture
def recipe(workspace, tmp_path) -> Path:
    """A recipe of three stages whose outputs are not there, on data that are not there either."""
    text = json.dumps(RECIPE).replace("START", str(workspace / "start")).replace("none", str(tmp_path / "none"))
    values = json.loads(text)
    values["stages"]["experts"]["train"] = {"parts": ["mlp", "connectors"]}
    trainer = {"max_steps": 4, "per_device_train_batch_size": 2, "use_cpu": True}
    values["defaults"] = {"data": {"mixture": ["not/here.jsonl"], "max_length": 64}, "trainer": trainer}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_stages_are_planned_from_what_earlier_ones_will_write(recipe) -> None:
    planned = {result.name: result for result in estimate_recipe(recipe, [], only=[], processes=1, limit=None)}
    assert list(planned) == ["experts", "mixed", "last"]
    mixed, last = planned["mixed"].parameters, planned["last"].parameters
    assert mixed["total"] == last["total"] > mixed["trainable"]
    assert last["trainable"] > mixed["trainable"]
    assert all("assumed: rows of 64 tokens" in result.batches.basis for result in planned.values())
    (alone,) = estimate_recipe(recipe, [], only=["last"], processes=1, limit=None)
    assert alone.as_json() == planned["last"].as_json()


def test_specialists_count_one_feed_forward_for_each(recipe, workspace) -> None:
    (result,) = estimate_recipe(recipe, [], only=["experts"], processes=1, limit=None)
    base = UniMoEConfig.from_pretrained(workspace / "start").text_config
    feed_forward = 3 * base.hidden_size * base.intermediate_size * base.num_hidden_layers
    model, _, _ = load_start(load_recipe(recipe).stages["experts"])
    assert result.parameters["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert result.parameters["total"] - result.parameters["active"] == feed_forward


def test_a_start_that_no_stage_makes_is_refused_by_name(recipe) -> None:
    result = CliRunner().invoke(app, ["plan", str(recipe), "stages.last.start=runs/nowhere"])
    assert result.exit_code == 2
    assert "runs/nowhere" in result.output and "no such folder" in result.output


@pytest.mark.parametrize("kind", ["dense", "mixture", "lora", "accumulation", "bf16", "checkpointing"])
def test_a_step_on_nothing_takes_what_it_takes_on_real_tensors(kind, make_stage, workspace, mixture_start) -> None:
    train = {"lora": STARTS["deltas on experts and attention"][1], "mixture": {"parts": ["router", "experts"]}}
    config = make_stage(
        start=mixture_start if kind in train else str(workspace / "start"),
        train=train.get(kind, {"parts": ["connectors", "mlp"]}),
        trainer={
            "gradient_accumulation_steps": 3 if kind == "accumulation" else 1,
            "bf16": kind == "bf16",
            "activation_checkpointing": kind == "checkpointing",
        },
    )
    batch = one_batch(config)
    model, _, _ = load_start(config)
    choose_trainable(model, config.train)
    if kind == "checkpointing":
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    keep_frozen_steady(model)
    with MemoryTracker() as tracker:
        real = Step(config, arguments_for_estimate(config), model, tracker, tensors_of(batch)).run()
    made_up = estimate(config, model.config, batch)
    assert made_up.flops == real.flops > 0
    for kind_of_memory in (WEIGHTS, GRADIENTS, OPTIMIZER):
        assert made_up.update.get(kind_of_memory) == real.update.get(kind_of_memory)
    assert sum(made_up.backward.values()) == pytest.approx(sum(real.backward.values()), rel=0.02)


def test_a_step_of_seven_billion_parameters_is_planned_in_little_memory(make_stage, workspace) -> None:
    values = UniMoEConfig.from_pretrained(workspace / "start").to_dict()
    large = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 8, "num_attention_heads": 64}
    values["text_config"] |= {**large, "num_key_value_heads": 64, "head_dim": 128}
    config, before = make_stage(train=EVERYTHING), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    planned = estimate(config, UniMoEConfig.from_dict(values), one_batch(config))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert planned.parts[WEIGHTS] > 25e9 and planned.total > 4 * 25e9
    assert grown < 0.01 * planned.total


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing(make_stage) -> None:
    def activations(**trainer) -> int:
        config = make_stage(train=EVERYTHING, trainer=trainer)
        return estimate(config, DescribedRecipe().begin(config).config, batch).backward[ACTIVATIONS]

    batch = {key: value[:2] for key, value in text_batch(length=256).items()}
    one = activations()
    assert activations(activation_checkpointing=True) < 0.8 * one
    batch = text_batch(length=256)
    assert activations() == pytest.approx(2 * one, rel=0.1)


def test_large_batches_of_validation_rows_are_counted(make_stage, workspace, write_jsonl) -> None:
    rows = (workspace / "data" / "text_train.jsonl").read_text().splitlines()
    validation = {"validation": [str(write_jsonl(*rows * 20))]}
    trainer = {"per_device_train_batch_size": 1}
    without, few, many = (
        plan(make_stage(data=data, trainer=trainer | size)).memory
        for data, size in (
            ({}, {}),
            (validation, {"per_device_eval_batch_size": 1}),
            (validation, {"per_device_eval_batch_size": 40}),
        )
    )
    assert without.validation == {} and 0 < sum(few.validation.values()) < sum(many.validation.values())
    assert without.total == few.total < many.total == sum(many.validation.values())


def test_encoders_whose_tokens_are_kept_take_no_part_in_a_step(make_stage) -> None:
    """What is planned for a batch with media is what is planned for the batch with their tokens."""
    config = make_stage(data={"cache_encoders": True})
    planned, plain = plan(config), plan(make_stage())
    processor = AutoProcessor.from_pretrained(config.start.path)
    model = UniMoEForConditionalGeneration.from_pretrained(config.start.path)
    encoders = sum(tensor.nbytes for tensor in model.model.encoders.state_dict().values())
    assert planned.memory.parts[WEIGHTS] == plain.memory.parts[WEIGHTS] - encoders
    assert planned.memory.total < plain.memory.total - encoders and planned.memory.flops < plain.memory.flops
    assert planned.host.step > planned.memory.total
    batch = estimate_batches(config, arguments_for_estimate(config), processor, processes=1).largest[0]
    states = {
        modality.key: model.model.run_encoder(modality, batch.pop(modality.feature_name)).last_hidden_state.detach()
        for modality in processor.modalities
        if modality.feature_name in batch
    }
    encoded = {**batch, "encoder_states": states}
    assert states and estimate(config, model.config, encoded).total == planned.memory.total


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GROUPS = {
    "modality_routing": "semi_isolated",
    "router_aux_loss_scope": "modality",
    "expert_groups": {"text": [0, 1], "image": [2]},
}
FAMILIES = {
    "top-p with nulls": {"router_type": "top_p", "num_null_experts": 1},
    "weights by near ties": {"router_type": "top_p", "num_null_experts": 1, "combine_weights": "near_tie"},
    "noise": {"router_type": "noisy_top_k"},
    "expert choice": {"router_type": "expert_choice"},
    "soft": {"router_type": "soft"},
    "hierarchical": {"router_type": "hierarchical", "n_group": 2},
    "hash": {"router_type": "hash", "num_experts_per_tok": 1},
    "sparsemixer": {"router_gradient": "sparsemixer"},
    "dense gradient": {"router_gradient": "dense"},
    "capacity": {"capacity_factor": 1.0, "capacity_priority": "probability"},
    "two widths": {
        "expert_groups": {"text": [0, 1], "image": [2]},
        "expert_group_intermediate_sizes": {"image": 8},
        **GROUPS,
    },
    "lora": {"expert_type": "lora", "expert_rank": 4},
    "latent": {"expert_type": "latent", "expert_latent_size": 4},
    "overlap": {"router_losses": {"expert_overlap": 0.1}},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_any_routers_and_experts_is_planned(family, make_stage, workspace) -> None:
    text = UniMoEConfig.from_pretrained(workspace / "start").text_config.to_dict()
    config = make_stage(train={"parts": ["experts"]})
    model_config = UniMoEConfig(text_config=text | EXPERTS | FAMILIES[family])
    assert estimate(config, model_config, text_batch(length=32)).flops > 0


def text_batch(*, length: int) -> dict[str, Tensor]:
    ids = torch.ones(4, length, dtype=torch.long)
    return {"input_ids": ids, "labels": ids, "mm_token_type_ids": torch.zeros_like(ids)}


def test_zero_leaves_each_process_its_share_of_the_optimizer(make_stage) -> None:
    config = make_stage(train={"parts": ["mlp"]}, parallel={"zero": 2})
    model, _, _ = load_start(config)
    choose_trainable(model, config.train)
    trained = trained_bytes(model)
    alone = StepMemory({WEIGHTS: 100, OPTIMIZER: 2 * trained}, {WEIGHTS: 100, OPTIMIZER: 2 * trained}, 5)
    of = {n: across_processes(alone, config, model, processes=n, on_cpu=True) for n in (1, 2, 4)}
    assert [of[n].backward[OPTIMIZER] for n in (1, 2, 4)] == [3 * trained // n for n in (1, 2, 4)]
    assert of[4].update[BUFFERS] < of[2].update[BUFFERS] <= 2 * trained
    on_gpu = across_processes(alone, config, model, processes=2, on_cpu=False)
    assert on_gpu.backward[BUFFERS] == 4 * BUCKET


def test_arguments_of_the_trainer_that_hang_together_are_planned_as_they_train(make_stage) -> None:
    config = make_stage(data={"num_workers": 1}, trainer={"dataloader_prefetch_factor": 2})
    assert plan(config).batches.steps == training_arguments(config).max_steps == 1


def test_plain_data_parallelism_keeps_gradients_twice(make_stage) -> None:
    config = make_stage(train={"parts": ["mlp"]})
    model, _, _ = load_start(config)
    choose_trainable(model, config.train)
    alone = StepMemory({WEIGHTS: 1}, {WEIGHTS: 1}, 5)
    assert across_processes(alone, config, model, processes=1, on_cpu=True) == alone
    assert across_processes(alone, config, model, processes=2, on_cpu=True).backward[BUFFERS] == trained_bytes(model)


@pytest.mark.parametrize("packing", [False, True])
def test_steps_are_those_of_the_training(make_stage, workspace, monkeypatch, packing) -> None:
    """Of its trainer, which is stopped before the first one."""
    config = make_stage(
        data={"max_length": 256, "packing": packing},
        trainer={"max_steps": -1, "num_train_epochs": 0.6, "gradient_accumulation_steps": 2},
    )
    args, trained = arguments_for_estimate(config), []

    def count(self, **kwargs):
        trained.append(self.set_initial_training_values(self.args, self.get_train_dataloader())[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(StageTrainer, "train", count)
    with pytest.raises(KeyboardInterrupt):
        run_stage(config)
    processor = AutoProcessor.from_pretrained(workspace / "start")
    assert trained == [estimate_batches(config, args, processor, processes=1).steps]


def test_the_largest_batch_of_the_data_is_the_one_that_is_looked_at(make_stage, workspace) -> None:
    config = make_stage(trainer={"max_steps": -1, "num_train_epochs": 1})
    processor = AutoProcessor.from_pretrained(workspace / "start")
    batches = estimate_batches(config, arguments_for_estimate(config), processor, processes=1)
    dataset, _ = read_data(config)
    batch_plan, collator = schedule_data(config.data, dataset, processor, arguments_for_estimate(config))
    sizes = [
        collator([dataset[place] for place in places])["input_ids"].numel()
        for places in MixtureBatches(dataset, batch_plan, batch_size=4)
    ]
    assert max(batch["input_ids"].numel() for batch in batches.largest) == max(sizes)


def test_of_a_stream_the_first_batches_are_looked_at(make_stage, workspace) -> None:
    path = str(workspace / "data" / "image_kind_train.jsonl")
    batches = plan(make_stage(data={"mixture": [{"path": path, "stream": True}]})).batches
    assert batches.basis == "measured on 20 batches of the data, the first ones" and batches.steps == 1


def test_what_does_not_fit_is_named_with_what_would(recipe) -> None:
    arguments = ["plan", str(recipe), "--stage", "last", "--gpus", "2", "--gpu-memory", "1e-6", "--tflops", "1e-6"]
    result = CliRunner().invoke(app, [*arguments, "--json", str(recipe.parent / "plan.json")])
    assert result.exit_code == 1, result.output
    for words in ("NO, 1e-06 GB", "activation_checkpointing=true", "parallel.zero=2", "Still too much", "hours"):
        assert words in result.output
    (planned,) = json.loads((recipe.parent / "plan.json").read_text())
    memory = planned["memory"]
    assert memory["total"] == sum(size for kind, size in memory.items() if kind != "total")
    assert planned["processes"] == 2 and planned["steps"] == 4
    fits = CliRunner().invoke(app, ["plan", str(recipe), "--stage", "last", "--gpu-memory", "80"])
    assert fits.exit_code == 0 and "yes, into 80 GB" in fits.output


def test_memory_is_counted_until_its_last_view_is_gone() -> None:
    with FakeTensorMode(), MemoryTracker() as tracker:
        whole = torch.ones(1000)
        part = whole[:10]
        tracker.hold(whole, "weights")
        assert tracker.bytes == {ACTIVATIONS: 0, "weights": 4000}
        del whole
        assert tracker.bytes["weights"] == 4000
        del part
        torch.ones(100) @ torch.ones(100, 5)
        assert sum(tracker.bytes.values()) == 0
        assert tracker.peak == 4000 and tracker.at_peak == {ACTIVATIONS: 4000}  # what it was then


def test_operations_of_products_are_counted() -> None:
    with FakeTensorMode(), MemoryTracker() as tracker:
        torch.ones(3, 5) @ torch.ones(5, 7)
    assert tracker.flops == 2 * 3 * 5 * 7


def test_grouped_products_have_the_shapes_that_torch_gives_them() -> None:
    ends = torch.tensor([16, 32, 48], dtype=torch.int32)
    left, right = torch.ones(48, 32), torch.ones(3, 32, 64)
    columns = torch.ones(32, 48), torch.ones(48, 64)
    for pair in ((left, right), columns):
        assert grouped_product(*pair, ends).shape == torch._grouped_mm(*pair, offs=ends).shape


@pytest.mark.slow
def test_resident_memory_is_planned_within_a_tenth_and_parameters_exactly(tmp_path) -> None:
    file = write_recipe(tmp_path, (ROOT / MODELS).resolve())
    for result in compare(file, list(load_recipe(file).stages), tmp_path):
        print(result)
        assert math.isclose(result["ratio"], 1, abs_tol=0.1), result
        assert result["parameters"]["total"] == result["saved"], result
