"""What Trainers, pipelines and Auto classes of transformers expect of a model, where nothing tells them otherwise."""

import json

import numpy as np
import pytest
import torch
from tiny import TEXT, randomise, tiny_config, tiny_inputs, tiny_model
from tiny_model import save_tiny
from tiny_processor import byte_tokenizer, make_processor, picture, sound
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, AutoTokenizer, Trainer, TrainingArguments

from unimoe import MEDIA, UniMoEConfig, UniMoEForCausalLM, UniMoEForConditionalGeneration, UniMoETextConfig
from unimoe.errors import UniMoEError
from unimoe.moe import Router
from unimoe.moe.counting import count_parameters, count_per_token

MOE = {"num_experts": 4}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


class Rows(Dataset):
    """Some rows of text."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict:
        return {"input_ids": IDS[0] + index, "labels": IDS[0] + index}


def text_model(**fields) -> UniMoEForCausalLM:
    torch.manual_seed(0)
    return UniMoEForCausalLM(UniMoETextConfig(**{**TEXT, **MOE, **fields})).eval()


MODELS = {"multimodal": lambda: tiny_model(**MOE), "text": text_model}


def arguments(folder, **options) -> TrainingArguments:
    return TrainingArguments(str(folder), use_cpu=True, report_to=[], disable_tqdm=True, **options)


@pytest.mark.parametrize("kind", MODELS)
def test_the_metrics_of_a_trainer_see_logits_and_nothing_else(kind, tmp_path) -> None:
    seen = []
    model = MODELS[kind]()
    Trainer(
        model,
        arguments(tmp_path, per_device_eval_batch_size=2),
        eval_dataset=Rows(),
        compute_metrics=lambda found: seen.append(found) or {},
    ).evaluate()
    assert isinstance(seen[0].predictions, np.ndarray) and seen[0].predictions.shape == (3, 8, 64)
    assert seen[0].label_ids.shape == (3, 8)


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_label_smoothing_smooths_the_loss_of_the_next_token(kind, adapter, tmp_path) -> None:
    model = MODELS[kind]()
    randomise(model, 0.3)
    if adapter:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    trainer = Trainer(model, arguments(tmp_path, label_smoothing_factor=0.1))
    with torch.no_grad():
        loss = trainer.compute_loss(model, {"input_ids": IDS, "labels": IDS.clone()})
        logits = model(input_ids=IDS).logits[0]
    expected = torch.nn.functional.cross_entropy(logits[:-1], IDS[0, 1:], label_smoothing=0.1)
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("modality", MEDIA)
def test_features_come_as_a_tuple_on_request(model, inputs, modality) -> None:
    for owner in (model, model.model):
        method = getattr(owner, f"get_{modality.key}_features")
        as_tuple = method(inputs[modality.feature_name], return_dict=False)
        assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], method(inputs[modality.feature_name])[0])


@pytest.mark.parametrize("where", ["whole", "encoder"])
@torch.no_grad()
def test_features_hold_what_the_configuration_asks_for(inputs, where) -> None:
    model = tiny_model()
    for modality in MEDIA:
        config = model.config if where == "whole" else model.config.encoder_config(modality.encoder_key)
        method, features = getattr(model, f"get_{modality.key}_features"), inputs[modality.feature_name]
        assert method(features).hidden_states is None
        config.output_hidden_states = True
        assert method(features).hidden_states and not method(features, output_hidden_states=False).hidden_states
        config.output_hidden_states = False


@torch.no_grad()
def test_outputs_hold_what_the_encoders_gave(model, inputs) -> None:
    for owner in (model, model.model):
        output = owner(**inputs)
        for modality in MEDIA:
            media = output[f"{modality.key}_outputs"]
            assert len(media.pooler_output) == len(inputs[modality.feature_name])
            assert media.last_hidden_state.dim() == 3
        text = owner(input_ids=IDS)
        assert all(text.get(f"{modality.key}_outputs") is None for modality in MEDIA)
        as_tuple = owner(**inputs, return_dict=False)
        assert isinstance(as_tuple, tuple) and all(isinstance(part, tuple) for part in as_tuple[-4:])


@pytest.mark.parametrize("where", ["whole", "text"])
def test_what_to_return_may_be_set_in_either_configuration(inputs, where, tmp_path) -> None:
    """By keyword, as an attribute, or in the file; an argument goes before it."""
    flags = {"output_hidden_states": True, "output_attentions": True, "output_router_logits": True}
    config = tiny_config(**MOE, **(flags if where == "text" else {}))
    values = {**config.to_dict(), **(flags if where == "whole" else {})}
    for field in ("_attn_implementation", "attn_implementation"):
        values.pop(field, None)
    built = UniMoEConfig.from_dict(json.loads(json.dumps(values, default=str)))
    model = UniMoEForConditionalGeneration._from_config(built, attn_implementation={"text_config": "eager"}).eval()
    changed = tiny_model(**MOE)
    changed.set_attn_implementation({"text_config": "eager"})
    config = changed.config if where == "whole" else changed.config.text_config
    config.output_hidden_states = config.output_router_logits = config._output_attentions = True
    for found in (model, changed):
        for owner in (found, found.model):
            output = owner(**inputs)
            assert len(output.hidden_states) == 3
            assert len(output.attentions) == len(output.router_logits) == 2
            silent = owner(**inputs, output_hidden_states=False, output_attentions=False, output_router_logits=False)
            assert not silent.hidden_states and not silent.attentions and not silent.router_logits


MOVES = {
    "to": lambda model: model.to(torch.bfloat16),
    "half": lambda model: model.half(),
    "bfloat16": lambda model: model.bfloat16(),
    "to, on the meta device": lambda model: model.to("meta").to(torch.bfloat16),
}


@pytest.mark.parametrize("move", MOVES)
def test_routers_are_moved_but_never_rounded(move) -> None:
    config = {**MOE, "modality_routing": "separate", "router_modality_projection": True, "balance_bias": True}
    model = tiny_model(**config)
    before = {name: value.clone() for name, value in model.state_dict().items() if ".router." in name}
    MOVES[move](model)
    after = model.state_dict()
    assert before and all(after[name].dtype == torch.float32 for name in before)
    if "meta" not in move:
        assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {p.dtype for n, p in model.named_parameters() if ".router." not in n} <= {torch.bfloat16, torch.float16}
    assert all(p.dtype == torch.float64 for p in tiny_model(**config).double().parameters())


@pytest.mark.parametrize("router", [{}, {"router_type": "noisy_top_k"}, {"router_type": "hierarchical", "n_group": 2}])
def test_routers_are_float32_from_the_start(router) -> None:
    for auto, config in (
        (AutoModelForMultimodalLM, tiny_config(**MOE, **router)),
        (AutoModelForCausalLM, UniMoETextConfig(**TEXT, **MOE, **router)),
    ):
        model = auto.from_config(config, dtype=torch.bfloat16)
        routers = [
            parameter for module in model.modules() if isinstance(module, Router) for parameter in module.parameters()
        ]
        assert routers and all(p.dtype == torch.float32 for p in routers)
        assert model.lm_head.weight.dtype == torch.bfloat16


def test_saved_tokenizers_pad_left_and_a_stated_side_is_kept(tmp_path) -> None:
    save_tiny(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).padding_side == "left"
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["padding_side"] == "left"
    processor = make_processor(tokenizer=byte_tokenizer(padding_side="right"))
    assert processor.tokenizer.padding_side == "right"


def test_text_and_pictures_may_be_passed_by_position_in_either_order() -> None:
    processor, text, image = make_processor(), "<|image|> what?", picture()
    expected = processor(text=text, images=image, return_tensors="pt")
    for given in ((text, image), (image, text), ([text], [image]), ((text,), [image]), (np.array([text]), image)):
        found = processor(*given, return_tensors="pt")
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("text", [5, [1, 2], [["a"]], sound(), torch.zeros(3), {"a": 1}, [None], b"what?"])
def test_what_is_no_text_is_refused_by_name(text) -> None:
    with pytest.raises(UniMoEError, match="text"):
        make_processor()(text=text)


def test_a_text_in_the_place_of_pictures_is_told_where_it_belongs() -> None:
    for given in ("what is it?", ["what?", "where?"]):
        with pytest.raises(UniMoEError, match=r"text=\.\.\."):
            make_processor()(given)
    with pytest.raises(UniMoEError, match="apply_chat_template"):
        make_processor()([{"role": "user", "content": "what?"}])


VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.mark.parametrize(("layer", "unread"), [(-1, {"pooler"}), (-2, {"pooler", "layernorm", "layers.1"})])
def test_parameters_that_change_nothing_neither_train_nor_count_as_active(layer, unread) -> None:
    """They are those that get no gradient."""
    ids = {"image_token_id": 60, "video_token_id": 61}
    vision = {"tower_config": VIT, "feature_layer": layer}
    config = UniMoEConfig(text_config={**TEXT, **MOE}, vision_config=vision, **ids)
    model = UniMoEForConditionalGeneration(config)
    tokens = torch.tensor([[60] * config.num_tokens["image"] + [5, 6]])
    model(tokens, pixel_values=torch.randn(1, 3, 32, 32), labels=tokens).loss.backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert model.unread_parameters() == idle
    assert all(any(part in name for name in idle) for part in unread)
    parts = {name for names in model.parts().values() for name in names}
    assert parts == {name for name, _ in model.named_parameters()} - idle
    lost = sum(model.get_parameter(name).numel() for name in idle)
    without = sum(p.numel() for p in model.parameters()) - lost
    dense = text_model(num_experts=0)
    assert count_parameters(model)["active"] == without - 2 * (4 - 2) * 3 * 32 * 48
    assert count_per_token(model)["image"].parameters == count_parameters(model)["active"]
    assert count_parameters(dense)["active"] == count_parameters(dense)["total"]


CHANGES = {
    "values that do not fit": lambda config: setattr(config.text_config, "num_experts_per_tok", 99),
    "an attribute that is no field": lambda config: setattr(config.text_config, "num_expert", 4),
    "what JSON does not hold": lambda config: setattr(config, "image_max_tiles_", object()),
    "an id outside of the vocabulary": lambda config: setattr(config, "image_token_id", 10_000),
    "a part that lost its width": lambda config: setattr(config.speech_connector_config, "stack", 7),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_configuration_that_could_not_be_loaded_is_not_saved(change, tmp_path) -> None:
    model = tiny_model(**MOE)
    CHANGES[change](model.config)
    for owner in (model, model.config):
        with pytest.raises(UniMoEError, match="not saved"):
            owner.save_pretrained(tmp_path / "folder")
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("config.json"))


def test_what_transformers_sets_on_a_configuration_is_saved(tmp_path) -> None:
    model = tiny_model(**MOE)
    model.config.use_cache = False
    model.config.text_config.pad_token_id = 3
    model.config.architectures = ["UniMoEForConditionalGeneration"]
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    assert UniMoEConfig.from_pretrained(tmp_path).text_config.pad_token_id == 3
    assert tiny_inputs(model.config)
