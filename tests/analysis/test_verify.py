"""The report passes for a sound model, fails for a broken one, and leaves the model as it was."""

import pytest
import torch
from tiny_model import save_tiny
from transformers import AutoModelForMultimodalLM, AutoProcessor
from typer.testing import CliRunner

from unimoe.analysis import verify
from unimoe.analysis.verify import TOLERANCE
from unimoe.cli import app
from unimoe.moe.experts import Experts
from unimoe.moe.routers import TopKRouter

EIGHT = {"num_experts": 8, "initializer_range": 0.3}
TWO_WIDTHS = {"expert_group_intermediate_sizes": {"image": 16}}


def load(folder):
    return AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


@pytest.fixture
def loaded(model_folder):
    return load(model_folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sound_model_passes_every_check_and_is_left_as_it_was(loaded, dtype) -> None:
    model, processor = loaded
    model.to(dtype).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    text = model.model.language_model.config
    kernels = text._experts_implementation, text._attn_implementation
    checks = verify(model, processor)
    assert [check.name for check in checks if not check.passed] == []
    assert len(checks) >= 7
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and kernels == (text._experts_implementation, text._attn_implementation)


def failed(checks) -> set[str]:
    return {check.name for check in checks if not check.passed}


def test_a_router_that_looks_at_the_batch_is_found(loaded, monkeypatch) -> None:
    def route(self, hidden_states, context):
        return original(self, hidden_states - hidden_states.mean(0), context)

    original = TopKRouter.forward
    monkeypatch.setattr(TopKRouter, "forward", route)
    assert {"every row alone", "last 4 tokens decoded one by one"} <= failed(verify(*loaded))


def test_experts_that_know_their_place_are_found(loaded) -> None:
    model, processor = loaded

    def scaled(module, arguments, output):
        hidden, index, _ = arguments
        return output + 0.1 * (index == 0).any(-1, keepdim=True) * hidden

    for module in model.modules():
        if isinstance(module, Experts):
            module.register_forward_hook(scaled)
    assert failed(verify(model, processor)) == {"experts in another order"}


def test_half_precision_is_refused(loaded) -> None:
    model, processor = loaded
    with pytest.raises(ValueError, match=r"torch\.bfloat16.*Load it with dtype=torch\.float32"):
        verify(model.bfloat16(), processor)


def test_the_command_prints_the_report_and_fails_where_a_check_does(model_folder, monkeypatch) -> None:
    done = CliRunner().invoke(app, ["verify", str(model_folder)])
    assert done.exit_code == 0 and done.output.count("equal") >= 9
    monkeypatch.setitem(TOLERANCE, torch.float32, -1.0)
    failing = CliRunner().invoke(app, ["verify", str(model_folder)])
    assert failing.exit_code == 1 and "DIFFERENT" in failing.output


@pytest.mark.parametrize(
    "text",
    [
        {"router_type": "top_p", "router_top_p": 0.6, "num_null_experts": 1, "num_experts_per_tok": 4},
        {"router_type": "hierarchical", "n_group": 2, "modality_routing": "separate", "expert_type": "lora"},
        {"n_group": 2, "topk_group": 1, "expert_type": "latent", "expert_latent_groups": 4, "balance_bias": True},
        {"router_type": "top_p", "num_null_experts": 1, "num_experts_per_tok": 4, "combine_weights": "near_tie"},
        {"router_type": "hash", "num_experts_per_tok": 1},
        {"expert_aliases": [[0, 1, 2, 0, 1, 3, 3, 4], [0, 1, 0, 1, 0, 1, 2, 2]]},
        {"modality_routing": "semi_isolated", "expert_groups": {"image": [0]}, **TWO_WIDTHS},
        {"modality_routing": "bias", "reserved_experts": {"speech": [5, 6], "audio": [7]}, "num_null_experts": 1},
    ],
    ids=str,
)
def test_sound_routers_of_every_kind_pass(text, tmp_path) -> None:
    checks = verify(*load(save_tiny(tmp_path, **EIGHT | text)))
    assert [check for check in checks if not check.passed] == [] and len(checks) >= 8


@pytest.mark.parametrize("text", [{"router_type": "expert_choice"}, {"capacity_factor": 0.5}, {"router_type": "soft"}])
def test_routers_that_choose_among_tokens_fail_and_the_command_says_why(text, tmp_path) -> None:
    save_tiny(tmp_path, **EIGHT | text)
    assert "last 4 tokens decoded one by one" in failed(verify(*load(tmp_path)))
    result = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert result.exit_code == 1 and "depends on the batch" in " ".join(result.output.split())
