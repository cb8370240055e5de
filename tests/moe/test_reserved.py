"""Experts that one modality alone may choose: where tokens go, what they get, and that others get what they got."""

import json
from typing import Any

import pytest
import torch
from moe.router_checks import MODES, E, arrays, check_parity, make_config, make_router, make_tokens, randomise

from unimoe import Modality, UniMoEForCausalLM, UniMoETextConfig
from unimoe.errors import ConfigError
from unimoe.moe import RoutingContext, SparseMoeBlock
from unimoe.moe.counting import count_parameters, count_per_token
from unimoe.moe.routers.selection import score_apart
from unimoe.moe.tasks import set_task, task_on

RESERVED = {"speech": [5, 6], "image": [7]}
GROUPS = {"isolated": {"text": [0, 1, 2], "image": [3, 4]}, "semi_isolated": {"text": [0, 1], "image": [2]}}
ROUTERS: dict[str, dict[str, Any]] = {
    "top_k": {"num_experts_per_tok": 3},
    "nulls": {"num_experts_per_tok": 3, "num_null_experts": 2, "null_experts_keep_mass": False},
    "top_p": {"router_type": "top_p", "num_experts_per_tok": 5, "router_top_p": 0.7, "num_null_experts": 1},
    "sigmoid_biased": {"num_experts_per_tok": 3, "scoring_func": "sigmoid", "balance_bias": True},
    "biased_by_modality": {"num_experts_per_tok": 2, "balance_bias": True, "router_aux_loss_scope": "modality"},
    "near_tie": {"num_experts_per_tok": 3, "combine_weights": "near_tie", "sparsemixer_epsilon": 0.1},
    "joint_shared": {
        "num_null_experts": 1,
        "num_shared_experts": 2,
        "shared_expert_intermediate_size": 4,
        "shared_expert_weighting": "router",
    },
    "projected": {"router_modality_projection": True},
}


def reserving(mode: str = "shared", reserved: Any = RESERVED, **fields: Any) -> UniMoETextConfig:
    return make_config(mode, expert_groups=GROUPS.get(mode), reserved_experts=reserved, **fields)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ROUTERS)
def test_reserved_experts_are_routed_as_the_oracle_says(name: str, mode: str) -> None:
    config = reserving(mode, **ROUTERS[name])
    router = make_router(config)
    check_parity(router, config, arrays(router), tokens=make_tokens(40))


WITH_TASKS = {"task_ocr": [5], "speech": [6], "task_asr": [7]}


@pytest.mark.parametrize("task", [None, "ocr", "asr"])
@pytest.mark.parametrize("name", ROUTERS)
def test_experts_of_a_task_are_routed_as_the_oracle_says_beside_those_of_a_modality(name: str, task: Any) -> None:
    config = reserving("bias", WITH_TASKS, **ROUTERS[name])
    router = make_router(config)
    set_task(router, task)
    check_parity(router, config, arrays(router), tokens=make_tokens(40))


def test_a_task_is_on_in_its_block_and_saved_with_no_model(tmp_path: Any) -> None:
    model = model_of(reserving("bias", WITH_TASKS, num_experts_per_tok=4, moe_intermediate_size=16))
    ids, kinds = torch.arange(12)[None], torch.tensor([[0, 1, 2, 3, 4, 4] * 2])

    def answers(model: Any) -> Any:
        with torch.no_grad():
            return model(input_ids=ids, mm_token_type_ids=kinds).logits

    off = answers(model)
    with pytest.raises(KeyError), task_on(model, "ocr"):
        on = answers(model)
        with task_on(model, "asr"):
            assert not torch.equal(answers(model), on)
        assert torch.equal(answers(model), on) and not torch.equal(off, on)
        model.save_pretrained(tmp_path)
        raise KeyError
    assert torch.equal(answers(model), off)
    loaded = UniMoEForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(answers(loaded), off)
    set_task(loaded, "ocr")
    assert torch.equal(answers(loaded), on)
    assert "active_task" not in (tmp_path / "config.json").read_text()


def test_a_task_without_experts_is_refused() -> None:
    block = SparseMoeBlock(reserving(reserved=WITH_TASKS))
    with pytest.raises(ConfigError, match=r"no experts reserved for 'vqa'\. Choose from its tasks: ocr, asr"):
        set_task(block, "vqa")


def without_reserved(block: SparseMoeBlock, number: int = 5, reserved: Any = None) -> SparseMoeBlock:
    """The block before it had any, or fewer: the same weights, without those of the last experts."""
    fields = {**block.config.to_dict(), "num_experts": number, "reserved_experts": reserved}
    old = SparseMoeBlock(UniMoETextConfig(**fields)).eval()
    state = block.state_dict()
    for name, value in old.state_dict().items():
        whole = state[name]
        if name == "router.balance_bias":
            whole = torch.cat([whole[..., :number], whole[..., E:]], dim=-1)
        value.copy_(whole)
    return old


@pytest.mark.parametrize(
    ("name", "mode", "implementation"),
    [
        *((name, mode, "eager") for name in ROUTERS for mode in MODES),
        ("top_k", "shared", "grouped_mm"),
        ("top_k", "shared", "batched_mm"),
    ],
)
def test_other_modalities_get_the_same_bits_as_without(name: str, mode: str, implementation: str) -> None:
    block: Any = randomise(SparseMoeBlock(reserving(mode, **ROUTERS[name])))
    block.config._experts_implementation = implementation
    old = without_reserved(block)
    old.config._experts_implementation = implementation
    hidden, context = make_tokens(64)
    others = (context.modality_ids == Modality.TEXT) | (context.modality_ids == Modality.AUDIO)
    hidden, context = hidden.float()[None, others], RoutingContext(context.modality_ids[others])
    with torch.no_grad():
        ours, theirs = block(hidden, context), old(hidden, context)
    if name == "near_tie":  # whose softmax over ties sums up closed targets too, in another order
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * float(theirs.abs().max()))
    else:
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ROUTERS)
def test_a_task_gets_the_same_bits_as_without_other_tasks(name: str) -> None:
    both: Any = randomise(SparseMoeBlock(reserving("bias", {"task_ocr": [5, 6], "task_asr": [7]}, **ROUTERS[name])))
    one = without_reserved(both, 7, {"task_ocr": [5, 6]})
    hidden, context = make_tokens(64)
    with torch.no_grad(), task_on(both, "ocr"), task_on(one, "ocr"):
        ours, theirs = (block(hidden.float()[None], context) for block in (both, one))
    tolerance = 1e-6 * float(theirs.abs().max()) if name == "near_tie" else 0.0
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("width", [2, 7, 17, 30])
@pytest.mark.parametrize("number", [1, 8, 16])
def test_no_bit_of_a_score_depends_on_how_many_experts_are_reserved_for_others(width: int, number: int) -> None:
    logits = torch.randn(64, width + 1, generator=torch.Generator().manual_seed(width)) * 3
    closed = [torch.full((64, number), -torch.inf), torch.full((64, 3), -torch.inf)]
    for score in (lambda x: x.softmax(dim=-1), torch.sigmoid):
        scores = score_apart(score, logits[:, :width], closed, logits[:, width:])
        assert torch.equal(torch.cat([scores[:, :width], scores[:, -1:]], dim=-1), score(logits))


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_a_token_gets_the_weighted_sum_of_reserved_and_other_experts(implementation: str) -> None:
    block: Any = randomise(SparseMoeBlock(reserving(num_experts_per_tok=3)))
    block.config._experts_implementation = implementation
    hidden, context = make_tokens(40)
    hidden = hidden.float()
    routing = block.router(hidden, context)
    outputs = torch.stack(
        [stack.expert_output(e, hidden) for stack in block.expert_stacks for e in range(stack.num_experts)]
    )
    expected = (outputs[routing.top_k_index.T, torch.arange(40)] * routing.top_k_weights.T[..., None]).sum(dim=0)
    torch.testing.assert_close(block(hidden[None], context)[0], expected, atol=1e-5, rtol=1e-5)
    chosen = {m: set(routing.top_k_index[context.modality_ids == m].flatten().tolist()) for m in Modality}
    assert {5, 6} <= chosen[Modality.SPEECH] and 7 in chosen[Modality.VIDEO]
    assert not chosen[Modality.TEXT] & {5, 6, 7}


def test_only_own_tokens_teach_reserved_experts() -> None:
    block: Any = randomise(SparseMoeBlock(reserving(num_experts_per_tok=3)))
    hidden, context = make_tokens(40)
    output = block(hidden.float()[None], context)[0]
    new = {name: p for name, p in block.named_parameters() if "reserved" in name and "speech" in name}
    assert set(new) == {
        "router.reserved.speech.weight",
        "router.reserved.speech.bias",
        "reserved_experts.speech.gate_up_proj",
        "reserved_experts.speech.down_proj",
    }
    is_speech = context.modality_ids == Modality.SPEECH
    for tokens, teaches in ((~is_speech, False), (is_speech, True)):
        gradients = torch.autograd.grad(output[tokens].square().sum(), list(new.values()), retain_graph=True)
        assert all(bool(gradient.any()) is teaches for gradient in gradients)


def model_of(config: UniMoETextConfig) -> Any:
    torch.manual_seed(0)
    return UniMoEForCausalLM(config).eval()


def test_a_saved_model_is_the_same_model(tmp_path: Any) -> None:
    model = model_of(reserving("bias", num_null_experts=1, moe_intermediate_size=16))
    model.save_pretrained(tmp_path)
    loaded = UniMoEForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())
    ids, kinds = torch.arange(12)[None], torch.tensor([[0, 1, 2, 3, 4, 4] * 2])
    ours, theirs = (m(input_ids=ids, mm_token_type_ids=kinds).logits for m in (model, loaded))
    assert torch.equal(ours, theirs)
    half = UniMoEForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.model.layers[0].mlp.router.reserved["speech"].weight.dtype == torch.float32
    assert json.loads((tmp_path / "config.json").read_text())["reserved_experts"] == RESERVED


def test_a_token_is_counted_with_the_experts_open_to_it() -> None:
    model = model_of(reserving(num_experts_per_tok=7))
    expert = 3 * model.config.moe_intermediate_size * model.config.hidden_size
    counts = count_parameters(model)
    assert counts["total"] - counts["active"] == expert  # of 8, the 7 largest
    text = count_per_token(model)["text"]
    assert counts["total"] - text.parameters == 3 * expert
    rows = sum(p.numel() for name, p in model.named_parameters() if ".reserved." in name and name.endswith("weight"))
    without = count_per_token(model_of(make_config(num_experts=5, num_experts_per_tok=5)))["text"]
    assert text.flops - without.flops == 2 * rows


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"reserved": {"text": [7]}}, "text is in every row"),
        ({"reserved": {"touch": [7]}}, "Unknown modality 'touch'"),
        ({"reserved": {"task_o.c": [7]}}, "'task_o.c' names no task"),
        ({"reserved": {"image": []}}, "reserved_experts\\['image'\\] names no expert"),
        ({"reserved": {"image": [0]}}, "are not the last of the 8 experts"),
        ({"reserved": {"image": [6], "audio": [7, 7]}}, "are not the last"),
        ({"reserved": {"image": [4, 5, 6, 7], "audio": [0, 1, 2, 3]}}, "all 8 experts are reserved"),
        ({"expert_type": "lora"}, "is for expert_type='mlp', not 'lora'"),
        ({"router_type": "expert_choice"}, "they need router_type top_k or top_p"),
        ({"router_type": "hash", "num_experts_per_tok": 1}, "they need router_type top_k or top_p"),
        ({"n_group": 2}, "and n_group=1"),
        ({"router_gradient": "dense"}, "cannot be used with router_gradient='dense'"),
        ({"router_losses": {"gram": 0.1}}, "expert_overlap, gram, orthogonality"),
        ({"mode": "isolated", "expert_groups": {"text": [0, 1, 2, 3, 4, 7]}}, "goes beyond the 5 experts"),
    ],
)
def test_what_cannot_be_reserved_is_refused(fields: dict[str, Any], problem: str) -> None:
    values = {"reserved": RESERVED, **fields}
    mode, reserved = values.pop("mode", "shared"), values.pop("reserved")
    with pytest.raises((ConfigError, ValueError), match=problem):
        make_config(mode, reserved_experts=reserved, **values)
