"""Experts spread over processes learn what they learn in one process: losses, gradients and weights, case by case."""

import json
from pathlib import Path
from typing import Any

import launch
import pytest
import torch
from safetensors.torch import load_file
from tiny import QFORMER
from transformers import AutoProcessor

from training.config.recipe import merge
from training.config.stage import StageConfig
from unimoe import UniMoEConfig, UniMoEForConditionalGeneration
from unimoe.surgery import assemble

STEPS, LAYERS = 3, 2
STARTS = {
    "shared": {},
    "top_p": {"moe": {"router_type": "top_p", "router_top_p": 0.6, "num_null_experts": 1}},
    "isolated": {"modality_routing": "isolated"},  # text: experts 0 and 1, images: 2, speech: 3
}
FAMILIES = {
    "lora experts": {"expert_type": "lora", "expert_rank": 4},
    "latent experts": {"expert_type": "latent", "expert_latent_size": 16, "expert_latent_groups": 2},
    "experts of two widths": {
        "modality_routing": "isolated",
        "expert_groups": {"text": [0, 2], "image": [1, 3]},
        "expert_group_intermediate_sizes": {"image": 16},
        "router_aux_loss_scope": "modality",
    },
    "balance bias": {"scoring_func": "sigmoid", "balance_bias": True},
    "near ties": {
        "router_type": "top_p",
        "router_top_p": 0.6,
        "num_null_experts": 1,
        "combine_weights": "near_tie",
        "sparsemixer_epsilon": 0.2,
    },
}
AS_RELEASED: dict[str, Any] = {
    "near ties": {
        "position_type": "omni",
        "image_grids": [[1, 1], [1, 2]],
        "sound_group_tokens": 1,
        "audio_connector_config": {"type": "qformer", "num_queries": 2, "num_attention_heads": 4},
        "speech_connector_config": {
            "type": "blip2_qformer",
            "num_queries": 3,
            "num_output_layers": 2,
            "qformer_config": QFORMER,
        },
    }
}
BALANCE = {"router_aux_loss_coef": 0.05, "router_aux_loss_global_batch": True, "router_z_loss_coef": 0.1}
PARTS = {"parts": ["router", "connectors", "experts"]}
CASES = {
    "plain": {},
    "accumulation": {"trainer": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}},
    "activation checkpointing": {"trainer": {"activation_checkpointing": True}},
    "clipping": {"trainer": {"learning_rate": 1.0, "max_grad_norm": 0.1}},
    "adam": {"trainer": {"optim": "adamw_torch", "learning_rate": 1e-3, "adam_epsilon": 1e-5}},
    "frozen experts": {"train": {"parts": ["router", "connectors", "attention"]}},
    "experts by lora": {"train": {"parts": ["router", "connectors"], "lora": {"parts": ["experts"], "r": 2}}},
    "top-p with null experts": {"start": "top_p"},
    "isolated modalities": {"start": "isolated"},
    "experts without tokens": {"start": "isolated", "data": ["text"]},
    "images in one process": {"data": ["image_kind", "text"]},
}
KINDS = {name: {"start": name} for name in FAMILIES}


@pytest.fixture(scope="module")
def starts(workspace, tmp_path_factory):
    """Four experts behind each kind of router, with a balance loss over the global batch."""
    folder = tmp_path_factory.mktemp("starts")
    copies = dict.fromkeys(("image", "speech"), workspace / "start")
    for name, arguments in STARTS.items():
        model, _ = assemble(workspace / "start", copies, base_experts=2, noise=0.5, exact=False, **arguments)
        for key, value in BALANCE.items():
            setattr(model.config.text_config, key, value)
        model.save_pretrained(folder / name)
    dense = UniMoEConfig.from_pretrained(workspace / "start").to_dict()
    for name, values in FAMILIES.items():
        text = {**dense["text_config"], "num_experts": 4, **values, **BALANCE}
        torch.manual_seed(0)
        config = UniMoEConfig(**{**dense, **AS_RELEASED.get(name, {}), "text_config": text})
        UniMoEForConditionalGeneration(config).save_pretrained(folder / name)
    for name in (*STARTS, *FAMILIES):
        config = UniMoEConfig.from_pretrained(folder / name)
        layout = config.media_layout.to_dict()
        AutoProcessor.from_pretrained(workspace / "start", media_layout=layout).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def make_case(starts, workspace):
    def make(name, output, *, processes=1, zero=None, size=1):
        changes = dict((CASES | KINDS)[name])
        files = changes.pop("data", ["image_kind", "spoken_word", "text"])
        weights = {"image_kind": 1.0, "text": 8.0} if name == "images in one process" else {}
        paths = [
            {"path": str(workspace / "data" / f"{file}_train.jsonl"), "weight": weights.get(file, 4)} for file in files
        ]
        trainer = {
            "per_device_train_batch_size": 8,
            "max_steps": STEPS,
            "max_grad_norm": 1000.0,
            "optim": "sgd",  # Adam would hide a gradient that is too large, and blow up what is nearly none
            "learning_rate": 0.3,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
        }
        values = {
            "start": str(starts / changes.pop("start", "shared")),
            "train": changes.pop("train", PARTS),
            "data": {"mixture": paths},
            "trainer": trainer,
            "parallel": {"zero": zero, "expert_parallel_size": size},
            "output": str(output / name.replace(" ", "-")),
        }
        values = merge(values, changes)
        values["trainer"]["per_device_train_batch_size"] //= processes
        return StageConfig.model_validate(values)

    return make


def run(stages, file, *, processes=1, program="parity_program.py"):
    """Run stages in one launch of a program."""
    file.write_text(json.dumps([stage.model_dump() for stage in stages]))
    launch.run(str(Path(__file__).with_name(program)), str(file), processes=processes if processes > 1 else 0)


@pytest.fixture(scope="module")
def references(make_case, tmp_path_factory):
    """Each case in one process without DeepSpeed."""
    folder = tmp_path_factory.mktemp("one")
    run([make_case(name, folder) for name in CASES | KINDS], folder / "stages.json")
    return folder


def losses(folder, steps=STEPS):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key.startswith(("loss", "grad_norm"))} for line in lines[:steps]]


def furthest(actual, expected, least=1e-6):
    """Largest difference of tensors by name, relative to the largest value of each, or to `least`."""
    assert actual.keys() == expected.keys()
    differences = {name: (actual[name].float() - value.float()).abs().max() for name, value in expected.items()}
    return max(float(differences[name] / value.abs().max().clamp(min=least)) for name, value in expected.items())


def compare(one, many, name):
    """Assert that a case came out alike, and return how far it was off."""
    for step, (expected, actual) in enumerate(zip(losses(one), losses(many), strict=True)):
        for key, value in expected.items():
            assert actual[key] == pytest.approx(value, rel=1e-6 if key != "grad_norm" else 1e-5), (name, step, key)
    noted, reference = (torch.load(folder / "noted.pt") for folder in (many, one))
    assert len(noted["gradients"]) == STEPS
    pairs = zip(noted["gradients"], reference["gradients"], strict=True)
    gradients = max(furthest(actual, expected) for actual, expected in pairs)
    # Biases begin at 0 and are tiny after three steps, of which Adam makes each as large, whatever the gradient.
    weights = furthest(*(load_file(folder / "model.safetensors") for folder in (many, one)), least=0.01)
    assert gradients <= 1e-5 and weights <= 1e-5, (name, gradients, weights)
    return noted


def learn_alike(make_case, references, tmp_path, *, processes, size, zero, cases):
    """Run cases on several processes in one launch, and compare each with its reference."""
    stages = {name: make_case(name, tmp_path, processes=processes, zero=zero, size=size) for name in cases}
    run(stages.values(), tmp_path / "stages.json", processes=processes)
    for name, stage in stages.items():
        folder = Path(stage.output)
        noted = compare(references / folder.name, folder, name)
        assert sum(noted["local_experts"]) == 4 // size * LAYERS
        if name == "images in one process":
            assert any(len(set(images)) == 2 for images in noted["images"])


@pytest.mark.distributed
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_two_processes_that_share_experts_learn_what_one_learns(make_case, references, tmp_path, zero):
    learn_alike(make_case, references, tmp_path, processes=2, size=2, zero=zero, cases=CASES)


@pytest.mark.distributed
@pytest.mark.parametrize(("size", "zero"), [(4, 2), (2, 1), (2, 2), (2, 3)])
def test_four_processes_learn_what_one_learns(make_case, references, tmp_path, size, zero):
    """With two groups of two, experts have replicas whose gradients are averaged, and others have other experts."""
    cases = ["plain", "clipping", "experts by lora", "isolated modalities", "frozen experts"]
    learn_alike(make_case, references, tmp_path, processes=4, size=size, zero=zero, cases=cases)


@pytest.mark.distributed
@pytest.mark.parametrize("zero", [2, 3])
def test_experts_of_every_kind_can_be_sharded(make_case, references, tmp_path, zero):
    learn_alike(make_case, references, tmp_path, processes=2, size=2, zero=zero, cases=KINDS)


@pytest.mark.distributed
def test_half_precision_is_as_near_as_in_one_process(make_case, references, tmp_path):
    """Autocast to bf16, in which tokens travel: off from float32 by no more than one process is."""
    stages = [make_case("plain", tmp_path / str(n), processes=n, zero=z, size=n) for n, z in ((1, None), (2, 2))]
    for stage, processes in zip(stages, (1, 2), strict=True):
        stage.trainer["bf16"] = True
        run([stage], tmp_path / "stages.json", processes=processes)
    exact = losses(references / "plain")
    for step, lines in enumerate(zip(*(losses(Path(stage.output)) for stage in stages), strict=True)):
        alone, shared = (abs(line["loss"] - exact[step]["loss"]) for line in lines)
        assert shared <= 2 * alone + 0.01, step
