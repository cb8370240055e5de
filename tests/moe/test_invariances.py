"""What a token may not depend on, for every causal router, modality mode, expert family and implementation."""

import itertools
from typing import Any, NamedTuple

import pytest
import torch
from moe.oracle import permitted_targets
from moe.router_checks import MODES, VOCABULARY, E, make_config, randomise
from pairwise import pairs_in_fast_tests
from torch import Tensor

from unimoe.errors import ConfigError
from unimoe.modeling.text import UniMoETextModel
from unimoe.moe import RoutingContext, SparseMoeBlock

GROUPED = {"n_group": 4, "topk_group": 2}
ROUTERS: dict[str, dict[str, Any]] = {
    "top_1": {"num_experts_per_tok": 1},
    "top_k_null": {"num_experts_per_tok": 3, "num_null_experts": 1},
    "top_k_joint_shared": {
        "num_null_experts": 1,
        "num_shared_experts": 2,
        "shared_expert_intermediate_size": 4,
        "shared_expert_weighting": "router",
    },
    "top_k_projected": {"num_experts_per_tok": 2, "router_modality_projection": True},
    "sigmoid_biased": {"num_experts_per_tok": 3, "scoring_func": "sigmoid", "balance_bias": True},
    "deepseek": {"num_experts_per_tok": 3, "scoring_func": "sigmoid", "balance_bias": True, **GROUPED},
    "noisy": {"router_type": "noisy_top_k", "num_experts_per_tok": 2},
    "hierarchical": {"router_type": "hierarchical", "num_experts_per_tok": 3, **GROUPED},
    "top_p_null": {"router_type": "top_p", "num_experts_per_tok": 5, "router_top_p": 0.7, "num_null_experts": 2},
    "near_tie": {
        "router_type": "top_p",
        "num_experts_per_tok": 5,
        "router_top_p": 0.7,
        "num_null_experts": 1,
        "combine_weights": "near_tie",
        "sparsemixer_epsilon": 0.2,
    },
    "hash": {"router_type": "hash", "num_experts_per_tok": 1},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "mlp": {},
    "lora": {"expert_type": "lora"},
    "latent": {"expert_type": "latent", "expert_latent_groups": 2},
    "mlp_of_two_widths": {"expert_group_intermediate_sizes": {"image": 8}},
}
# A size that only the weights of this family have, so that a family cannot be tested in the name of another.
SIZES = {"mlp": 12, "lora": 4, "latent": 20, "mlp_of_two_widths": 8}
IMPLEMENTATIONS = ("eager", "grouped_mm", "batched_mm")


def obstacle(name: str, mode: str, family: str) -> str | None:
    """What the configuration answers to a combination that cannot be; None if it can."""
    if family == "mlp_of_two_widths" and mode not in ("isolated", "semi_isolated"):
        return "expert_group_intermediate_sizes needs expert_groups"
    if name == "hash" and mode in ("bias", "separate"):
        return "has no router logits"
    return None


FACTORS = (ROUTERS, MODES, FAMILIES, IMPLEMENTATIONS)
CASES = pairs_in_fast_tests(*FACTORS, legal=lambda case: obstacle(*case[:3]) is None)

# New expert j is the old expert ORDER[j]. Pairs stay together (n_group), and so do halves (expert_latent_groups).
ORDER = [5, 4, 6, 7, 2, 3, 1, 0]
GROUP_ORDER = [ORDER[2 * group] // 2 for group in range(4)]
LATENT_ORDER = [ORDER[4 * half] // 4 for half in range(2)]


class Batch(NamedTuple):
    """Tokens (B, S); each id belongs to one modality."""

    input_ids: Tensor
    modality_ids: Tensor

    def rows(self, index: Any) -> "Batch":
        return Batch(self.input_ids[index], self.modality_ids[index])


def make_batch(rows: int = 3, length: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(7)
    modality_ids = torch.randint(0, 5, (rows, length), generator=generator)
    return Batch(modality_ids * 6 + torch.randint(0, 6, (rows, length), generator=generator), modality_ids)


def make_model(name: str, mode: str, family: str, **fields: Any) -> UniMoETextModel:
    config = make_config(mode, num_hidden_layers=2, **{**ROUTERS[name], **FAMILIES[family], **fields})
    return randomise(UniMoETextModel(config))  # type: ignore[return-value]


@torch.no_grad()
def run(model: UniMoETextModel, batch: Batch, **inputs: Any) -> Tensor:
    """Hidden states of the last layer, (B, S, D)."""
    inputs = {"mm_token_type_ids": batch.modality_ids, **inputs}
    return model(batch.input_ids, **inputs).last_hidden_state


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


def check_batch_mates(model: UniMoETextModel, batch: Batch) -> None:
    """A sequence alone, and the sequences in another order."""
    expected = run(model, batch)
    assert_same(run(model, batch.rows(slice(1, 2))), expected[1:2])
    assert_same(run(model, batch.rows([2, 0, 1])), expected[[2, 0, 1]])


def check_padding(model: UniMoETextModel, batch: Batch) -> None:
    """Padding behind the tokens, and in front of them."""
    expected, length = run(model, batch), batch.input_ids.shape[1]
    behind = Batch(*(torch.nn.functional.pad(x, (0, 3)) for x in batch))
    mask = torch.tensor([[1] * length + [0] * 3] * len(expected))
    assert_same(run(model, behind, attention_mask=mask)[:, :length], expected)
    front = Batch(*(torch.nn.functional.pad(x, (3, 0)) for x in batch))
    positions = torch.tensor([[0, 0, 0, *range(length)]])
    assert_same(run(model, front, attention_mask=mask.flip(-1), position_ids=positions)[:, 3:], expected)


@torch.no_grad()
def check_steps(model: UniMoETextModel, batch: Batch) -> None:
    """The first tokens at once, then one token at a time."""
    length = batch.input_ids.shape[1]
    cache, steps = None, []
    for step in (slice(0, length - 2), slice(length - 2, length - 1), slice(length - 1, length)):
        output = model(
            batch.input_ids[:, step],
            mm_token_type_ids=batch.modality_ids[:, step],
            cache=cache,
            use_cache=True,
        )
        cache = output.cache
        steps.append(output.last_hidden_state)
    assert_same(torch.cat(steps, dim=1), run(model, batch))


@torch.no_grad()
def check_token_order(model: UniMoETextModel, batch: Batch) -> None:
    """Tokens of a sparse layer in another order, and fewer of them."""
    block: SparseMoeBlock = model.layers[0].mlp
    hidden = model.embed_tokens(batch.input_ids).flatten(0, 1)
    modalities, ids = batch.modality_ids.flatten(), batch.input_ids.flatten()
    expected = block(hidden[None], RoutingContext(modalities, ids))[0]
    order = torch.randperm(len(hidden), generator=torch.Generator().manual_seed(1))
    for some in (order, order[:4]):
        assert_same(block(hidden[some][None], RoutingContext(modalities[some], ids[some]))[0], expected[some])


@torch.no_grad()
def with_experts_in_another_order(model: UniMoETextModel) -> UniMoETextModel:
    """The same function: experts, router rows and groups permuted together."""
    config = model.config
    groups = {
        key: [new for new, old in enumerate(ORDER) if old in members]
        for key, members in (config.expert_groups or {}).items()
    }
    other = UniMoETextModel(type(config)(**{**config.to_dict(), "expert_groups": groups or None})).eval()
    other.load_state_dict({name: _permuted(name, value, config) for name, value in model.state_dict().items()})
    for ours, theirs in zip(model.layers, other.layers, strict=True):
        if config.router_type == "hash":
            theirs.mlp.router.table.copy_(_permuted_table(ours.mlp.router.table, config, other.config))
    return other


def _permuted(name: str, value: Tensor, config: Any) -> Tensor:
    parameter = name.rsplit(".", 1)[-1]
    if ".mlp.experts.banks." in name:
        return value[_order_of_group(int(name.split(".banks.")[1][0]), config)]
    if ".mlp.experts." in name:
        orders = {E: ORDER, config.expert_latent_groups: LATENT_ORDER}
        return value[orders[len(value)]] if len(value) in orders else value
    if ".mlp.router." not in name or parameter in ("projection", "table"):
        return value
    if parameter == "group_weight":
        return value[..., GROUP_ORDER, :]
    axis = value.dim() - 1 if parameter.endswith("bias") else value.dim() - 2  # the targets
    order = torch.tensor([*ORDER, *range(E, value.shape[axis])])
    return value.index_select(axis, order)


def _order_of_group(group: int, config: Any) -> list[int]:
    widths = config.expert_widths()
    width = sorted(set(widths))[group]
    members = [expert for expert in range(E) if widths[expert] == width]
    return [members.index(old) for old in ORDER if old in members]


def _permuted_table(table: Tensor, config: Any, other: Any) -> Tensor:
    entries = []
    for token_id, entry in enumerate(table.tolist()):
        ours, theirs = (permitted_targets(c, token_id // 6) for c in (config, other))
        entries.append(theirs.index(ORDER.index(ours[entry % len(ours)])))
    return torch.tensor(entries)


@pytest.mark.parametrize(("name", "mode", "family", "implementation"), CASES)
def test_a_token_depends_on_itself_alone(name: str, mode: str, family: str, implementation: str) -> None:
    model, batch = make_model(name, mode, family), make_batch()
    assert SIZES[family] in {size for p in model.layers[0].mlp.experts.parameters() for size in p.shape}
    other = with_experts_in_another_order(model)
    model.set_experts_implementation("eager")
    eager = run(model, batch)
    for each in (model, other):
        each.set_experts_implementation(implementation)
        assert_same(run(each, batch), eager)
    for check in (check_batch_mates, check_padding, check_steps, check_token_order):
        check(model, batch)


def test_combinations_that_cannot_be_are_refused() -> None:
    for case in itertools.product(ROUTERS, MODES, FAMILIES):
        if problem := obstacle(*case):
            with pytest.raises(ConfigError, match=problem):
                make_model(*case)


def test_the_combinations_are_counted() -> None:
    print(f"{len(CASES)} combinations of router, modality mode, family and implementation")
    assert len(CASES) >= ((11 * 5 - 2) * 3 + 11 * 2) * 3 == 543
    assert VOCABULARY == 5 * 6


# The checks can fail: routers that choose among tokens do not have these properties, and say so.


@pytest.mark.parametrize("fields", [{"router_type": "expert_choice"}, {"capacity_factor": 0.5}])
def test_routers_that_choose_among_tokens_depend_on_the_batch(fields: dict[str, Any]) -> None:
    model = make_model("top_1", "shared", "mlp", **fields)
    assert model.config.generation_obstacle
    for check in (check_batch_mates, check_steps, check_token_order):
        with pytest.raises(AssertionError):
            check(model, make_batch())
    check_padding(model, make_batch())


def test_soft_routing_depends_on_later_tokens_but_not_on_other_sequences() -> None:
    model = make_model("top_1", "shared", "mlp", router_type="soft")
    assert model.config.generation_obstacle
    check_batch_mates(model, make_batch())
    check_padding(model, make_batch())
    with pytest.raises(AssertionError):
        check_steps(model, make_batch())
