"""Pruning: saliency as a slow reference computes it, what stays, and what the new model computes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from moe.oracle import Token, route
from stock import KINDS, make
from surgery.rows import measure_again, token_batches, write_rows
from tiny import TEXT
from tiny_model import save_tiny
from torch import Tensor
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from unimoe import Modality, UniMoETextConfig
from unimoe.checkpoint.loading import load_mixture
from unimoe.cli import app
from unimoe.errors import UniMoEError
from unimoe.surgery import Certificate
from unimoe.surgery.calibration import Batch, as_batch, read_calibration
from unimoe.surgery.choice import Wish, choose, lost
from unimoe.surgery.damage import Answers
from unimoe.surgery.folders import Draft, Rows, change_folder
from unimoe.surgery.mixture import sparse_layers
from unimoe.surgery.prune import choose_experts, prune, prune_folder, write_pruned
from unimoe.surgery.ranking import read_ranking
from unimoe.surgery.saliency import LayerUse, Saliency, saliency

ROUTERS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "without renormalisation": {"norm_topk_prob": False},
    "sigmoid with bias": {"scoring_func": "sigmoid", "balance_bias": True, "routed_scaling_factor": 2.5},
    "groups": {"scoring_func": "sigmoid", "balance_bias": True, "n_group": 2, "topk_group": 1},
    "top-p and nulls": {"router_type": "top_p", "num_null_experts": 2, "num_experts_per_tok": 3},
    "separate": {"modality_routing": "separate"},
    "bias": {"modality_routing": "bias"},
    "semi-isolated": {"modality_routing": "semi_isolated", "expert_groups": {"image": [2, 3], "audio": [4, 5]}},
}


def text_model(**fields: Any) -> Any:
    torch.manual_seed(0)
    config = UniMoETextConfig(**TEXT, num_experts=8, moe_intermediate_size=24, **fields)
    model: Any = make_causal(config)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.normal_(std=0.3)
    return model


def make_causal(config: UniMoETextConfig) -> Any:
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64, experts_implementation="eager").eval()


def reference_use(model: Any, batches: list[Batch]) -> dict[int, dict[tuple[int, int], list[tuple[float, float]]]]:
    """Layer -> (modality, expert) -> (g, ||f_e(x)||) of each of its tokens, routed one by one by the slow oracle."""
    use: dict[int, dict[tuple[int, int], list[tuple[float, float]]]] = {}
    states: dict[int, list[Tensor]] = {}
    hooks = [
        layer.block.register_forward_pre_hook(
            lambda module, inputs, index=layer.index: states.setdefault(index, []).append(inputs[0].flatten(0, 1))
        )
        for layer in sparse_layers(model)
    ]
    for batch in batches:
        model(**batch.inputs)
    for hook in hooks:
        hook.remove()
    for layer in sparse_layers(model):
        parameters = {name: tensor.double().numpy() for name, tensor in layer.router.state_dict().items()}
        own = use.setdefault(layer.index, {})
        for batch, hidden in zip(batches, states[layer.index], strict=True):
            kinds, real = batch.modality_ids.flatten().tolist(), batch.attention_mask.flatten().tolist()
            for state, kind, is_real in zip(hidden, kinds, real, strict=True):
                if is_real:
                    choice = route(Token(state.double().numpy(), kind), parameters, model.config)
                    for expert, weight in choice.weights.items():
                        own.setdefault((kind, expert), []).append((weight, norm_of(layer.experts, expert, state)))
    return use


def norm_of(experts: Any, expert: int, state: Tensor) -> float:
    gate, up = (experts.gate_up_proj[expert] @ state).chunk(2)
    return float((experts.down_proj[expert] @ (torch.nn.functional.silu(gate) * up)).norm())


@pytest.mark.parametrize("router", ROUTERS)
@torch.no_grad()
def test_saliency_is_that_of_a_token_by_token_reference(router: str) -> None:
    model = text_model(**ROUTERS[router])
    batches = token_batches(modalities=True)
    found, reference = saliency(model, batches), reference_use(model, batches)
    for layer, use in found.layers.items():
        for modality in Modality:
            for expert in range(8):
                seen = reference[layer].get((modality, expert), [])
                sums = [len(seen), sum(n for _, n in seen), sum(g for g, _ in seen), sum(g * n for g, n in seen)]
                ours = [use.count, use.norm, use.weight, use.weighted_norm]
                assert [float(value[modality, expert]) for value in ours] == pytest.approx(sums, rel=1e-6, abs=1e-9)
        pooled = [[pair for kind in Modality for pair in reference[layer].get((kind, e), [])] for e in range(8)]
        reap = [sum(g * n for g, n in own) / max(len(own), 1) for own in pooled]
        assert use.score("reap").tolist() == pytest.approx(reap, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_scores_of_each_kind_come_from_the_weights_that_it_uses(kind: str) -> None:
    """Stock routers: the sum of g f_e(x) over the experts is what the block gave, so weights and outputs are right."""
    model, seen = make(kind), []
    block = sparse_layers(model)[0]
    handle = block.experts.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    batch = token_batches()[0]
    model(**batch.inputs)
    handle.remove()
    (hidden, index, weights), output = seen[0]
    answers = [block.experts.forward(hidden, index[:, k : k + 1], weights[:, k : k + 1]) for k in range(2)]
    if index.shape[1] == 2:
        torch.testing.assert_close(sum(answers), output, rtol=1e-4, atol=1e-4)
    use = saliency(model, [batch]).layers[0]
    assert use.count.sum() == index.numel()
    assert float(use.weight.sum()) == pytest.approx(float(weights.double().sum()), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_experts_that_no_token_chose_can_go_if_weights_are_renormalised(kind: str) -> None:
    model, rows = make(kind), [as_batch({"input_ids": torch.full((1, 4), 5)})]  # equal tokens, which go to the same
    text = model.config.get_text_config()
    text.num_experts_per_tok = 1 if kind in ("two widths", "latent") else 2  # of which each group keeps one
    for layer in sparse_layers(model):
        layer.router.top_k = text.num_experts_per_tok
    kept, losses = choose_experts(model, rows, Wish(keep=2, score="frequency"))
    assert all(own["text"] == {"assignments": 0, "output": pytest.approx(0)} for own in losses.values())
    difference = Answers.of(model, rows).compare(prune(model, kept)).largest
    renormalises = getattr(text, "norm_topk_prob", True) and kind != "qwen2_moe"
    assert difference < 1e-6 if renormalises else difference > 1e-6  # else the softmax lacks a term


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_pruned_folder_is_the_model_that_is_pruned_in_memory(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    text = model.config.get_text_config()
    text.num_experts_per_tok = 1
    for layer in sparse_layers(model):
        layer.router.top_k = 1
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "pruned").mkdir()
    kept = {layer.index: [1, 2] if kind == "two widths" else [layer.index, 3] for layer in sparse_layers(model)}
    write_pruned(tmp_path / "model", tmp_path / "pruned", model.config, kept)
    inputs = token_batches()[0].inputs
    again = type(model).from_pretrained(tmp_path / "pruned", experts_implementation="eager").eval()
    assert torch.equal(again(**inputs).logits, prune(model, kept)(**inputs).logits)
    assert again.config.get_text_config().num_experts == 2


def lone(values: list[list[float]], largest: list[float] | None = None) -> LayerUse:
    """Use of a layer whose modalities give these outputs, one token for each."""
    weighted = torch.zeros(len(Modality), len(values[0]), dtype=torch.float64)
    weighted[: len(values)] = torch.tensor(values)
    count = (weighted > 0).double()
    top = weighted.amax(dim=0) if largest is None else torch.tensor(largest, dtype=torch.float64)
    return LayerUse(count, weighted, count, weighted, top)


CONFIG = UniMoETextConfig(**TEXT, num_experts=6, num_experts_per_tok=1)
TEXT_AND_IMAGE = Saliency({0: lone([[9, 8, 7, 6, 1, 0], [1, 0, 0, 0, 2, 3]])})


def test_a_quota_keeps_the_experts_that_a_modality_gets_most_from() -> None:
    assert choose(TEXT_AND_IMAGE, CONFIG, Wish(ratio=0.5, score="router_weighted")) == {0: [0, 1, 2]}
    assert choose(TEXT_AND_IMAGE, CONFIG, Wish(0.5, score="router_weighted", quota={"image": 2})) == {0: [0, 4, 5]}
    assert choose(TEXT_AND_IMAGE, CONFIG, Wish(0.5, score="max_share")) == {0: [0, 4, 5]}


def test_protected_and_super_experts_stay() -> None:
    found = Saliency({0: lone([[9, 8, 7, 6, 5, 4]], largest=[1, 1, 1, 1, 1, 50])})
    assert choose(found, CONFIG, Wish(keep=2, protect={0: [3]})) == {0: [3, 5]}


def test_the_number_of_experts_is_rounded_up_to_a_multiple() -> None:
    assert [Wish(ratio=ratio, multiple_of=4).number(16) for ratio in (0.25, 0.3, 0.5)] == [12, 12, 8]
    assert Wish(ratio=0.25).number(6) == 5


def test_what_is_lost_is_told_for_each_modality() -> None:
    losses = lost(TEXT_AND_IMAGE, {0: [0, 1, 2]})
    assert losses[0]["text"] == {"assignments": pytest.approx(2 / 5), "output": pytest.approx(7 / 31)}
    assert losses[0]["image"] == {"assignments": pytest.approx(2 / 3), "output": pytest.approx(5 / 6)}


def test_groups_keep_their_parts() -> None:
    grouped = UniMoETextConfig(**TEXT, num_experts=6, num_experts_per_tok=1, n_group=2, topk_group=1)
    assert choose(TEXT_AND_IMAGE, grouped, Wish(keep=4, score="router_weighted")) == {0: [0, 1, 3, 4]}
    fields = {"modality_routing": "semi_isolated", "expert_groups": {"image": [1, 3]}}
    isolated = UniMoETextConfig(**TEXT, num_experts=6, num_experts_per_tok=1, **fields)
    assert choose(TEXT_AND_IMAGE, isolated, Wish(keep=3, score="router_weighted")) == {0: [0, 2, 1]}


@pytest.mark.parametrize(
    ("wish", "fields", "problem"),
    [
        (Wish(ratio=1.5), {}, "ratio: it is 1.5, and lies between 0 and 1"),
        (Wish(), {}, "ratio: it is None"),
        (Wish(keep=6), {}, "keep: 6 of 6 experts would stay"),
        (Wish(ratio=0.1, multiple_of=4), {}, "keep: 8 of 6 experts would stay, as a multiple of 4"),
        (Wish(keep=1), {"num_experts_per_tok": 2}, "keep: 1 experts would stay, and each token passes 2"),
        (Wish(keep=3), {"n_group": 2}, "keep: 3 experts cannot be shared out to 2 groups of the same size"),
        (Wish(keep=2, protect={0: [9]}), {}, "protect: layer 0 has no expert 9"),
        (Wish(keep=2, protect={7: [0]}), {}, "protect: layer 7 has no experts. The sparse layers are 0"),
        (Wish(keep=2, quota={"speech": 1}), {}, "quota: no calibration row has speech"),
        (Wish(keep=1, protect={0: [0]}, quota={"image": 2}), {}, "layer 0: 3 experts have to stay"),
        (Wish(keep=2), {"router_type": "hash"}, "router_type: it is 'hash'"),
    ],
)
def test_impossible_wishes_are_refused(wish: Wish, fields: dict[str, Any], problem: str) -> None:
    config = UniMoETextConfig(**TEXT, **{"num_experts": 6, "num_experts_per_tok": 1, **fields})
    with pytest.raises(UniMoEError) as caught:
        choose(TEXT_AND_IMAGE, config, wish)
    assert str(caught.value).startswith(problem)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("mixture")
    return save_tiny(home / "model", num_experts=4, num_experts_per_tok=1, modality_routing="bias")


def test_the_command_prunes_a_folder_and_its_certificate_can_be_measured_again(folder: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "data")
    command = ["prune", str(folder), str(tmp_path / "out"), "--data", str(rows), "--ratio", "0.5"]
    result = CliRunner().invoke(app, [*command, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "speech" in result.output
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    certificate = Certificate.load(tmp_path / "out")
    found = measure_again(folder, tmp_path / "out", rows)
    assert set(found.by_modality) == {"text", "image", "audio", "speech"}
    assert load_mixture(tmp_path / "out")[0].config.text_config.num_experts == 2
    assert set(certificate.details["touched"]) == {"experts", "router"}


def test_an_operation_that_touches_another_part_is_refused(folder: Path, tmp_path: Path) -> None:
    def spoil(model: Any, _: Any) -> Draft:
        with torch.no_grad():
            model.model.language_model.layers[0].self_attn.q_proj.weight += 1
        return Draft("spoil", {}, model.save_pretrained)

    with pytest.raises(UniMoEError, match="spoil: attention changed, and may not"):
        change_folder(folder, tmp_path / "out", spoil, Rows(write_rows(tmp_path / "data")))
    assert not (tmp_path / "out").exists()


def test_an_interrupted_pruning_leaves_no_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimoe.surgery.prune.write_shards", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prune_folder(folder, tmp_path / "out", rows=Rows(write_rows(tmp_path / "data")), wish=Wish(keep=2))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--ratio", "0.5", "--quota", "image"], "--quota: 'image' is no A=B"),
        (["--ratio", "0.5", "--protect", "a:b"], "--protect: 'a' is no whole number"),
        (["--ratio", "2"], "ratio: it is 2.0"),
    ],
)
def test_the_command_names_a_wrong_option(folder: Path, tmp_path: Path, arguments: list[str], problem: str) -> None:
    rows = write_rows(tmp_path / "data")
    result = CliRunner().invoke(app, ["prune", str(folder), str(tmp_path / "out"), "--data", str(rows), *arguments])
    assert result.exit_code == 2
    assert problem in result.output


def test_a_modality_without_rows_is_refused_unless_others_are_meant(folder: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "data", ("text", "image"))
    model, processor = load_mixture(folder)
    with pytest.raises(UniMoEError) as caught:
        read_calibration(rows, model, processor)
    assert "the model takes sounds and speech, and no calibration row has any" in str(caught.value)
    assert "pass modalities 'image'" in str(caught.value)
    assert read_calibration(rows, model, processor, modalities=["image"]).modalities == {Modality.IMAGE}


def test_a_ranking_is_written_for_other_tools_and_read_back(folder: Path, tmp_path: Path) -> None:
    rows, ranking = write_rows(tmp_path / "data"), tmp_path / "ranking.jsonl"
    result = CliRunner().invoke(app, ["rank", str(folder), str(ranking), "--data", str(rows), "--score", "frequency"])
    assert result.exit_code == 0, result.output
    lines = ranking.read_text().splitlines()
    assert [sorted(json.loads(line)[str(layer)]) for layer, line in enumerate(lines)] == [[0, 1, 2, 3]] * 2
    wish = Wish(keep=2, score="frequency")
    by_score, _ = prune_folder(folder, tmp_path / "a", rows=Rows(rows), wish=wish, dry_run=True)
    by_list, _ = prune_folder(
        folder, tmp_path / "b", rows=Rows(rows), wish=Wish(keep=2), ranking=ranking, dry_run=True
    )
    assert by_list.details["kept"] == by_score.details["kept"]
    ranking.write_text('{"0": [3, 2, 1, 0]}\n{"1": [2, 3, 0, 1]}\n')
    other, _ = prune_folder(folder, tmp_path / "b", rows=Rows(rows), wish=Wish(keep=2), ranking=ranking, dry_run=True)
    assert other.details["kept"] == {"0": [2, 3], "1": [2, 3]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"0": [0, 1]}\n', "does not name each of its 4 experts once"),
        ('{"7": [0, 1, 2, 3]}\n', "the model has no sparse layer '7'. It has 0, 1."),
        ('{"0": [0, 1, 2, 3]}\n', "it has no line for layer 1"),
        ('{"0": 5}\n', "expected an object with one layer and a list"),
        ('[{"0": [0, 1, 2, 3], "1": []}]', "expected an object with one layer and a list"),
    ],
)
def test_a_ranking_that_is_none_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "list.jsonl").write_text(text)
    with pytest.raises(UniMoEError, match=re.escape(problem)):
        read_ranking(tmp_path / "list.jsonl", {0: 4, 1: 4})
