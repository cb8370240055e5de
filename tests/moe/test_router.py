"""The router against a per-token loop, and what each modality mode promises."""

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch

from unimoe import Modality, UniMoEForCausalLM, UniMoETextConfig
from unimoe.moe import Router, RoutingContext, build_router, load_balancing_loss
from unimoe.moe.routers.build import ROUTERS
from unimoe.moe.routers.features import JointWeighing, LimitedCapacity, NearTieWeights, PreparedInput
from unimoe.moe.routers.top_k import SparseMixerRouter, TopKRouter

T, D, E = 40, 16, 5
NEAR_TIE = {"combine_weights": "near_tie"}


def make_router(**text: Any) -> Router:
    config = UniMoETextConfig(**{"hidden_size": D, "num_attention_heads": 2, "num_experts": E, **text})
    router = build_router(config)
    torch.manual_seed(0)
    torch.nn.init.normal_(router.weight)
    return router


def tokens(seed: int = 1) -> tuple[torch.Tensor, RoutingContext]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(T, D, generator=generator),
        RoutingContext(torch.randint(0, 5, (T,), generator=generator)),
    )


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("nulls", [0, 2])
def test_router_equals_a_loop_over_tokens(renormalise: bool, nulls: int) -> None:
    router = make_router(norm_topk_prob=renormalise, num_null_experts=nulls, num_experts_per_tok=3)
    hidden, context = tokens()
    logits, weights, index, record = router(hidden, context)[:4]
    mask = record.expert_mask
    for t in range(T):
        p = (router.weight @ hidden[t]).softmax(-1).detach()
        chosen = sorted(range(E + nulls), key=lambda e: -float(p[e]))[:3]
        total = sum(float(p[e]) for e in chosen) if renormalise else 1.0
        expected = {e: float(p[e]) / total for e in chosen if e < E}
        actual = {int(e): float(w) for e, w in zip(index[t], weights[t].detach(), strict=True) if e < E}
        assert actual == pytest.approx(expected, abs=1e-6)
        assert mask[t].nonzero().flatten().tolist() == sorted(chosen)
        assert float(weights.detach()[t][index[t] == E].abs().sum()) == 0.0
    assert logits.shape == (T, E + nulls)


def test_without_renormalisation_weights_sum_to_less_than_one() -> None:
    weights = make_router(norm_topk_prob=False)(*tokens()).top_k_weights
    assert float(weights.sum(-1).detach().max()) < 1


def test_isolated_tokens_use_only_their_group() -> None:
    groups = {"text": [0, 1], "image": [2, 3, 4]}
    router = make_router(modality_routing="isolated", expert_groups=groups)
    hidden, context = tokens()
    index = router(hidden, context).top_k_index
    for modality in (Modality.TEXT, Modality.IMAGE):
        assert set(index[context.modality_ids == modality].unique().tolist()) <= set(groups[modality.key])


def test_isolated_experts_of_one_modality_cannot_change_the_others_bit_for_bit() -> None:
    router = make_router(modality_routing="isolated", expert_groups={"text": [0, 1], "image": [2, 3, 4]})
    hidden, context = tokens()
    text = context.modality_ids == Modality.TEXT
    before = [value[text] for value in router(hidden, context)[1:3]]
    with torch.no_grad():
        router.weight[2:] += 3.0
    after = [value[text] for value in router(hidden, context)[1:3]]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_modality_bias_of_zero_is_the_shared_router() -> None:
    hidden, context = tokens()
    shared, bias = make_router(), make_router(modality_routing="bias")
    assert torch.equal(shared(hidden, context)[1], bias(hidden, context)[1])


def test_modality_bias_moves_only_its_modality() -> None:
    router = make_router(modality_routing="bias", num_experts_per_tok=1)
    hidden, context = tokens()
    before = router(hidden, context)[2]
    with torch.no_grad():
        router.modality_bias[Modality.SPEECH, 3] = 100.0
    after = router(hidden, context)[2]
    speech = context.modality_ids == Modality.SPEECH
    assert (after[speech] == 3).all()
    assert torch.equal(before[~speech], after[~speech])


def test_top_1_without_renormalisation_has_a_router_gradient() -> None:
    router = make_router(num_experts_per_tok=1, norm_topk_prob=False)
    router(*tokens())[1].sum().backward()
    assert router.weight.grad.abs().sum() > 0


def test_routing_of_bfloat16_states_is_decided_in_float32() -> None:
    router = make_router()
    hidden, context = tokens()
    hidden = hidden.bfloat16()
    logits, weights, index = router(hidden, context)[:3]
    assert logits.dtype == torch.float32 and weights.dtype == torch.bfloat16
    assert torch.equal(index, router(hidden.float(), context)[2])


def test_routing_and_losses_are_float32_under_autocast() -> None:
    router = make_router()
    hidden, context = tokens()
    expected = router(hidden.bfloat16(), context)
    loss = load_balancing_loss(expected.record.router_probs, expected.record.expert_mask, torch.ones(T, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = router(hidden.bfloat16(), context)
        assert torch.equal(
            load_balancing_loss(actual.record.router_probs, actual.record.expert_mask, torch.ones(T, 1)), loss
        )
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[2], expected[2])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ({"num_experts_per_tok": 6}, "num_experts_per_tok"),
        ({"modality_routing": "isolated"}, "needs expert_groups"),
        ({"modality_routing": "isolated", "expert_groups": {"image": [0, 1, 2, 3, 4]}}, "needs a group for 'text'"),
        (
            {"modality_routing": "isolated", "expert_groups": {"text": [0], "image": [1]}},
            r"experts \[2, 3, 4\] are in no",
        ),
        ({"modality_routing": "isolated", "expert_groups": {"text": [0, 1, 2], "image": [2, 3, 4]}}, "overlap"),
        ({"modality_routing": "semi_isolated", "expert_groups": {"text": [0, 1, 2, 3, 4]}}, "needs such experts"),
        ({"router_type": "hash"}, "gives each token one expert"),
        ({"router_type": "hierarchical"}, "needs n_group > 1"),
        ({"n_group": 2}, r"n_group \(2\) does not divide the 5 experts"),
        ({"null_experts_keep_mass": False, "norm_topk_prob": False}, "renormalises over the real experts"),
        ({"router_losses": {"loads": 1.0}}, "no loss 'loads'"),
        ({"router_gradient": "sparsemixer", "balance_bias": True}, "samples from one softmax"),
        ({"combine_weights": "near_ties"}, "combine_weights"),
        ({**NEAR_TIE, "router_type": "noisy_top_k"}, "needs router_type top_k or top_p"),
        ({**NEAR_TIE, "router_type": "expert_choice"}, "needs router_type top_k or top_p"),
        ({**NEAR_TIE, "scoring_func": "sigmoid"}, "needs router_type top_k or top_p, scoring_func softmax"),
        ({**NEAR_TIE, "balance_bias": True}, "no balance_bias and no groups"),
        ({**NEAR_TIE, "num_experts": 4, "n_group": 2}, "no balance_bias and no groups"),
        ({**NEAR_TIE, "norm_topk_prob": False}, "nulls too; set norm_topk_prob=True"),
        ({**NEAR_TIE, "num_experts_per_tok": 1}, "nulls too; set norm_topk_prob=True"),
        ({**NEAR_TIE, "null_experts_keep_mass": False}, "null_experts_keep_mass=True"),
        ({**NEAR_TIE, "router_gradient": "sparsemixer"}, "router_gradient is 'sparsemixer', set it to 'plain'"),
        ({"sparsemixer_epsilon": -0.01}, "sparsemixer_epsilon is -0.01; it cannot be negative"),
        ({"modality_routing": "isolated", "expert_groups": {"smell": [0, 1]}}, "Unknown modality 'smell'"),
        ({"modality_routing": "isolated", "expert_groups": {"image": [0, 9]}}, "goes beyond the 5 experts"),
        ({"expert_groups": {"image": [0, 1]}}, "needs modality_routing='isolated'"),
    ],
)
def test_impossible_routing_is_refused(text: dict[str, Any], problem: str) -> None:
    with pytest.raises(Exception, match=problem):
        make_router(**text)


def test_a_hash_table_survives_loading_in_bfloat16(tmp_path) -> None:
    text = {"hidden_size": D, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 50}
    model = UniMoEForCausalLM(UniMoETextConfig(**text, num_experts=7, router_type="hash", num_experts_per_tok=1))
    model.save_pretrained(tmp_path)
    ids = torch.arange(50)
    context = RoutingContext(torch.zeros(50, dtype=torch.long), token_ids=ids)
    index = []
    for dtype in (torch.float32, torch.bfloat16):
        loaded = UniMoEForCausalLM.from_pretrained(tmp_path, dtype=dtype)
        index.append(loaded.model.layers[0].mlp.router(torch.zeros(50, D, dtype=dtype), context).top_k_index)
    assert torch.equal(*index) and len(index[0].unique()) == 7


def test_top_k_reads_in_one_pass_and_enters_no_override() -> None:
    steps = ["score", "restrict", "normalise", "select", "weigh", "output"]
    source = inspect.getsource(TopKRouter.forward)
    order = [source.index(f"self.{step}(") for step in steps]
    assert order == sorted(order)
    assert len(source.splitlines()) <= 40
    kinds = {*ROUTERS.values(), SparseMixerRouter, PreparedInput, LimitedCapacity, JointWeighing, NearTieWeights}
    for kind in kinds - {TopKRouter}:
        assert not set(steps) & vars(kind).keys(), kind


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda router: pickle.loads(pickle.dumps(router))])
def test_a_router_put_together_from_features_can_be_copied(copied: Any) -> None:
    joint = {"num_shared_experts": 2, "shared_expert_intermediate_size": 4, "shared_expert_weighting": "router"}
    router = make_router(capacity_factor=1.0, router_modality_projection=True, **joint)
    torch.nn.init.normal_(router.projection)
    twin = copied(router)
    assert type(twin) is type(router)
    hidden, context = tokens()
    for ours, theirs in zip(router(hidden, context)[:3], twin(hidden, context)[:3], strict=True):
        assert torch.equal(ours, theirs)
