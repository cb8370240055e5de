"""Soft mixture of experts against a loop over sequences, and what cannot be done with it."""

import pytest
import torch

from unimoe import UniMoEForCausalLM, UniMoETextConfig
from unimoe.moe import RoutingContext, SoftMoeBlock

B, S, D, E, P = 3, 7, 8, 4, 2
TEXT = {
    "hidden_size": D,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 30,
    "num_experts": E,
}


@pytest.fixture
def block() -> SoftMoeBlock:
    block = SoftMoeBlock(UniMoETextConfig(**TEXT, router_type="soft", slots_per_expert=P)).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return block


def states() -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states, and which tokens are real: the second and third sequence are padded."""
    real = torch.ones(B, S, dtype=torch.bool)
    real[1, 5:] = False
    real[2, :3] = False
    return torch.randn(B, S, D, dtype=torch.float64), real


def context(real: torch.Tensor) -> RoutingContext:
    return RoutingContext(torch.zeros(real.numel(), dtype=torch.long), attention_mask=real.flatten())


def unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.norm()


def test_it_equals_a_loop_over_sequences_slots_and_tokens(block: SoftMoeBlock) -> None:
    hidden, real = states()
    actual = block(hidden, context(real))
    for b in range(B):
        tokens = [t for t in range(S) if real[b, t]]
        scores = torch.stack(
            [torch.stack([unit(hidden[b, t]) @ (block.scale * unit(slot)) for slot in block.slots]) for t in tokens]
        )
        dispatch, combine = scores.softmax(0), scores.softmax(1)
        answers = []
        for p in range(E * P):
            mixed = sum(dispatch[i, p] * hidden[b, t] for i, t in enumerate(tokens))
            answers.append(block.experts.expert_output(p // P, mixed[None])[0])
        for i, t in enumerate(tokens):
            expected = sum(combine[i, p] * answers[p] for p in range(E * P))
            torch.testing.assert_close(actual[b, t], expected, rtol=1e-10, atol=1e-12)


def test_rows_of_combine_and_columns_of_dispatch_sum_to_one(block: SoftMoeBlock) -> None:
    hidden, real = states()
    dispatch, combine = block.mixing(hidden, real)
    torch.testing.assert_close(dispatch.sum(1), torch.ones(B, E * P, dtype=torch.float64))
    torch.testing.assert_close(combine.sum(2), torch.ones(B, S, dtype=torch.float64))
    assert (dispatch[~real] == 0).all()


def test_padding_and_other_sequences_change_nothing_but_later_tokens_do(block: SoftMoeBlock) -> None:
    hidden, real = states()
    before = block(hidden, context(real))
    changed = hidden.clone()
    changed[~real] = 9.0
    torch.testing.assert_close(block(changed, context(real))[real], before[real], rtol=0, atol=1e-12)
    changed = hidden.clone()
    changed[0, -1] += 1
    after = block(changed, context(real))
    assert torch.equal(after[1:], before[1:]) and (after[0, 0] - before[0, 0]).abs().max() > 1e-6


def test_a_model_with_soft_routing_trains_and_reloads_but_does_not_generate(tmp_path) -> None:
    model = UniMoEForCausalLM(UniMoETextConfig(**TEXT, router_type="soft"))
    ids = torch.randint(0, 30, (2, 6))
    output = model(ids, labels=ids)
    output.loss.backward()
    assert set(output.losses) == {"language"}
    block = model.model.layers[0].mlp
    assert block.slots.grad.abs().max() > 0 and block.scale.grad.abs() > 0
    model.save_pretrained(tmp_path)
    loaded = UniMoEForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.eval()(ids).logits, model.eval()(ids).logits)
    with pytest.raises(ValueError, match="router_type='soft' cannot generate: every slot mixes all tokens"):
        model.generate(ids, max_new_tokens=2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ({"router_type": "expert_choice"}, "each expert chooses among all tokens"),
        ({"capacity_factor": 1.0}, "set it to None for generation"),
    ],
)
def test_routers_that_are_not_causal_train_but_do_not_generate(text, reason) -> None:
    model = UniMoEForCausalLM(UniMoETextConfig(**TEXT, **text))
    ids = torch.randint(0, 30, (2, 6))
    model(ids, labels=ids).loss.backward()
    assert model.model.layers[0].mlp.router.weight.grad.abs().max() > 0
    with pytest.raises(ValueError, match=reason):
        model.generate(ids, max_new_tokens=2)
    model.config.router_type, model.config.capacity_factor = "top_k", None
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape == (2, 8)
