"""What trains is chosen by name: named parts and low-rank deltas change in a step, everything else stays as it is."""

import copy

import pytest
import torch
from tiny import WHISPER, tiny_config, tiny_inputs, tiny_model

from training.config.train import TrainConfig
from training.trainable.parts import choose_trainable, keep_frozen_steady, trainable_table
from unimoe.errors import ConfigError

MOE = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "modality_routing": "bias"}


def one_step(model):
    """Names of the parameters that one optimizer step changes."""
    inputs = tiny_inputs(model.config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.train()
    keep_frozen_steady(model)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def logits(model):
    inputs = tiny_inputs(model.config)
    with torch.no_grad():
        return model.eval()(**{k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}).logits


def test_what_a_tower_holds_fixed_stays_fixed():
    model = tiny_model()
    choose_trainable(model, TrainConfig(parts=["encoders"]))
    frozen = {name for name in model.parts()["encoders"] if not model.get_parameter(name).requires_grad}
    assert frozen == {"model.encoders.speech.tower.embed_positions.weight"}  # Whisper's sinusoids


def test_what_construction_freezes_is_frozen_in_a_loaded_model_too(tmp_path):
    model = tiny_model(**MOE, expert_type="lora")
    model.save_pretrained(tmp_path)
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    frozen = {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    bases = {name for name in frozen if ".experts.base." in name}
    assert len(bases) == 3 * model.config.text_config.num_hidden_layers
    assert frozen - bases == {"model.encoders.speech.tower.embed_positions.weight"}  # Whisper's sinusoids
    choose_trainable(loaded, TrainConfig(parts=["encoders", "experts"]))
    assert not any(loaded.get_parameter(name).requires_grad for name in frozen)


@pytest.mark.parametrize("parts", [["connectors"], ["encoders.image", "router"], ["experts"], ["attention", "norms"]])
def test_a_step_changes_the_named_parts_and_nothing_else(parts):
    model = tiny_model(**MOE)
    allowed = {name for part in parts for name in model.parts()[part]}
    choose_trainable(model, TrainConfig(parts=parts))
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == allowed
    changed = one_step(model)
    assert changed and changed <= allowed
    for part in parts:
        assert changed & set(model.parts()[part]), f"{part} did not train"


def test_a_part_that_does_not_exist_is_refused_with_the_list():
    for config in (TrainConfig(parts=["conectors"]), TrainConfig(lora={"parts": ["conectors"]})):
        with pytest.raises(ConfigError, match=r"no part 'conectors'. Did you mean 'connectors'\? Parts: .*router"):
            choose_trainable(tiny_model(**MOE), config)
    with pytest.raises(ConfigError, match="norms has neither linear layers nor stacked experts"):
        choose_trainable(tiny_model(**MOE), TrainConfig(lora={"parts": ["norms"]}))


def test_lora_sits_on_the_language_model_alone_and_starts_as_nothing():
    model = tiny_model(**MOE)
    before = logits(model)
    trainable = choose_trainable(
        model, TrainConfig(parts=["router"], lora={"parts": ["experts", "attention"], "r": 2})
    )
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-6)
    deltas = {name for name, parameter in model.named_parameters() if "lora_" in name}
    assert deltas and all("language_model" in name for name in deltas)
    assert set(trainable.deltas) == {"experts", "attention"}
    changed = one_step(model)
    assert all("lora_" in name or "router" in name for name in changed)
    assert any("experts" in name for name in changed) and any("q_proj" in name for name in changed)


@pytest.mark.parametrize(
    ("implementation", "dtype", "tolerance"), [("eager", "float64", 1e-7), ("grouped_mm", "float32", 1e-5)]
)
@pytest.mark.parametrize("lora_parts", [["experts"], ["attention"], ["experts", "attention"]])
def test_merging_lora_leaves_the_logits_and_an_ordinary_model(lora_parts, implementation, dtype, tolerance):
    model = tiny_model(**MOE).to(getattr(torch, dtype))
    model.set_experts_implementation(implementation)
    names = {name for name, _ in model.named_parameters()}
    before = logits(model)
    trainable = choose_trainable(model, TrainConfig(lora={"parts": lora_parts, "r": 2, "alpha": 16}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    trained = logits(model)
    assert (trained - before).abs().max() > 1e-3
    trainable.merge()
    assert {name for name, _ in model.named_parameters()} == names
    torch.testing.assert_close(logits(model), trained, rtol=0, atol=tolerance * float(trained.abs().max()))


def test_lora_works_on_dense_feed_forwards_too():
    model = tiny_model()
    trainable = choose_trainable(model, TrainConfig(lora={"parts": ["mlp"], "r": 2}))
    assert set(trainable.deltas) == {"mlp"}
    assert all("mlp" in name and "lora_" in name for name in one_step(model))


def test_frozen_encoders_keep_their_batch_norm_statistics_and_trained_ones_do_not():
    for parts, steady in ((["connectors"], True), (["encoders.image"], False)):
        model = tiny_model(**MOE)
        choose_trainable(model, TrainConfig(parts=parts))
        buffers = copy.deepcopy(dict(model.named_buffers()))
        one_step(model)
        same = all(torch.equal(value, buffers[name]) for name, value in model.named_buffers() if "running" in name)
        assert same is steady
        assert model.model.language_model.layers[0].training


def test_the_table_counts_each_parameter_once():
    model = tiny_model(**MOE)
    total = sum(parameter.numel() for parameter in model.parameters())
    table = trainable_table(choose_trainable(model, TrainConfig(parts=["connectors"])))
    columns = [list(column.cells) for column in table.columns]
    rows = {cells[0]: cells[1:] for cells in zip(*columns, strict=True)}
    trained = sum(dict(model.named_parameters())[name].numel() for name in model.parts()["connectors"])
    assert rows["all"][:2] == (f"{total:,}", f"{trained:,}")
    assert rows["connectors"][1:] == (f"{trained:,}", "whole") and rows["router"][1:] == ("0", "frozen")


def test_a_part_inside_a_part_that_trains_whole_cannot_train_by_lora_too():
    config = TrainConfig(parts=["connectors"], lora={"parts": ["connectors.image"]})
    with pytest.raises(ConfigError, match=r"connectors\.image would train whole and by lora"):
        choose_trainable(tiny_model(), config)


def test_lora_on_an_encoder_changes_its_linear_layers_only():
    model = tiny_model()
    trainable = choose_trainable(model, TrainConfig(lora={"parts": ["encoders.speech"]}))
    before = logits(model)
    one_step(model)
    trained = logits(model)
    trainable.merge()
    assert not torch.allclose(before, trained)
    torch.testing.assert_close(logits(model), trained, atol=1e-5, rtol=1e-4)


DECODER = {**WHISPER, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24}
QFORMER = {"hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 2, "encoder_hidden_size": 16}


@pytest.mark.parametrize(
    ("part", "speech", "query"),
    [
        ("connectors.audio", {"stack": 10}, "q_proj"),  # a Q-Former
        ("connectors.speech", {"type": "query_decoder", "num_queries": 5, "decoder_config": DECODER}, "q_proj"),
        ("connectors.speech", {"type": "blip2_qformer", "num_queries": 5, "qformer_config": QFORMER}, "query"),
    ],
)
def test_low_rank_deltas_sit_on_every_linear_layer_of_a_query_connector(part, speech, query):
    config = tiny_config()
    model = type(tiny_model())(type(config).from_dict({**config.to_dict(), "speech_connector_config": speech}))
    connector = model.model.connectors[part.split(".")[1]]
    names = {id(module): name for name, module in model.named_modules()}
    linear = {names[id(module)] for module in connector.modules() if isinstance(module, torch.nn.Linear)}
    assert any(name.endswith(query) for name in linear)
    choose_trainable(model, TrainConfig(lora={"parts": [part], "r": 2, "alpha": 4}))
    changed = one_step(model)
    assert {name.partition(".lora_")[0] for name in changed} == linear


def test_what_no_part_has_neither_trains_nor_counts_as_trained(monkeypatch):
    """The pooler of a ViT: it stays in the checkpoint, and no forward reads it."""
    model = tiny_model()
    parts = model.parts()
    left_out = set(sorted(parts["encoders.image"])[:2])
    fewer = {part: [name for name in names if name not in left_out] for part, names in parts.items()}
    monkeypatch.setattr(type(model), "parts", lambda self: fewer)
    trainable = choose_trainable(model, TrainConfig(parts=["encoders"]))
    assert not any(model.get_parameter(name).requires_grad for name in left_out)
    table = trainable_table(trainable)
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    count = sum(parameter.numel() for parameter in trainable.unread)
    assert count >= sum(model.get_parameter(name).numel() for name in left_out)
    assert ("(read by no forward)", f"{count:,}", "0", "kept") in rows
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert rows[-1][:3] == ("all", f"{total:,}", f"{trained:,}")
