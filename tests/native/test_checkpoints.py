"""What is on disk: experts one by one or stacked, shards, generation settings, and what is drawn when lacking."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TEXT, tiny_model
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM

from unimoe import UniMoEForCausalLM, UniMoETextConfig

EXPERT = "model.language_model.layers.1.mlp.experts"
STACKS = {f"{EXPERT}.gate_up_proj", f"{EXPERT}.down_proj"}
APART = {f"{EXPERT}.{e}.{name}_proj.weight" for e in range(4) for name in ("gate", "up", "down")}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def assert_same_model(loaded, model) -> None:
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_experts_are_saved_one_by_one_and_loaded_into_stacks(model, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    saved = weights(tmp_path)
    assert saved.keys() >= APART and not saved.keys() & STACKS
    experts = model.model.language_model.layers[1].mlp.experts
    gate, up = experts.gate_up_proj[3].chunk(2)
    assert torch.equal(saved[f"{EXPERT}.3.gate_proj.weight"], gate)
    assert torch.equal(saved[f"{EXPERT}.3.up_proj.weight"], up)
    assert torch.equal(saved[f"{EXPERT}.3.down_proj.weight"], experts.down_proj[3])
    assert_same_model(AutoModelForMultimodalLM.from_pretrained(tmp_path), model)


def test_the_layout_of_a_folder_is_kept_when_it_is_saved_again(model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "apart")
    model.save_pretrained(tmp_path / "stacked", save_original_format=False)
    for layout, present in (("apart", APART), ("stacked", STACKS)):
        loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path / layout)
        assert_same_model(loaded, model)
        loaded.save_pretrained(tmp_path / "again" / layout)
        first, again = weights(tmp_path / layout), weights(tmp_path / "again" / layout)
        assert first.keys() == again.keys() and first.keys() >= present
        assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


@pytest.mark.parametrize("auto_class", [AutoModelForCausalLM, AutoModel])
def test_the_text_model_loads_both_layouts(auto_class, tmp_path) -> None:
    model = UniMoEForCausalLM(UniMoETextConfig(**TEXT, num_experts=4, moe_layers=[1]))
    for original in (True, False):
        model.save_pretrained(tmp_path, save_original_format=original)
        loaded = auto_class.from_pretrained(tmp_path)
        assert_same_model(loaded, model if auto_class is AutoModelForCausalLM else model.model)


OTHER_EXPERTS = {
    "lora": {"num_experts": 4, "expert_type": "lora", "expert_rank": 2},
    "latent": {"num_experts": 4, "expert_type": "latent", "expert_latent_size": 8},
    "two widths": {
        "num_experts": 4,
        "modality_routing": "isolated",
        "expert_groups": {"text": [0, 1], "image": [2, 3]},
        "expert_group_intermediate_sizes": {"image": 8},
    },
}


@pytest.mark.parametrize("kind", OTHER_EXPERTS)
def test_other_experts_are_saved_and_loaded_bit_equal(kind, tmp_path) -> None:
    model = UniMoEForCausalLM(UniMoETextConfig(**TEXT, **OTHER_EXPERTS[kind]))
    model.save_pretrained(tmp_path)
    own = {name for name in model.state_dict() if ".mlp.experts." in name}
    if kind != "latent":  # whose stack `down_proj` goes by the name of that of other experts
        assert own == {name for name in weights(tmp_path) if ".mlp.experts." in name}
    assert_same_model(AutoModelForCausalLM.from_pretrained(tmp_path), model)


def test_shards_may_cut_between_experts(model, tmp_path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert_same_model(AutoModelForMultimodalLM.from_pretrained(tmp_path), model)


def test_generation_settings_are_saved_beside_the_configuration_and_not_in_it(model, tmp_path) -> None:
    model = tiny_model()
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    assert settings["max_new_tokens"] == 7 and settings["suppress_tokens"] == [60, 61, 62, 63]
    configuration = json.loads((tmp_path / "config.json").read_text())
    for part in (configuration, configuration["text_config"]):
        assert not part.keys() & {"max_new_tokens", "suppress_tokens", "do_sample", "temperature", "num_beams"}
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    assert loaded.generation_config.max_new_tokens == 7


KINDS = {
    "everything": {"num_experts": 4, "num_null_experts": 1, "modality_routing": "bias", "balance_bias": True},
    "separate": {"num_experts": 4, "modality_routing": "separate", "router_modality_projection": True},
    "isolated": OTHER_EXPERTS["two widths"],
    "lora": OTHER_EXPERTS["lora"],
    "latent": OTHER_EXPERTS["latent"],
    "merged": {"num_experts": 4, "expert_aliases": [[0, 1, 0, 1], [0, 0, 2, 1]]},
    "hash": {"num_experts": 4, "num_experts_per_tok": 1, "router_type": "hash"},
    "hierarchical": {"num_experts": 4, "router_type": "hierarchical", "n_group": 2},
    "noisy": {"num_experts": 4, "router_type": "noisy_top_k"},
    "soft": {"num_experts": 4, "router_type": "soft"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_and_buffer_that_a_checkpoint_lacks_is_drawn(kind, tmp_path) -> None:
    """A model is built without memory; whatever `_init_weights` forgot would be what the memory held before."""
    model = tiny_model(**KINDS[kind])
    model.save_pretrained(tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    save_file({"nothing": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    before = torch.full((1 << 20,), float("nan"))  # memory that is likely given out again
    del before
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    fresh = tiny_model(**KINDS[kind])
    for (name, tensor), (_, expected) in zip(
        [*loaded.named_parameters(), *loaded.named_buffers()],
        [*fresh.named_parameters(), *fresh.named_buffers()],
        strict=True,
    ):
        assert tensor.device.type == "cpu" and tensor.isfinite().all(), name
        if expected.numel() > 8 and (spread := expected.double().std()) > 0:
            tensor, expected = tensor.double(), expected.double()  # a hash table holds integers
            assert 0.5 < tensor.std() / spread < 2, name
            assert abs(tensor.mean() - expected.mean()) < spread, name
        else:
            torch.testing.assert_close(tensor, expected)
