"""Stacked experts seen as linear modules: the same numbers, the same storage, and no trace when undone."""

from typing import Any

import peft
import pytest
import torch
from stock import KINDS, make
from tiny import TEXT
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from unimoe import experts_as_linears, fold_experts
from unimoe.errors import UniMoEError

IDS = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(0))


def learn(model: PreTrainedModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradient of each parameter that is not of an expert."""
    model.zero_grad()
    logits = model(input_ids=IDS).logits
    logits.square().mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_are_those_of_eager(kind: str) -> None:
    model = make(kind)
    expected, gradients = learn(model)
    names = experts_as_linears(model, split_gate_up=False)
    found, own = learn(model)
    modules = dict(model.named_modules())
    assert names and all(type(modules[name]) is nn.Linear for name in names)
    others = gradients.keys() & own.keys()
    bound = 1e-6 if kind == "gpt_oss" else 0.0  # its stacks are transposed: another kernel of the same product
    for one, other in ((found, expected), *((own[name], gradients[name]) for name in others)):
        assert (one - other).abs().max() <= bound * other.abs().max()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gpt_oss"])
def test_gate_and_up_projection_as_two_modules_compute_the_same(kind: str) -> None:
    model = make(kind)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        names = experts_as_linears(model)
        found = model(input_ids=IDS).logits
    assert not [name for name in names if ".gate_up_proj." in name]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_storage_is_shared_and_nothing_is_left_when_undone(kind: str) -> None:
    model = make(kind)
    before, settings = dict(model.named_parameters()), model.config.to_dict()
    places = {name: (p.data_ptr(), p.requires_grad) for name, p in before.items()}
    storages = {p.untyped_storage().data_ptr() for p in before.values()}
    experts_as_linears(model, split_gate_up=kind != "gpt_oss")
    assert {p.untyped_storage().data_ptr() for p in model.parameters()} == storages
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in before.values())
    fold_experts(model)
    after = dict(model.named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert {name: (p.data_ptr(), p.requires_grad) for name, p in after.items()} == places
    assert model.config.to_dict() == settings and model.config._experts_implementation == "eager"
    assert [name for name, _ in model.named_modules()] == [name for name, _ in make(kind).named_modules()]
    for module in model.modules():
        assert not [name for name in vars(module) if "linears" in name]


@pytest.mark.parametrize("kind", ["mlp", "lora", "gpt_oss", "mixtral"])
def test_what_changes_a_module_is_in_the_stack_when_undone(kind: str) -> None:
    model = make(kind)
    names = experts_as_linears(model, split_gate_up=False)
    modules = dict(model.named_modules())
    for number, name in enumerate(names):
        weight = torch.full_like(modules[name].weight, number / len(names))
        if number % 2:
            modules[name].weight = nn.Parameter(weight)
        else:
            modules[name].weight.data.copy_(weight)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        fold_experts(model)
        torch.testing.assert_close(model(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "lora", "latent", "two widths"])
def test_a_single_expert_is_asked_as_before(kind: str) -> None:
    model, tokens = make(kind), torch.randn(5, 32)
    with torch.no_grad():
        expected = [model.model.layers[0].mlp.experts.expert_output(expert, tokens) for expert in range(4)]
        experts_as_linears(model)
        found = [model.model.layers[0].mlp.experts.expert_output(expert, tokens) for expert in range(4)]
    torch.testing.assert_close(found, expected)


def test_a_cast_view_becomes_cast_stacks() -> None:
    model = make("qwen3_moe")
    experts_as_linears(model)
    model.double()
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        fold_experts(model)
        torch.testing.assert_close(model(input_ids=IDS).logits, expected)
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_hooks_see_the_tokens_of_their_expert_alone() -> None:
    model = make("mlp")
    names = experts_as_linears(model)
    seen: dict[str, int] = {}
    for name in names:
        module = model.get_submodule(name)
        module.register_forward_hook(lambda m, args, out, name=name: seen.update({name: seen.get(name, 0) + len(out)}))
    model(input_ids=IDS)
    asked = sum(count for name, count in seen.items() if ".down_proj." in name)
    assert asked == IDS.numel() * model.config.num_experts_per_tok * model.config.num_hidden_layers


def test_models_that_cannot_be_seen_so_are_refused() -> None:
    dense = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TEXT))
    with pytest.raises(UniMoEError, match="LlamaForCausalLM: it has no stacked experts"):
        experts_as_linears(dense)
    with pytest.raises(UniMoEError, match=r"GptOssExperts\) puts gate and up .* Pass split_gate_up=False"):
        experts_as_linears(make("gpt_oss"))
    model = make("mlp")
    with pytest.raises(UniMoEError, match="not seen as linear maps"):
        fold_experts(model)
    experts_as_linears(model)
    with pytest.raises(UniMoEError, match="seen as linear maps already"):
        experts_as_linears(model)
    experts = model.model.layers[1].mlp.experts
    experts.up_proj[2] = nn.Sequential(nn.Linear(32, 24))
    with pytest.raises(UniMoEError, match=r"layers\.1\.mlp\.experts\.up_proj\.2: it is a Sequential"):
        fold_experts(model)


def test_experts_of_an_unknown_kind_are_named_and_nothing_is_changed() -> None:
    model = make("mixtral")
    stranger = nn.Module()
    stranger.num_experts, stranger.weights = 4, nn.Parameter(torch.zeros(4, 2, 2))
    model.model.stranger = stranger
    before = list(model.state_dict())
    with pytest.raises(UniMoEError, match=r"experts model\.stranger \(Module\) are of a kind that is not known"):
        experts_as_linears(model)
    assert list(model.state_dict()) == before


@pytest.mark.parametrize("kind", ["mlp", "qwen3_moe"])
def test_adapters_by_target_modules_learn_what_those_by_target_parameters_learn(kind: str) -> None:
    stacked, view = make(kind), make(kind)
    names = experts_as_linears(view, split_gate_up=False)
    common: dict[str, Any] = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "init_lora_weights": False}
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    by_parameter: Any = peft.get_peft_model(
        stacked, peft.LoraConfig(target_modules=[], target_parameters=targets, **common)
    )
    by_module: Any = peft.get_peft_model(view, peft.LoraConfig(target_modules=names, **common))
    copy_factors(by_parameter, by_module)
    for model in (by_parameter, by_module):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        model(input_ids=IDS).logits.square().mean().backward()
        optimizer.step()
    merged, folded = by_parameter.merge_and_unload(), by_module.merge_and_unload()
    fold_experts(folded)
    for (name, expected), found in zip(merged.named_parameters(), folded.parameters(), strict=True):
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max(), name


def copy_factors(by_parameter: Any, by_module: Any) -> None:
    """Copy A (E * r, i) and B (o, r * E) of a stack to the adapters of its experts."""
    layers = by_parameter.base_model.model.model.layers
    for number, layer in enumerate(layers):
        for module in layer.mlp.modules():
            if not isinstance(module, peft.tuners.lora.layer.ParamWrapper):
                continue
            a, b = module.lora_A["default"].weight.data, module.lora_B["default"].weight.data
            own = by_module.base_model.model.model.layers[number].mlp.experts
            for expert in range(4):
                adapter = getattr(own, module.parameter_name)[expert]
                adapter.lora_A["default"].weight.data.copy_(a.view(4, 2, -1)[expert])
                adapter.lora_B["default"].weight.data.copy_(b.view(len(b), 2, 4)[..., expert])
