"""`device_map`, offloading to disk, and which modules stay whole."""

from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload, infer_auto_device_map
from tiny import tiny_model
from transformers import AutoModelForMultimodalLM

GREEDY = {"do_sample": False, "eos_token_id": None, "max_new_tokens": 3}


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}, "balanced"])
def test_a_device_map_loads_the_same_model(model, folder, inputs, device_map) -> None:
    loaded = AutoModelForMultimodalLM.from_pretrained(folder, device_map=device_map)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert torch.equal(loaded.generate(**inputs, **GREEDY), model.generate(**inputs, **GREEDY))


def test_layers_of_the_language_model_and_of_the_towers_stay_whole(model) -> None:
    blocks = set(model._no_split_modules)
    assert "DecoderLayer" in blocks
    present = {type(module).__name__ for module in model.modules()}
    for tower in (encoder.tower for encoder in model.model.encoders.values()):
        assert set(tower._no_split_modules or ()) & present <= blocks
    device_map = infer_auto_device_map(model, {0: "40KB", "cpu": "1GB"}, no_split_module_classes=list(blocks))
    for name, module in model.named_modules():
        if type(module).__name__ in blocks:
            inside = {device for key, device in device_map.items() if key.startswith(f"{name}.")}
            assert not inside, f"{name} is split over {inside}"


@pytest.mark.parametrize("kind", ["disk", "cpu"])
def test_an_offloaded_model_answers_the_same(sparse, inputs, kind, tmp_path) -> None:
    model = tiny_model(**sparse)
    expected = model(**inputs).logits
    tokens = model.generate(**inputs, **GREEDY)
    if kind == "disk":
        disk_offload(
            model,
            str(tmp_path),
            execution_device=torch.device("cpu"),
            offload_buffers=True,
        )
        assert model.lm_head.weight.device.type == "meta"
    else:
        cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)
    assert torch.equal(model(**inputs).logits, expected)
    assert torch.equal(model.generate(**inputs, **GREEDY), tokens)


def test_parts_may_be_left_on_disk_by_a_device_map(model, folder, inputs, tmp_path) -> None:
    """The main device is the CPU; two parts are read from disk when they are needed."""
    disk = ("model.language_model.layers.1", "model.encoders.speech")
    device_map = dict.fromkeys(disk, "disk") | {
        f"model.language_model.{name}": "cpu" for name in ("embed_tokens", "layers.0", "norm", "rotary_emb")
    }
    device_map |= {f"model.encoders.{key}": "cpu" for key in ("image", "audio")}
    device_map |= {"model.connectors": "cpu", "lm_head": "cpu"}
    loaded = AutoModelForMultimodalLM.from_pretrained(folder, device_map=device_map, offload_folder=str(tmp_path))
    assert loaded.model.language_model.layers[1].mlp.experts.gate_up_proj.device.type == "meta"
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
