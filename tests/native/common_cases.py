"""Our classes as transformers' common tests want them: configurations, inputs, a processor; loaded when asked."""

import json
import unittest
from itertools import chain
from typing import Any
from unittest.mock import patch

import torch
from tiny import AST, TEXT, WHISPER, tiny_inputs
from tiny_processor import make_processor
from transformers_tests import load

from unimoe import (
    MEDIA,
    UniMoEConfig,
    UniMoEForCausalLM,
    UniMoEForConditionalGeneration,
    UniMoEModel,
    UniMoEProcessor,
    UniMoETextConfig,
    UniMoETextModel,
)

# Not the last ids, which tests of resized embeddings clamp, nor below 5, which others draw for further rows.
IDS = {"image_token_id": 10, "video_token_id": 11, "audio_token_id": 12, "speech_token_id": 13}
WORD = 14
ROWS = 7  # so many of some tests; of fewer, they would make up rows, and media for them
MOE = {**TEXT, "num_experts": 4}
VIT = {
    "model_type": "ijepa",  # as a ViT, but without a pooler that no gradient reaches
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 16,
}
CONFIG = {
    "text_config": MOE,
    "vision_config": {"tower_config": VIT},
    "audio_config": {"tower_config": {**AST, "num_hidden_layers": 2}},
    "speech_config": {"tower_config": {**WHISPER, "encoder_layers": 2}},
    **IDS,
}


class TextTester:
    """A sparse decoder; the attributes are those that the common tests read."""

    batch_size, seq_length, is_training = ROWS, 7, True
    num_hidden_layers, hidden_size, num_attention_heads = 2, 32, 4

    def __init__(self, parent: Any = None) -> None:
        self.parent = parent

    def get_config(self) -> Any:
        return UniMoETextConfig(**MOE)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict]:
        ids = torch.randint(WORD, 60, (ROWS, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class MultimodalTester(TextTester):
    """Every medium in each row, one unit of each."""

    def get_config(self) -> Any:
        return UniMoEConfig(**CONFIG)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict]:
        config = self.get_config()
        row = tiny_inputs(config)
        media = {name: row[name][:1] for name in ("pixel_values", "speech_features", "audio_features")}
        media["pixel_values_videos"] = row["pixel_values_videos"][:1, :1]
        blocks = [[config.token_id(modality)] * config.num_tokens[modality.key] for modality in config.media]
        ids = torch.tensor([[WORD, *chain(*blocks), 15, 16]] * ROWS)
        self.seq_length = ids.shape[1]
        media = {name: torch.cat([value] * ROWS) for name, value in media.items()}
        return config, {"input_ids": ids, "attention_mask": torch.ones_like(ids), **media}


def widen_norms(config: Any) -> None:
    """As transformers' helper, but of norms that a configuration has: what is no field could not be saved."""
    for part in (config, *(getattr(config, key) for key in config.sub_configs)):
        for name in ("rms_norm_eps", "layer_norm_eps", "norm_eps"):
            if hasattr(part, name):
                setattr(part, name, 1.0)


def without_others_fields() -> Any:
    """Leave aside what a test sets on every configuration for the families that have such a field."""
    others = {"first_k_dense_replace", "moe_layer_start_index", "num_dense_layers"}
    plain = UniMoETextConfig.__setattr__

    def set_own(self: Any, name: str, value: Any) -> None:
        if name not in others:
            plain(self, name, value)

    return patch.object(UniMoETextConfig, "__setattr__", set_own)


def modeling() -> dict[str, type[unittest.TestCase]]:
    """Cases of `test_modeling_common`."""
    common = load("test_modeling_common")
    draw = common.ids_tensor
    common.ids_tensor = lambda *args, **kwargs: draw(*args, **kwargs).clamp(min=WORD)  # words, no placeholders
    common.set_config_for_less_flaky_test = widen_norms

    class Case(common.ModelTesterMixin):
        def test_reverse_loading_mapping(self) -> None:
            with without_others_fields():
                super().test_reverse_loading_mapping()

    class Multimodal(Case, unittest.TestCase):
        all_model_classes = (UniMoEModel, UniMoEForConditionalGeneration)
        _is_composite = True
        additional_model_inputs = [modality.feature_name for modality in MEDIA]

        def setUp(self) -> None:
            self.model_tester = MultimodalTester(self)

    class Text(Case, unittest.TestCase):
        all_model_classes = (UniMoETextModel, UniMoEForCausalLM)

        def setUp(self) -> None:
            self.model_tester = TextTester(self)

    return {"multimodal": Multimodal, "text": Text}


def configuration() -> dict[str, type[unittest.TestCase]]:
    """Cases of `test_configuration_common`."""
    common = load("test_configuration_common")

    class Configurations(unittest.TestCase):
        model_tester = MultimodalTester()

        def test_text(self) -> None:
            common.ConfigTester(self, config_class=UniMoETextConfig, **MOE).run_common_tests()

        def test_multimodal(self) -> None:
            saved = json.loads(UniMoEConfig(**CONFIG).to_json_string())
            values = {key: value for key, value in saved.items() if key in CONFIG}
            common.ConfigTester(self, config_class=UniMoEConfig, has_text_modality=False, **values).run_common_tests()

    return {"configuration": Configurations}


def processing() -> dict[str, type[unittest.TestCase]]:
    """Cases of `test_processing_common`."""
    common = load("test_processing_common")

    class Processing(common.ProcessorTesterMixin, unittest.TestCase):
        processor_class = UniMoEProcessor
        audio_input_name = "audio_features"
        image_token, video_token, audio_token = (str(m.token) for m in MEDIA[:3])

        @classmethod
        def _setup_from_components(cls) -> Any:
            return make_processor()

    return {"processing": Processing}


def pipelines() -> dict[str, type[unittest.TestCase]]:
    """Cases of `test_pipeline_mixin`, whose own test classes are in a folder that the distribution lacks."""
    common = load("test_pipeline_mixin")

    class Pipelines(common.PipelineTesterMixin, unittest.TestCase):
        pipeline_model_mapping = dict.fromkeys(("image-text-to-text", "any-to-any"), UniMoEForConditionalGeneration)

    return {"pipelines": Pipelines}


SUITES = (modeling, configuration, processing, pipelines)
