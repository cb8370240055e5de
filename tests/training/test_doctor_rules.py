"""Each finding follows from the facts that it is about, alone: what another one explains is not said twice."""

from dataclasses import replace

import pytest
import torch

from training.config.train import TrainConfig
from training.doctor.facts import LayerFacts, MixtureFacts, own_experts, training_load
from training.doctor.findings import KINDS
from training.doctor.gradients import _by_expert
from training.doctor.load import busiest_process
from training.doctor.rules import find, is_healthy
from training.monitor.mixture import expert_distances, experts_moved, router_moved, take_snapshot
from unimoe import UniMoETextConfig
from unimoe.moe import SparseMoeBlock
from unimoe.surgery import Certificate

LOAD = {"text": [300, 200, 260, 240], "image": [90, 110, 80, 120]}


def text_config(**values):
    return UniMoETextConfig(num_hidden_layers=2, num_experts=values.pop("num_experts", 4), **values)


def layer(number=0, **values):
    healthy = {
        "router_trains": True,
        "experts_train": True,
        "distances": 1.0 - torch.eye(4, dtype=torch.float64),
        "experts_moved": [0.1, 0.2, 0.1, 0.1],
        "router_moved": 0.05,
        "router_gradient": 0.03,
        "experts_gradient": 0.3,
        "unread": [],
        "load": LOAD,
        "first_load": LOAD,
    }
    return LayerFacts(number, **{**healthy, **values})


def facts(text=None, *, layers=None, **values):
    healthy = {
        "own": {},
        "encoders": ["image"],
        "present": {"text", "image"},
        "shares": {"parameters": 0.4, "active": 0.3},
        "gradients": None,
        "load_of": "steps 1 to 9",
        "processes": 1,
        "missing": (),
    }
    return MixtureFacts(text or text_config(), layers or [layer(0), layer(1)], **{**healthy, **values})


def copies(size=4):
    return torch.zeros(size, size, dtype=torch.float64)


def of(text=None, **changes):
    """Facts in which the second layer differs."""
    return facts(text, layers=[layer(0), layer(1, **changes)])


def alone(*counts, key="text"):
    return {"load": {key: list(counts)}}


GROUPS = {"text": [0, 1], "image": [2, 3]}
SINGLE = {"text": [0], "image": [1], "audio": [2], "speech": [3]}
PAIR = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]).double()
CASES = {
    "experts_identical": of(distances=copies(), router_gradient=1e-9),
    "weight_of_one": of(text_config(num_experts_per_tok=1, norm_topk_prob=True), router_gradient=0.0),
    "router_without_gradient": of(router_gradient=1e-9),
    "collapse": of(**alone(990, 990, 10, 10)),
    "modality_without_expert": facts(
        text_config(num_null_experts=1),
        layers=[layer(load={"text": [300, 200, 260, 240, 9], "image": [0, 0, 0, 0, 400]})],
    ),
    "router_frozen": of(router_trains=False, router_moved=0.0),
    "experts_frozen": of(experts_train=False, experts_moved=[0.0] * 4),
    "router_still": of(router_moved=1e-6),
    "experts_still": of(experts_moved=[1e-6, 0.0, 1e-7, 1e-6]),
    "experts_alike": of(distances=PAIR),
    "modality_absent": facts(own={"image": [1], "speech": [2, 3]}),
    "group_without_tokens": facts(
        own={"image": [2, 3]}, layers=[layer(load={"text": [100, 100, 300, 300], "image": [200, 200, 0, 1]})]
    ),
    "dead_experts": of(**alone(400, 300, 300, 0)),
    "uneven_processes": facts(layers=[layer(load={"text": [700, 500, 100, 100]})], processes=2, encoders=[]),
    "few_routed_parameters": facts(shares={"parameters": 0.2, "active": 0.02}),
    "modality_unseen": facts(encoders=["image", "speech"]),
    "experts_unread": of(unread=[2, 3]),
    "no_choice": facts(
        text_config(modality_routing="isolated", expert_groups=SINGLE),
        layers=[layer(router_gradient=0.0, load={"text": [900, 0, 0, 0], "image": [0, 900, 0, 0]})],
    ),
}


def names(found):
    return [finding.name for finding in find(found)]


def test_a_healthy_mixture_has_no_finding():
    assert find(facts()) == []


@pytest.mark.parametrize("name", KINDS)
def test_each_finding_stands_alone_with_a_number_and_a_cure(name):
    [finding] = find(CASES[name])
    assert finding.name == name and any(letter.isdigit() for letter in finding.measured + str(finding.value))
    assert finding.as_json()["cure"] == KINDS[name].cure and "`" in finding.kind.cure
    assert is_healthy([finding]) == (finding.kind.severity == "note")


def test_every_finding_says_in_which_layers_it_is_so():
    assert find(CASES["collapse"])[0].where == " in layer 1"
    found = find(facts(layers=[layer(number, router_trains=False) for number in (0, 1, 2, 5)]))
    assert found[0].where == " in layers 0-2, 5"


def test_the_gravest_comes_first():
    found = of(distances=copies(), router_trains=False, **alone(0, 999, 999, 0))
    severities = [finding.kind.severity for finding in find(found)]
    assert severities == sorted(severities, key=["problem", "warning", "note"].index) and len(severities) == 3


# Three reasons for a router without a gradient, told apart


def test_a_frozen_router_says_what_its_gradient_would_be_and_is_no_router_without_gradient():
    [finding] = find(of(router_trains=False))
    assert finding.name == "router_frozen" and "would be 0.03" in finding.measured


def test_identical_experts_and_a_weight_of_one_explain_a_router_without_gradient():
    assert names(of(distances=copies(), router_gradient=0.0)) == ["experts_identical"]
    one = text_config(num_experts_per_tok=1, norm_topk_prob=True)
    assert names(of(one, router_gradient=0.0)) == ["weight_of_one"]
    assert names(of(text_config(num_experts_per_tok=1), router_gradient=0.0)) == ["router_without_gradient"]


@pytest.mark.parametrize("gradient", ["straight_through", "dense"])
def test_an_estimator_teaches_a_router_whose_weight_is_one(gradient):
    assert names(of(text_config(num_experts_per_tok=1, norm_topk_prob=True, router_gradient=gradient))) == []


def test_a_hash_router_learns_nothing_by_design():
    text = text_config(router_type="hash", num_experts_per_tok=1)
    assert names(of(text, router_trains=False, router_gradient=None, router_moved=None)) == []


def test_what_was_not_examined_is_not_found():
    unknown = {"router_gradient": None, "experts_gradient": None, "router_moved": None, "experts_moved": None}
    assert find(of(**unknown, load={}, first_load={})) == []


# Load


@pytest.mark.parametrize("key", ["text", "image"])
def test_each_isolated_group_is_judged_by_itself(key):
    text = text_config(modality_routing="isolated", expert_groups=GROUPS, num_experts_per_tok=1)
    load = {"text": [500, 500, 0, 0], "image": [0, 0, 500, 500]}
    assert names(of(text, load=load)) == []
    load[key] = [1000 if expert == GROUPS[key][0] else 0 for expert in range(4)]
    assert names(of(text, load=load)) == ["collapse"]


def test_a_collapse_explains_its_dead_experts_and_says_what_it_was_at_first():
    text = text_config(num_experts_per_tok=1, router_aux_loss_coef=0.0)
    [finding] = find(of(text, **alone(999, 1, 0, 0)))
    assert finding.name == "collapse" and "100% of the tokens' choices, at first" in finding.measured
    assert "balance coefficient 0)" in finding.measured


def test_few_tokens_are_no_evidence():
    assert names(of(**alone(40, 40, 40, 0))) == [] and names(of(**alone(90, 90, 0, 0))) == []


def test_an_absent_modality_explains_the_experts_of_its_group():
    text = text_config(modality_routing="isolated", expert_groups=GROUPS)
    found = facts(text, layers=[layer(**alone(500, 500, 0, 0))], own=GROUPS, present={"text"}, encoders=["image"])
    assert [(finding.name, finding.modality) for finding in find(found)] == [("modality_absent", "image")]


def test_films_count_as_tokens_of_the_pictures_group():
    found = facts(own={"image": [2, 3]}, layers=[layer(load={"text": [9, 9, 9, 9], "video": [10, 10, 300, 300]})])
    assert names(found) == []


def test_experts_that_choose_may_leave_a_modality_out():
    text = text_config(router_type="expert_choice")
    found = facts(text, layers=[layer(load={"text": [300, 200, 260, 240]})])
    assert names(found) == ["modality_without_expert"]


def test_the_busiest_process_has_the_tokens_of_neighbouring_experts():
    shared = facts(processes=2)
    assert busiest_process(shared, layer(load={"text": [3, 3, 1, 1]})) == pytest.approx(1.5)
    assert busiest_process(shared, layer(load={})) == 1.0


def test_the_load_of_a_training_is_that_of_its_second_half():
    logs = [{"step": step, "load": {"text": [[step, 0]]}} for step in (2, 4, 6, 8)]
    late, first, words = training_load([*logs, {"step": 8, "eval_loss": 1.0}])
    assert (late, first, words) == ([{"text": [14, 0]}], [{"text": [2, 0]}], "steps 5 to 8")
    assert training_load([{"step": 1, "train_loss": 1.0}]) == ([], [], "")


def test_own_experts_are_those_of_a_group_or_of_specialists():
    assert own_experts(text_config(modality_routing="isolated", expert_groups=GROUPS), None) == GROUPS
    made = Certificate("assemble", "exact", "", 0.0, {"expert_order": ["base", "image", "image", "speech"]})
    assert own_experts(text_config(), made) == {"image": [1, 2], "speech": [3]}
    assert own_experts(text_config(), None) == {}
    reserved = {"image": [2], "task_ocr": [3]}
    assert own_experts(text_config(reserved_experts=reserved), None) == {"image": [2]}


# What is measured of weights


class Decoder(torch.nn.Module):
    """Two sparse layers, as a model has them."""

    def __init__(self, **values):
        super().__init__()
        self.config = UniMoETextConfig(hidden_size=16, intermediate_size=24, num_experts=3, **values)
        blocks = [SparseMoeBlock(self.config) for _ in range(2)]
        self.layers = torch.nn.ModuleList(torch.nn.ModuleDict({"mlp": block}) for block in blocks)
        for layer in self.layers:
            layer.mlp = layer["mlp"]
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.2)

    def get_decoder(self):
        return self


@pytest.mark.parametrize("family", ["mlp", "lora", "latent"])
def test_copies_have_no_distance_and_what_moved_is_told_by_expert(family):
    torch.manual_seed(0)
    model = Decoder(expert_type=family, expert_rank=4, expert_latent_size=8)
    before = take_snapshot(model)
    own = [
        each for name, each in model.layers[1].mlp.experts.named_parameters() if len(each) == 3 and "base" not in name
    ]
    with torch.no_grad():
        for parameter in own:
            parameter[2] = parameter[0]
    after = take_snapshot(model)
    distances = expert_distances(after.answers[1])
    assert distances[0, 2] == 0 and distances[0, 1] > 0.1 and (distances == distances.T).all()
    moved = experts_moved(before.answers[1], after.answers[1])
    assert moved[0] == moved[1] == 0 and moved[2] > 0.1
    assert router_moved(before.routers[1], after.routers[1]) == 0
    assert torch.equal(before.answers[0], after.answers[0])


def test_a_merged_expert_tells_its_gradient_for_every_one_that_it_answers_for():
    block = SparseMoeBlock(UniMoETextConfig(hidden_size=16, intermediate_size=24, num_experts=3), aliases=[1, 0, 1])
    block.experts.down_proj.grad = torch.zeros_like(block.experts.down_proj)
    block.experts.down_proj.grad[1, 0, 0] = 2.0
    assert _by_expert(block) == [2.0, 0.0, 2.0]


def test_looking_at_a_mixture_draws_no_number():
    model = Decoder()
    state = torch.get_rng_state()
    take_snapshot(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_part_trains_whole_or_by_lora_in_the_layers_that_are_named():
    from training.doctor.facts import part_trains

    train = TrainConfig(parts=["router"], lora={"parts": ["experts"]}, layers=[1])
    assert [part_trains(part, 1, train) for part in ("router", "experts", "mlp")] == [True, True, False]
    assert not part_trains("router", 0, train)


def test_facts_of_json_hold_what_the_rules_read():
    values = replace(facts(), processes=2).as_json()
    assert values["layers"][0]["largest_share"] == pytest.approx(390 / 1400)
    assert values["layers"][1]["distances"] == {"least": 1.0, "mean": 1.0, "largest": 1.0}
