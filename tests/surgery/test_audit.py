"""What was touched and what was passed by, by part and by expert, in memory and in folders, ours and stock ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from stock import KINDS, make
from torch import nn
from typer.testing import CliRunner

from unimoe import experts_as_linears, fold_experts
from unimoe.cli import app
from unimoe.errors import UniMoEError
from unimoe.surgery import audit, audit_change


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_counted_once_and_in_a_part(kind: str) -> None:
    model = make(kind)
    found = audit(model, [name for name, _ in model.named_children()])
    counts = found.by_part()
    assert sum(count for count, _, _ in counts.values()) == sum(p.numel() for p in model.parameters())
    assert found.share() == 1.0 and "other" not in counts
    assert {"experts", "router", "attention", "norms", "embeddings", "lm_head"} <= counts.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_one_expert_of_one_layer_is_told_from_the_others(kind: str) -> None:
    model = make(kind)
    before = weights(model)
    names = experts_as_linears(model, split_gate_up=False)
    last = next(name for name in reversed(names) if name.endswith(".1"))
    with torch.no_grad():
        model.get_submodule(last).weight.add_(1.0)
        fold_experts(model)
    found = audit_change(before, model)
    layer = int(last.split("layers.")[1].split(".")[0])
    expert = "1.1" if kind == "two widths" else "1"
    own = {entry for entry in found.entries if entry.touched}
    assert {(entry.part, entry.layer, entry.expert) for entry in own} == {("experts", layer, expert)}
    assert (layer, expert) not in found.untouched_experts() and len(found.untouched_experts()) == 7


def test_a_tool_that_looks_for_linear_modules_passes_stacked_experts_by() -> None:
    model = make("qwen3_moe")
    linears = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    found = audit(model, linears)
    assert found.share("experts") == 0.0 and found.share("attention") > 0.9 and len(found.untouched_experts()) == 8
    with pytest.raises(UniMoEError, match=r"0\.0% of the parameters of experts were touched.*: experts 0\.0%"):
        found.require(0.5, "experts")
    experts_as_linears(model)
    seen = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    assert audit(model, seen).share("experts") == 1.0
    audit(model, seen).require(1.0, "experts")


def test_parameters_of_an_optimizer_and_names_are_taken_and_strangers_refused() -> None:
    model = make("mlp")
    optimizer = torch.optim.SGD([p for name, p in model.named_parameters() if "norm" in name])
    of_optimizer = audit(model, (p for group in optimizer.param_groups for p in group["params"]))
    assert of_optimizer.share("norms") == 1.0 and of_optimizer.share("experts") == 0.0
    with pytest.raises(UniMoEError, match=r"has no parameter or module 'model\.layers\.9'"):
        audit(model, ["model.layers.9"])
    with pytest.raises(UniMoEError, match=r"has no parameter or module a parameter of shape \(3,\)"):
        audit(model, [nn.Parameter(torch.zeros(3))])
    with pytest.raises(UniMoEError, match=r"no part 'expert'.*experts"):
        of_optimizer.share("expert")


def test_changed_values_are_fewer_than_touched_ones_in_a_tensor_of_which_one_row_changed() -> None:
    model = make("mlp")
    before = weights(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[3].add_(1.0)
    found = audit_change(before, model).by_part()["embeddings"]
    assert found == (64 * 32, 64 * 32, 32)


def test_tensors_of_another_shape_and_names_that_came_and_went_are_told() -> None:
    before = {"a.mlp.experts.down_proj": torch.zeros(4, 2, 2), "a.norm.weight": torch.ones(2), "old": torch.ones(1)}
    after = {"a.mlp.experts.down_proj": torch.zeros(3, 2, 2), "a.norm.weight": torch.ones(2), "new": torch.ones(1)}
    found = audit_change(before, after)
    assert found.share("experts") == 1.0 and found.share("norms") == 0.0
    assert (found.gone, found.new) == (("old",), ("new",))
    with pytest.raises(UniMoEError, match="no tensor of the same name"):
        audit_change({"a": torch.ones(1)}, {"b": torch.ones(1)})


@pytest.mark.parametrize("kind", ["mlp", "mixtral"])
def test_folders_are_compared_and_a_share_too_small_exits_with_1(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    model.save_pretrained(tmp_path / "before", max_shard_size="20KB")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "self_attn" in name:
                parameter.add_(1.0)
    model.save_pretrained(tmp_path / "after")
    found = audit_change(tmp_path / "before", tmp_path / "after")
    assert {part for part, (_, touched, _) in found.by_part().items() if touched} == {"attention"}
    words = ["audit", str(tmp_path / "before"), str(tmp_path / "after")]
    done: Any = CliRunner().invoke(app, [*words, "--min-share", "0.9", "--part", "attention"])
    assert done.exit_code == 0 and "untouched: expert 3 of layer 1" in done.output
    few: Any = CliRunner().invoke(app, [*words, "--min-share", "0.9"])
    assert few.exit_code == 1 and "were touched, and at least 90.0% were to be" in few.output
    none: Any = CliRunner().invoke(app, ["audit", str(tmp_path / "before"), str(tmp_path)])
    assert none.exit_code == 2 and "there are no weights" in none.output
