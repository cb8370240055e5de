"""Published configurations build, run, and agree with transformers' classes where there is one."""

from typing import Any

import pytest
import torch
from tiny import TEXT
from transformers import (
    DeepseekV3Config,
    Ernie4_5_VLMoeConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from typer.testing import CliRunner

from unimoe import UniMoEForCausalLM, UniMoETextConfig
from unimoe.build.language_models import text_config as read_language_model
from unimoe.cli import app
from unimoe.presets import ALIASES, PRESETS, names, text_config

EXPECTED = [
    "mixtral-8x7b",
    "qwen2-moe",
    "qwen3-moe",
    "olmoe-1b-7b",
    "deepseek-v3",
    "ernie-4.5-vl",
    "vl-moe",
    "moe-llava",
    "cumo",
    "uni-moe-4e-speech",
    "uni-moe-4e-audio",
    "uni-moe-8e",
    "uni-moe-2.0",
    "uni-moe-2.5",
]


def tiny(name: str) -> UniMoETextConfig:
    """The preset with few, narrow layers and experts, and all that is left of its routing."""
    preset = text_config(name)
    sizes: dict[str, Any] = {**TEXT, "head_dim": 8, "num_hidden_layers": 4, "num_key_value_heads": 2}
    sizes["moe_intermediate_size"] = 24
    if preset.shared_expert_intermediate_size:
        sizes["shared_expert_intermediate_size"] = 16
    if preset.moe_layers:
        sizes["moe_layers"] = [0, 2]
    experts = min(preset.num_experts, 16)
    if preset.expert_groups:
        sizes["expert_groups"] = {"text": list(range(8)), "image": list(range(8, 16))}
    if preset.expert_group_intermediate_sizes:
        sizes["expert_group_intermediate_sizes"] = {"image": 8}
    return text_config(name, **sizes, num_experts=experts)


def test_the_table_holds_what_was_promised_each_with_a_source() -> None:
    assert names() == EXPECTED
    for preset in PRESETS.values():
        assert preset.title and preset.differs
        assert "arXiv" in preset.source or "transformers 5.23" in preset.source


@pytest.mark.parametrize("name", EXPECTED)
def test_it_is_a_valid_configuration_that_survives_saving(name: str, tmp_path) -> None:
    config = text_config(name)
    assert config.num_experts > 1 and any(map(config.is_sparse, range(config.num_hidden_layers)))
    config.save_pretrained(tmp_path)
    assert UniMoETextConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_tiny_instance_runs_forward_and_backward(name: str) -> None:
    torch.manual_seed(0)
    model = UniMoEForCausalLM(tiny(name)).train()
    ids = torch.randint(3, 64, (2, 40))
    output = model(ids, labels=ids, mm_token_type_ids=torch.arange(80).view(2, 40) % 2)
    output.loss.backward()
    assert output.loss.isfinite() and output.router_logits
    routers = [layer.mlp.router.weight for layer in model.model.layers if layer.is_sparse]
    assert routers and all(weight.grad.isfinite().all() and weight.grad.abs().sum() > 0 for weight in routers)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("mixtral-8x7b", MixtralConfig),
        ("qwen2-moe", Qwen2MoeConfig),
        ("qwen3-moe", Qwen3MoeConfig),
        ("olmoe-1b-7b", OlmoeConfig),
    ],
)
def test_it_is_what_the_defaults_of_transformers_class_read_as(name: str, theirs: type[PreTrainedConfig]) -> None:
    expected = UniMoETextConfig(**read_language_model(theirs())).to_dict()
    actual = text_config(name).to_dict()
    different = {field for field in expected if field != "mlp_only_layers" and actual[field] != expected[field]}
    of_the_paper = {"router_z_loss_coef", "intermediate_size", "moe_intermediate_size", "expert_latent_size"}
    assert different <= (of_the_paper if name == "olmoe-1b-7b" else set())
    assert not actual["mlp_only_layers"] and not expected["mlp_only_layers"]


def test_deepseek_v3_agrees_with_the_defaults_of_its_class() -> None:
    theirs, ours = DeepseekV3Config(), text_config("deepseek-v3")
    for field in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "moe_intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "num_experts_per_tok",
        "n_group",
        "topk_group",
        "norm_topk_prob",
        "routed_scaling_factor",
        "rms_norm_eps",
        "max_position_embeddings",
        "bos_token_id",
        "eos_token_id",
        "tie_word_embeddings",
        "rope_parameters",
    ):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert ours.num_experts == theirs.n_routed_experts and ours.head_dim == theirs.v_head_dim
    assert ours.num_shared_experts == theirs.n_shared_experts
    assert ours.shared_expert_intermediate_size == theirs.moe_intermediate_size
    dense = [index for index in range(ours.num_hidden_layers) if not ours.is_sparse(index)]
    assert dense == list(range(theirs.first_k_dense_replace))


def test_ernie_vl_agrees_with_the_defaults_of_its_class() -> None:
    theirs, ours = Ernie4_5_VLMoeConfig().text_config, text_config("ernie-4.5-vl")
    for field in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "num_experts_per_tok",
        "rms_norm_eps",
        "max_position_embeddings",
        "tie_word_embeddings",
        "rope_parameters",
        "router_aux_loss_coef",
    ):
        assert getattr(ours, field) == getattr(theirs, field), field
    text, vision = theirs.moe_intermediate_size
    assert ours.expert_widths() == [text] * theirs.moe_num_experts + [vision] * theirs.moe_num_experts
    shared = ours.num_shared_experts * ours.shared_expert_intermediate_size
    assert shared == theirs.moe_num_shared_experts * text
    kinds = ["sparse" if ours.is_sparse(index) else "dense" for index in range(ours.num_hidden_layers)]
    assert kinds == theirs.mlp_layer_types


V1 = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "qkv_bias": False,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "moe_intermediate_size": 11008,
    "modality_routing": "shared",
    "router_modality_projection": False,
}
STATED = {
    "uni-moe-4e-speech": {**V1, "num_experts": 4, "moe_layers": None, "router_aux_loss_coef": 0.0},
    "uni-moe-4e-audio": {**V1, "num_experts": 4, "moe_layers": [*range(0, 31, 2)], "router_aux_loss_coef": 0.0},
    "uni-moe-8e": {**V1, "num_experts": 8, "moe_layers": None, "router_aux_loss_coef": 0.01},
    "uni-moe-2.0": {
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
        "qkv_bias": True,
        "router_type": "top_p",
        "router_top_p": 0.7,
        "num_experts_per_tok": 5,
        "min_experts_per_tok": 1,
        "num_experts": 4,
        "moe_intermediate_size": 18944,
        "num_null_experts": 1,
        "null_experts_keep_mass": True,
        "num_shared_experts": 2,
        "shared_expert_intermediate_size": 2368,
        "shared_expert_weighting": "router",
        "combine_weights": "scores",
    },
    "uni-moe-2.5": {
        "num_shared_experts": 2,
        "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"},
        "tie_word_embeddings": False,
    },
}
"""What the releases and their code say, field by field."""


@pytest.mark.parametrize("name", STATED)
def test_releases_of_uni_moe_have_the_fields_that_they_state(name: str) -> None:
    config = text_config(name)
    assert {field: getattr(config, field) for field in STATED[name]} == STATED[name]


def test_the_released_weights_of_2_0_are_one_field_away() -> None:
    assert text_config("uni-moe-2.0", combine_weights="near_tie").sparsemixer_epsilon == 0.01


def test_an_alias_is_the_preset_that_it_stands_for() -> None:
    assert ALIASES and not ALIASES.keys() & PRESETS.keys()
    for alias, name in ALIASES.items():
        assert text_config(alias).to_dict() == text_config(name).to_dict()


def test_changing_one_configuration_leaves_the_table_as_it_was() -> None:
    text_config("ernie-4.5-vl").expert_groups["text"].clear()
    assert len(text_config("ernie-4.5-vl").expert_groups["text"]) == 64


def test_an_unknown_preset_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"There is no preset 'mixtral'\. Did you mean 'mixtral-8x7b'\?"):
        text_config("mixtral")


def test_the_command_lists_every_preset_with_its_source() -> None:
    result = CliRunner().invoke(app, ["presets"], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in EXPECTED) and "arXiv 2412.19437" in result.output


def test_vl_moe_keeps_modalities_apart_below_and_fuses_them_in_dense_layers_on_top() -> None:
    groups = {"text": [0, 1], "image": [2, 3]}
    tiny = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "vocab_size": 40, "num_experts": 4}
    config = text_config("vl-moe", **tiny, num_hidden_layers=6, mlp_only_layers=[4, 5], expert_groups=groups)
    assert [index for index in range(6) if config.is_sparse(index)] == [1, 3]
    ids = torch.randint(0, 40, (2, 7))
    labels = torch.full_like(ids, -100)
    labels[:, 3] = ids[:, 3]  # masked modelling: a loss at the masked positions alone
    for modality, idle in ((0, groups["image"]), (1, groups["text"])):
        model = UniMoEForCausalLM(config).train()
        output = model(ids, mm_token_type_ids=torch.full_like(ids, modality), labels=labels)
        output.loss.backward()
        for index in (1, 3):
            block = model.model.layers[index].mlp
            for weights in (block.experts.gate_up_proj, block.experts.down_proj, block.router.weight):
                touched = weights.grad.flatten(1).abs().amax(1) > 0
                assert not touched[idle].any() and touched.any()
        assert all(model.model.layers[5].mlp.up_proj.weight.grad.abs().amax(1) > 0)
        shifted = output.logits[:, 2].log_softmax(-1).gather(1, ids[:, 3, None]).mean()
        assert float(output.losses["language"]) == pytest.approx(-float(shifted), rel=1e-5)
