"""The losses of a stage: coefficients that move, routers that balance themselves, a loss over all tokens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

from training.config.train import LossConfig
from training.stage.run import run_stage
from training.trainer.losses import set_coefficients
from training.trainer.trainer import StageTrainer
from unimoe import UniMoEForConditionalGeneration, UniMoETextConfig
from unimoe.errors import ConfigError


@pytest.fixture
def make_start(workspace: Path, tmp_path: Path) -> Callable[..., str]:
    """Save a sparse start; keyword arguments describe its language model."""

    def make(**text: Any) -> str:
        dense = AutoModelForMultimodalLM.from_pretrained(workspace / "start")
        config = dense.config
        config.text_config = UniMoETextConfig(
            **{**_fields(config.text_config), "num_experts": 4, "moe_intermediate_size": 16, **text}
        )
        torch.manual_seed(0)
        UniMoEForConditionalGeneration(config).save_pretrained(tmp_path / "sparse")
        AutoProcessor.from_pretrained(workspace / "start").save_pretrained(tmp_path / "sparse")
        return str(tmp_path / "sparse")

    return make


def _fields(text: UniMoETextConfig) -> dict[str, Any]:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {name: getattr(text, name) for name in (*names, "pad_token_id", "bos_token_id", "eos_token_id")}


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_coefficient_moves_with_the_optimisers_steps_and_stays_at_its_end() -> None:
    text = UniMoETextConfig(num_experts=4, router_z_loss_coef=0.5)
    losses = LossConfig(balance={"start": 0.025, "end": 0.001, "steps": 12}, entropy=0.1)
    seen = []
    for step in (0, 6, 12, 99):
        set_coefficients(text, losses, step=step)
        seen.append(text.router_aux_loss_coef)
    assert seen == pytest.approx([0.025, 0.013, 0.001, 0.001])
    assert text.router_z_loss_coef == 0.5 and text.router_losses == {"entropy": 0.1}


def test_a_stage_anneals_over_accumulated_batches_and_logs_every_loss(make_stage, make_start, monkeypatch) -> None:
    seen = []
    original = StageTrainer.compute_loss

    def spy(self, *args, **kwargs):
        seen.append(self.text_config.router_aux_loss_coef)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "compute_loss", spy)
    names = ("importance", "entropy", "entropy_global", "orthogonality", "gram", "score_variance", "expert_overlap")
    stage = make_stage(
        start=make_start(),
        train={
            "parts": ["router", "experts"],
            "losses": {"balance": {"start": 0.4, "end": 0.1, "steps": 3}, **dict.fromkeys(names, 0.01)},
        },
        trainer={"max_steps": 3, "gradient_accumulation_steps": 2},
    )
    run_stage(stage, name="anneal")
    assert seen == pytest.approx([0.4, 0.4, 0.3, 0.3, 0.2, 0.2])
    rows = [row for row in metrics(Path(stage.output)) if "loss_language" in row]
    for row in rows:
        parts = {name: row[f"loss_{name}"] for name in names}
        assert all(value == value and abs(value) < 100 for value in parts.values()), parts
        assert row["loss_expert_overlap"] > 0 and row["loss_entropy"] > 0


@pytest.mark.parametrize("part", ["router", "connectors"])
def test_the_balance_bias_of_a_router_that_trains_moves_once_a_step_and_is_saved(make_stage, make_start, part) -> None:
    start = make_start(balance_bias=True, balance_bias_update_rate=0.25)
    stage = make_stage(
        start=start, train={"parts": [part]}, trainer={"max_steps": 1, "gradient_accumulation_steps": 2}
    )
    run_stage(stage, name="balance")
    loaded = AutoModelForMultimodalLM.from_pretrained(stage.output)
    for layer in loaded.model.language_model.layers:
        bias = layer.mlp.router.balance_bias
        assert set((bias / 0.25).flatten().tolist()) <= ({-1.0, 0.0, 1.0} if part == "router" else {0.0})
        assert bias.abs().max() == (0.25 if part == "router" else 0.0)


def test_over_all_tokens_the_loss_is_the_smaller_by_the_share_of_labels(make_stage, make_start) -> None:
    start, language = make_start(), {}
    for over in ("labels", "tokens"):
        stage = make_stage(
            start=start, train={"parts": ["router"], "losses": {"language": over}}, output=f"{start}-{over}"
        )
        run_stage(stage, name=over)
        row = next(row for row in metrics(Path(stage.output)) if "loss_language" in row)
        language[over] = row["loss_language"]
    assert 0 < language["tokens"] < 0.8 * language["labels"]


@pytest.mark.parametrize(
    ("losses", "problem"),
    [
        ({"load": 0.1}, "train.losses: .*'load' needs router_type='noisy_top_k'"),
    ],
)
def test_a_loss_that_the_router_cannot_have_is_refused(make_stage, make_start, losses, problem) -> None:
    stage = make_stage(start=make_start(), train={"parts": ["router"], "losses": losses})
    with pytest.raises(ConfigError, match=problem):
        run_stage(stage, name="refused")


def test_noise_and_its_losses_train(make_stage, make_start) -> None:
    stage = make_stage(
        start=make_start(router_type="noisy_top_k"),
        train={"parts": ["router"], "losses": {"load": 0.1, "importance": 0.1}},
    )
    run_stage(stage, name="noisy")
    row = next(row for row in metrics(Path(stage.output)) if "loss_load" in row)
    assert row["loss_load"] >= 0
    loaded = AutoModelForMultimodalLM.from_pretrained(stage.output)
    assert loaded.model.language_model.layers[0].mlp.router.noise_weight.abs().max() > 0


GROUPS = {"modality_routing": "isolated", "expert_groups": {"text": [0, 1], "image": [2, 3]}}


FAST = [
    {"router_type": "top_p", "router_top_p": 0.5, "num_null_experts": 1, "modality_routing": "separate"},
    {"router_type": "hash", "num_experts_per_tok": 1, "expert_type": "latent", "expert_latent_size": 8},
    {"router_type": "soft"},
    {"expert_type": "lora", "expert_rank": 4, "router_gradient": "sparsemixer", "shared_expert_intermediate_size": 8},
    {**GROUPS, "expert_group_intermediate_sizes": {"image": 8}, "decoder_sparse_step": 2},
]
SLOW = [
    {"router_type": "top_p", "router_top_p": 0.5, "num_null_experts": 1, "num_experts_per_tok": 4},
    {"scoring_func": "sigmoid", "n_group": 2, "topk_group": 1, "modality_routing": "separate"},
    {"router_type": "hierarchical", "n_group": 2, "router_modality_projection": True},
    {"router_type": "hash", "num_experts_per_tok": 1},
    {"router_type": "expert_choice", "router_aux_loss_scope": "sequence"},
    {"capacity_factor": 1.0, "router_gradient": "sparsemixer", "router_jitter_noise": 0.01},
    {"router_gradient": "dense", "modality_routing": "semi_isolated", "expert_groups": {"image": [3]}},
    {"expert_type": "lora", "expert_rank": 4, "shared_expert_intermediate_size": 8},
    {"expert_type": "latent", "expert_latent_size": 8, "expert_latent_groups": 2},
    {"shared_expert_intermediate_size": 8, "shared_expert_weighting": "router", "num_shared_experts": 2},
]
KINDS = [*FAST, *(pytest.param(text, marks=pytest.mark.slow) for text in SLOW)]


@pytest.mark.parametrize("text", KINDS, ids=str)
def test_every_kind_of_sparse_layer_trains_and_what_was_named_changes(make_stage, make_start, text) -> None:
    start = make_start(**text)
    parts = ["experts"] if text.get("router_type") == "hash" else ["router", "experts"]
    stage = make_stage(start=start, train={"parts": parts}, trainer={"learning_rate": 0.01})
    run_stage(stage, name="kinds")
    before, after = (AutoModelForMultimodalLM.from_pretrained(folder) for folder in (start, stage.output))
    state = before.state_dict()
    named = {name for part in parts for name in before.parts()[part]}
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, state[name])}
    assert changed and changed <= named, sorted(changed - named)
    for part in parts:
        assert changed & set(before.parts()[part]), part
