"""Classes and configurations as transformers' own: registered, whole through saving, documented, usable alone."""

import importlib
import inspect
import json
import pkgutil
from pathlib import Path

import pytest
import torch
from tiny import RESNET, TEXT, tiny_config, tiny_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    PreTrainedConfig,
    Trainer,
    TrainingArguments,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

import unimoe
from unimoe import Modality, UniMoEBeatsConfig, UniMoEForCausalLM, UniMoETextConfig, UniMoETextModel

CONFIGS = {
    name: value
    for name, value in vars(unimoe).items()
    if inspect.isclass(value) and issubclass(value, PreTrainedConfig)
}
CONFIG = tiny_config(num_experts=4)
PARTS = {
    "UniMoEConfig": CONFIG,
    "UniMoETextConfig": CONFIG.text_config,
    "UniMoEVisionConfig": CONFIG.vision_config,
    "UniMoEAudioConfig": CONFIG.audio_config,
    "UniMoESpeechConfig": CONFIG.speech_config,
    "UniMoEBeatsConfig": UniMoEBeatsConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2),
    "UniMoEConnectorConfig": CONFIG.audio_connector_config,
}


def test_every_configuration_is_tested_here() -> None:
    assert CONFIGS.keys() == PARTS.keys()


@pytest.mark.parametrize("name", PARTS)
def test_a_configuration_is_registered_under_a_name_of_its_own(name) -> None:
    config_class = CONFIGS[name]
    assert config_class.model_type.startswith("unimoe") and config_class.model_type not in CONFIG_MAPPING_NAMES
    assert type(AutoConfig.for_model(**PARTS[name].to_dict())) is config_class


@pytest.mark.parametrize("name", PARTS)
def test_a_configuration_survives_saving_loading_and_its_difference_from_the_default(name, tmp_path: Path) -> None:
    config = PARTS[name]
    config.save_pretrained(tmp_path)
    for loaded in (AutoConfig.from_pretrained(tmp_path), CONFIGS[name].from_pretrained(tmp_path)):
        assert type(loaded) is CONFIGS[name]
        assert loaded.to_diff_dict() == config.to_diff_dict()
        assert without_path(loaded.to_dict()) == without_path(config.to_dict())
    rebuilt = CONFIGS[name](**json.loads(json.dumps(config.to_dict())))
    assert rebuilt.to_diff_dict() == config.to_diff_dict()
    assert config.to_diff_dict()["model_type"] == CONFIGS[name].model_type


def without_path(values: dict) -> dict:
    return {name: value for name, value in values.items() if name not in ("_name_or_path", "architectures")}


@pytest.mark.parametrize("name", PARTS)
def test_an_unknown_field_and_a_wrong_type_are_refused(name) -> None:
    values = PARTS[name].to_dict()
    with pytest.raises(ValueError, match="unknown key 'hiden_size'"):
        CONFIGS[name](**values, hiden_size=3)
    with pytest.raises(Exception, match="initializer_range"):
        CONFIGS[name](**{**values, "initializer_range": "wide"})


def test_parts_do_not_share_their_rope_parameters() -> None:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    first, second = (UniMoETextConfig(**TEXT, rope_parameters=dict(rope)) for _ in range(2))
    first.rope_parameters["rope_theta"] = 1.0
    assert second.rope_parameters["rope_theta"] == 10000.0


def test_auto_classes_know_every_class() -> None:
    assert type(AutoModel.from_config(CONFIG.text_config)) is UniMoETextModel
    assert type(AutoModelForCausalLM.from_config(CONFIG.text_config)) is UniMoEForCausalLM
    for auto_class in (AutoModelForMultimodalLM, AutoModelForImageTextToText):
        assert type(auto_class.from_config(CONFIG)) is unimoe.UniMoEForConditionalGeneration
    assert type(AutoModel.from_config(CONFIG)) is unimoe.UniMoEModel


def test_the_text_configuration_is_found_within_the_whole() -> None:
    assert CONFIG.get_text_config() is CONFIG.text_config
    assert CONFIG.text_config.get_text_config() is CONFIG.text_config


def test_every_part_of_the_model_can_be_used_alone(inputs, model) -> None:
    for modality in model.config.media:
        key, name = modality.encoder_key, str(modality.feature_name)
        if modality is not Modality.VIDEO:
            tokens = model.model.encoders[key](inputs[name]).last_hidden_state
            assert model.model.connectors[key](tokens).shape[-1] == model.config.text_config.hidden_size
    assert model.model.language_model(input_ids=torch.tensor([[5, 6]])).last_hidden_state.shape == (1, 2, 32)
    assert model.get_input_embeddings() is model.model.get_input_embeddings()
    assert model.get_output_embeddings() is model.lm_head
    model = tiny_model()
    model.resize_token_embeddings(70)
    assert model.config.text_config.vocab_size == 70 == model.lm_head.out_features


def test_features_can_be_had_from_the_model_and_from_the_model_with_its_head(model, inputs) -> None:
    for modality in model.config.media:
        for owner in (model, model.model):
            output = getattr(owner, f"get_{modality.key}_features")(inputs[str(modality.feature_name)])
            units = output.pooler_output
            assert len(units) == len(inputs[str(modality.feature_name)])
            assert {tuple(unit.shape) for unit in units} == {(model.config.num_tokens[modality.key], 32)}
            assert output.last_hidden_state.dim() == 3


def test_exactly_one_of_ids_and_embeddings_is_taken(model) -> None:
    for part in (model, model.model, model.model.language_model, UniMoEForCausalLM(UniMoETextConfig(**TEXT))):
        for given in ({}, {"input_ids": torch.tensor([[5]]), "inputs_embeds": torch.zeros(1, 1, 32)}):
            with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
                part(**given)


def test_files_and_their_contents_are_named_as_those_of_transformers() -> None:
    for prefix in ("configuration", "modeling", "processing"):
        module = importlib.import_module(f"unimoe.{prefix}_unimoe")
        assert set(module.__all__) <= vars(module).keys()
    assert {"configuration_unimoe", "modeling_unimoe", "processing_unimoe"} <= {
        module.name for module in pkgutil.iter_modules(unimoe.__path__)
    }


@pytest.mark.parametrize("name", unimoe.__all__)
def test_public_classes_and_their_methods_say_what_they_do(name) -> None:
    thing = getattr(unimoe, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        for method, function in vars(thing).items():
            if inspect.isfunction(function) and not method.startswith("_"):
                assert inspect.getdoc(function), f"{name}.{method}"


def test_flags_that_transformers_reads(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_model(num_experts=4)
    assert model.input_modalities == ("image", "video", "audio", "text")
    assert model.supports_gradient_checkpointing and model._can_compile_fullgraph
    assert "cache" in model._skip_keys_device_placement
    assert Trainer(model, TrainingArguments(report_to=[], use_cpu=True)).model_accepts_loss_kwargs
    names = inspect.signature(model.forward).parameters
    order = ["input_ids", "attention_mask", "position_ids", "cache", "inputs_embeds", "labels", "use_cache"]
    assert list(names)[: len(order)] == order
    assert CONFIG.vision_config.tower_config.model_type == RESNET["model_type"]
