"""A model becomes one of transformers' classes with the same weights and logits, or is refused by name."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_dense_checkpoints import FAMILIES as DENSE
from test_sparse_checkpoints import FAMILIES as SPARSE
from tiny import TEXT, randomise, tiny_model
from tiny_model import save_tiny
from tiny_processor import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from typer.testing import CliRunner

from unimoe import UniMoEForCausalLM, UniMoETextConfig, experts_as_linears
from unimoe.build.language_models import convert_language_model
from unimoe.checkpoint.loading import load_model
from unimoe.cli import app
from unimoe.errors import UniMoEError
from unimoe.files.tensors import open_weights
from unimoe.surgery import Certificate, export_hf
from unimoe.surgery.calibration import as_batch
from unimoe.surgery.damage import ask
from unimoe.surgery.stock_classes import stock_config

STOCK = {"mixtral-bf16": SPARSE["mixtral"], **DENSE, **SPARSE}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
QWEN2_MOE, GLM4_MOE = "Qwen2MoeForCausalLM", "Glm4MoeForCausalLM"
SIGMOID = {"scoring_func": "sigmoid", "num_shared_experts": 2, "shared_expert_intermediate_size": 24}


def ours(**text: Any) -> UniMoEForCausalLM:
    torch.manual_seed(0)
    model = UniMoEForCausalLM(UniMoETextConfig(**{**TEXT, **text})).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_(std=0.2)
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    return ask(model, as_batch({"input_ids": torch.arange(3, 27).view(2, 12)})).detach()


@pytest.mark.parametrize("family", STOCK)
def test_what_was_built_of_a_class_becomes_that_class_again_bit_for_bit(family: str) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**TEXT, "num_hidden_layers": 3, **STOCK[family]})
    dtype = torch.bfloat16 if "bf16" in family else torch.float32
    stock = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    randomise(stock)
    stock.generation_config.temperature = 0.7
    again, certificate = export_hf(convert_language_model(stock))
    assert certificate.kind == "exact" and certificate.difference <= 1e-6
    assert torch.equal(logits(again), logits(stock))
    assert again.generation_config.temperature == 0.7
    state = again.state_dict()
    assert all(torch.equal(state.pop(name), tensor) for name, tensor in stock.state_dict().items()) and not state
    if config.model_type != "mistral":  # of which Llama is another name
        new, old = again.config.to_dict(), stock.config.to_dict()
        assert type(again) is type(stock)
        assert {name for name in new.keys() | old.keys() if new.get(name) != old.get(name)} <= {"head_dim"}


@pytest.mark.parametrize(
    ("text", "name", "added"),
    [
        ({"qkv_bias": True}, QWEN2_MOE, True),
        ({"norm_topk_prob": False}, QWEN2_MOE, True),
        ({"moe_layers": [0]}, QWEN2_MOE, True),
        ({"moe_layers": [1], "qk_norm": "head"}, "Qwen3MoeForCausalLM", False),
        ({"shared_expert_intermediate_size": 8, "shared_expert_weighting": "sigmoid"}, QWEN2_MOE, False),
        ({"router_type": "noisy_top_k"}, "MixtralForCausalLM", False),
        ({"scoring_func": "sigmoid"}, GLM4_MOE, True),
        (
            {**SIGMOID, "balance_bias": True, "n_group": 2, "topk_group": 1, "routed_scaling_factor": 2.5}
            | {"mlp_only_layers": [0], "qkv_bias": True, "qk_norm": "head"},
            GLM4_MOE,
            False,
        ),
    ],
    ids=str,
)
def test_a_decoder_of_no_checkpoint_becomes_the_class_that_has_it(text: dict, name: str, added: bool) -> None:
    model = ours(**MIXTURE, **text)
    stock, certificate = export_hf(model)
    assert (type(stock).__name__, certificate.kind, bool(certificate.details["added"])) == (name, "exact", added)
    assert torch.allclose(logits(stock), logits(model), atol=1e-6)


@pytest.mark.parametrize(("text", "bound"), [({}, 1e-12), (MIXTURE, 1e-7)], ids=["dense", "sparse"])
def test_in_float64_only_the_softmax_of_routers_differs(text: dict, bound: float) -> None:
    model = ours(**text).double()
    if text:
        model.set_experts_implementation("eager")
    assert export_hf(model)[1].difference <= bound


# Field -> fields of a decoder in which it has another value, and the class that it becomes, or what is refused.
LATENT = {"expert_type": "latent"}
ISOLATED = {"modality_routing": "isolated", "expert_groups": {"text": [0, 1], "image": [2, 3]}}
WALK: dict[str, tuple[dict[str, Any], str]] = {
    "attention_bias": ({"attention_bias": True, "qk_norm": "head"}, "Qwen3Moe"),
    "attention_dropout": ({"attention_dropout": 0.1}, "Mixtral"),
    "balance_bias": ({"scoring_func": "sigmoid", "balance_bias": True}, "Glm4Moe"),
    "balance_bias_update_rate": ({"balance_bias_update_rate": 0.1}, "Mixtral"),
    "bos_token_id": ({"bos_token_id": None}, "Mixtral"),
    "capacity_factor": ({"capacity_factor": 1.0}, "capacity_factor: it is 1.0, and no class"),
    "capacity_priority": ({"capacity_priority": "position"}, "Mixtral"),
    "clip_qkv": ({"clip_qkv": 0.3}, "clip_qkv: it is 0.3; of mixtral, the nearest class"),
    "combine_weights": ({"combine_weights": "near_tie"}, "combine_weights: it is 'near_tie'"),
    "decoder_sparse_step": (
        {"decoder_sparse_step": 2, "num_hidden_layers": 4, "scoring_func": "sigmoid"},
        "sparse layers: it is 'some'; of glm4_moe",
    ),
    "eos_token_id": ({"eos_token_id": [3, 4]}, "Mixtral"),
    "expert_aliases": ({"expert_aliases": [[0, 1, 0, 1]] * 2}, "expert_aliases: it is"),
    "expert_group_intermediate_sizes": (
        {**ISOLATED, "expert_group_intermediate_sizes": {"image": 16}},
        "modality_routing: it is 'isolated'",
    ),
    "expert_groups": (ISOLATED, "modality_routing: it is 'isolated'"),
    "expert_latent_groups": ({**LATENT, "expert_latent_groups": 2}, "expert_type: it is 'latent', .* Multiply"),
    "expert_latent_size": ({**LATENT, "expert_latent_size": 8}, "expert_type: it is 'latent'"),
    "expert_lora_alpha": ({"expert_type": "lora", "expert_lora_alpha": 4}, "expert_type: it is 'lora'"),
    "expert_rank": ({"expert_type": "lora", "expert_rank": 4}, "expert_type: it is 'lora'"),
    "expert_type": ({"expert_type": "lora"}, "expert_type: it is 'lora'"),
    "head_dim": ({"head_dim": 12}, "Mixtral"),
    "hidden_act": ({"hidden_act": "gelu"}, "Mixtral"),
    "hidden_size": ({"hidden_size": 48}, "Mixtral"),
    "initializer_range": ({"initializer_range": 0.1}, "Mixtral"),
    "intermediate_size": ({"intermediate_size": 40, "mlp_only_layers": [0]}, "Qwen2Moe"),
    "max_position_embeddings": ({"max_position_embeddings": 100}, "Mixtral"),
    "min_experts_per_tok": ({"router_type": "top_p", "min_experts_per_tok": 2}, "router_type: it is 'top_p'"),
    "mlp_bias": ({"num_experts": 0, "mlp_bias": True}, "Llama"),
    "mlp_only_layers": ({"mlp_only_layers": [1], "qk_norm": "head"}, "Qwen3Moe"),
    "modality_routing": ({"modality_routing": "bias"}, "modality_routing: it is 'bias'"),
    "moe_intermediate_size": ({"moe_intermediate_size": 40}, "Mixtral"),
    "moe_layers": ({"moe_layers": [], "capacity_factor": 1.0}, "Llama"),
    "n_group": ({"n_group": 2, "topk_group": 1}, "scoring_func: it is 'softmax'; of glm4_moe"),
    "norm_topk_prob": ({"norm_topk_prob": False, "qk_norm": "projection"}, "Olmoe"),
    "null_experts_keep_mass": ({"num_null_experts": 1, "null_experts_keep_mass": False}, "num_null_experts: it is 1"),
    "num_attention_heads": ({"num_attention_heads": 2}, "Mixtral"),
    "num_experts": ({"num_experts": 0, "qkv_bias": True}, "Qwen2"),
    "num_experts_per_tok": ({"num_experts_per_tok": 3}, "Mixtral"),
    "num_hidden_layers": ({"num_hidden_layers": 1}, "Mixtral"),
    "num_key_value_heads": ({"num_key_value_heads": 4}, "Mixtral"),
    "num_null_experts": ({"num_null_experts": 1}, "num_null_experts: it is 1"),
    "num_shared_experts": (SIGMOID, "Glm4Moe"),
    "output_router_logits": ({"output_router_logits": True}, "Mixtral"),
    "pad_token_id": ({"pad_token_id": 5}, "Mixtral"),
    "qk_norm": ({"qk_norm": "projection", "qkv_bias": True}, "bias of the attention: it is 'qkv'; of olmoe"),
    "qkv_bias": ({"qkv_bias": True, "attention_bias": True}, "bias of the attention: it is 'all'; of qwen2_moe"),
    "reserved_experts": ({"reserved_experts": {"speech": [3]}}, "reserved_experts: it is"),
    "rms_norm_eps": ({"rms_norm_eps": 0.1}, "Mixtral"),
    "rope_parameters": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 99.0, "mrope_section": [2, 1, 1]}},
        "Mixtral",
    ),
    "routed_scaling_factor": ({"routed_scaling_factor": 2.0}, "routed_scaling_factor: it is 2.0; of mixtral"),
    "router_aux_loss_coef": ({"router_aux_loss_coef": 0.5}, "Mixtral"),
    "router_aux_loss_global_batch": ({"router_aux_loss_global_batch": True}, "Mixtral"),
    "router_aux_loss_scope": (
        {"router_aux_loss_scope": "modality", "scoring_func": "sigmoid", "balance_bias": True},
        "Glm4Moe",
    ),
    "router_entropy_min_experts": ({"router_entropy_min_experts": 2}, "Mixtral"),
    "router_gradient": ({"router_gradient": "sparsemixer"}, "Mixtral"),
    "router_jitter_noise": ({"router_jitter_noise": 0.5}, "Mixtral"),
    "router_losses": ({"router_losses": {"entropy": 0.1}}, "Mixtral"),
    "router_modality_projection": ({"router_modality_projection": True}, "router_modality_projection: it is True"),
    "router_top_p": ({"router_type": "top_p", "router_top_p": 0.9}, "router_type: it is 'top_p'"),
    "router_type": ({"router_type": "expert_choice"}, "router_type: it is 'expert_choice'"),
    "router_z_loss_coef": ({"router_z_loss_coef": 0.5}, "Mixtral"),
    "scoring_func": ({"scoring_func": "sigmoid"}, "Glm4Moe"),
    "shared_expert_intermediate_size": (
        {**SIGMOID, "shared_expert_intermediate_size": 10},
        "width of the shared experts: it is 20; of glm4_moe",
    ),
    "shared_expert_weighting": (
        {"shared_expert_intermediate_size": 8, "shared_expert_weighting": "router"},
        "shared experts: it is 'router'; of glm4_moe",
    ),
    "slots_per_expert": ({"router_type": "soft", "slots_per_expert": 2}, "router_type: it is 'soft'"),
    "sparsemixer_epsilon": ({"sparsemixer_epsilon": 0.5}, "Mixtral"),
    "tie_word_embeddings": ({"tie_word_embeddings": True}, "Mixtral"),
    "topk_group": ({**SIGMOID, "n_group": 2, "topk_group": 1}, "Glm4Moe"),
    "use_cache": ({"use_cache": False}, "Mixtral"),
    "vocab_size": ({"vocab_size": 50}, "Mixtral"),
}


def test_the_walk_is_over_every_field() -> None:
    assert WALK.keys() == UniMoETextConfig.__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys()


@pytest.mark.parametrize("field", WALK)
def test_every_field_is_said_by_the_class_or_without_effect_or_refused(field: str) -> None:
    changes, outcome = WALK[field]
    assert field in changes
    model = ours(**{**MIXTURE, **changes})
    if ":" in outcome:
        with pytest.raises(UniMoEError, match=outcome):
            export_hf(model)
    else:
        stock, certificate = export_hf(model)
        assert (type(stock).__name__, certificate.kind) == (f"{outcome}ForCausalLM", "exact")


def test_another_answer_is_refused_with_its_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules["unimoe.surgery.export_hf"],
        "stock_config",
        lambda *given, **fields: stock_config(*given, **fields, rms_norm_eps=0.3),
    )
    with pytest.raises(UniMoEError, match=r"LlamaForCausalLM: its logits differ from those of the model by \d"):
        export_hf(ours())


def test_routers_are_rounded_to_half_precision_only_where_that_is_allowed() -> None:
    config = UniMoETextConfig(**TEXT, **MIXTURE)
    model = UniMoEForCausalLM._from_config(config, dtype=torch.bfloat16).eval()
    with pytest.raises(UniMoEError, match=r"differ .* rounded to torch\.bfloat16: export in float32, or round"):
        export_hf(model)
    stock, certificate = export_hf(model, round_routers=True)
    assert certificate.kind == "measured" and 1e-6 < certificate.difference < 1e-2
    assert {tensor.dtype for tensor in stock.state_dict().values()} == {torch.bfloat16}
    assert export_hf(model.float())[1].kind == "exact"


def test_media_experts_as_linears_and_other_models_are_refused() -> None:
    model = tiny_model(**MIXTURE)
    with pytest.raises(UniMoEError, match=r"takes media \(image, audio, speech\), .* language_only=True"):
        export_hf(model)
    stock, certificate = export_hf(model, language_only=True)
    assert {"encoders.image", "connectors.speech"} <= set(certificate.details["left_out"])
    with pytest.raises(UniMoEError, match="it is no model of this package"):
        export_hf(stock)  # type: ignore[arg-type]
    experts_as_linears(model)
    with pytest.raises(UniMoEError, match="Call fold_experts first"):
        export_hf(model, language_only=True)


@torch.no_grad()
def test_a_checkpoint_goes_through_build_and_export_and_comes_back(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(placeholders=False)
    fields = {**TEXT, "vocab_size": len(tokenizer), **SPARSE["qwen3_moe"]}
    stock = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields)).eval()
    randomise(stock)
    stock.save_pretrained(tmp_path / "stock")
    tokenizer.save_pretrained(tmp_path / "stock")
    built = ["build", "--language", str(tmp_path / "stock"), "--out", str(tmp_path / "model")]
    for command in (built, ["export", str(tmp_path / "model"), str(tmp_path / "out")]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    before, after = open_weights(tmp_path / "stock"), open_weights(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, tensor in before.items():  # building adds rows for placeholders
        assert torch.equal(after[name][: len(tensor)], tensor), name
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(again) is type(stock)
    assert torch.equal(logits(again)[:, : len(tokenizer)], logits(stock))


def test_the_command_writes_a_folder_that_transformers_alone_loads(tmp_path: Path) -> None:
    folder, out = save_tiny(tmp_path / "model", **MIXTURE, qkv_bias=True), tmp_path / "out"
    refused = CliRunner().invoke(app, ["export", str(folder), str(out)])
    assert refused.exit_code == 2 and "language_only" in refused.output and not out.exists()
    result = CliRunner().invoke(app, ["export", str(folder), str(out), "--language-only"])
    assert result.exit_code == 0, result.output
    assert "left out: connectors.audio" in result.output and "added: model.layers.0.mlp.shared" in result.output
    stock, model = AutoModelForCausalLM.from_pretrained(out).eval(), load_model(folder)
    assert type(stock).__name__ == QWEN2_MOE and Certificate.load(out).kind == "exact"
    inputs = AutoTokenizer.from_pretrained(out)(["a cat", "two dogs"], return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(stock.generate(**inputs, **options), model.generate(**inputs, **options))
    assert "model.layers.0.mlp.experts.3.up_proj.weight" in open_weights(out)  # as other tools read them
