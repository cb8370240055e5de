"""Recorded routing decides again, whatever the routers would say; what does not fit is refused."""

import pytest
import torch
from tiny import tiny_inputs, tiny_model

from unimoe.analysis import record, replay
from unimoe.moe import SparseMoeBlock

MOE = {"num_experts": 4, "num_null_experts": 1, "modality_routing": "bias"}


def other_routers(model) -> None:
    for module in model.modules():
        if isinstance(module, SparseMoeBlock):
            module.router.weight.data.normal_()


@torch.no_grad()
def test_replay_gives_the_recorded_logits_though_the_routers_changed() -> None:
    model = tiny_model(**MOE)
    inputs = tiny_inputs(model.config)
    with record(model) as routing:
        expected = model(**inputs).logits
    other_routers(model)
    assert not torch.allclose(model(**inputs).logits, expected, atol=1e-4)
    with replay(model, routing):
        assert torch.equal(model(**inputs).logits, expected)
    assert routing.passes == 1 and len(routing.layers) == 2
    assert not torch.allclose(model(**inputs).logits, expected, atol=1e-4), "the hooks are gone"


@torch.no_grad()
def test_a_generation_is_recorded_pass_by_pass() -> None:
    model = tiny_model(**MOE)
    ids = torch.arange(5, 12)[None]
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with record(model) as routing:
        expected = model.generate(input_ids=ids, **options)
    assert routing.passes == 4
    other_routers(model)
    with replay(model, routing):
        assert torch.equal(model.generate(input_ids=ids, **options), expected)


@torch.no_grad()
def test_what_does_not_fit_the_recording_is_refused() -> None:
    model = tiny_model(**MOE)
    ids = torch.arange(5, 12)[None]
    with record(model) as routing:
        model(input_ids=ids)
    with (
        replay(model, routing),
        pytest.raises(ValueError, match=r"was \(7, 2\) when it was recorded, and is \(6, 2\)"),
    ):
        model(input_ids=ids[:, 1:])
    with replay(model, routing), pytest.raises(ValueError, match="only 1 passes were recorded"):
        model(input_ids=ids)
        model(input_ids=ids)
    with pytest.raises(ValueError, match="this model has"), replay(tiny_model(num_experts=4, moe_layers=[0]), routing):
        pass
