"""The report passes for a sound model, fails for a broken one, and leaves the model as it was."""

import pytest
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor
from typer.testing import CliRunner

from unimoe.analysis import verify
from unimoe.analysis.verify import TOLERANCE
from unimoe.cli import app
from unimoe.moe.experts import Experts
from unimoe.moe.router import Router


@pytest.fixture
def loaded(model_folder):
    return AutoModelForMultimodalLM.from_pretrained(model_folder), AutoProcessor.from_pretrained(model_folder)


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

    original = Router.forward
    monkeypatch.setattr(Router, "forward", route)
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
