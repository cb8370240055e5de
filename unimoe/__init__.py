"""unimoe: multimodal mixture-of-experts models in Hugging Face style.

`import unimoe` registers every configuration, model and processor with transformers' Auto classes.
"""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from .checkpoint.layout import register_layout
from .checkpoint.quantised import register_reader
from .configuration.auto_names import register_names
from .configuration_unimoe import (
    UniMoEAudioConfig,
    UniMoEConfig,
    UniMoEConnectorConfig,
    UniMoESpeechConfig,
    UniMoETextConfig,
    UniMoEVisionConfig,
)
from .encoders.beats.configuration import UniMoEBeatsConfig
from .encoders.beats.feature_extraction import BeatsFeatureExtractor
from .encoders.beats.modeling import BeatsModel
from .modality import MEDIA, Modality
from .modeling.head import UniMoEForCausalLM
from .modeling.text import UniMoETextModel
from .modeling_unimoe import UniMoEForConditionalGeneration, UniMoEModel
from .moe.experts import experts_as_linears, fold_experts
from .processing_unimoe import CHAT_TEMPLATE, UniMoEProcessor, add_placeholder_tokens

__version__ = "0.1.0"


def _register() -> None:
    for config_class in (
        UniMoEConfig,
        UniMoETextConfig,
        UniMoEVisionConfig,
        UniMoEAudioConfig,
        UniMoESpeechConfig,
        UniMoEConnectorConfig,
        UniMoEBeatsConfig,
    ):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(UniMoEConfig, UniMoEModel, exist_ok=True)
    AutoModel.register(UniMoETextConfig, UniMoETextModel, exist_ok=True)
    AutoModel.register(UniMoEBeatsConfig, BeatsModel, exist_ok=True)
    AutoFeatureExtractor.register(UniMoEBeatsConfig, BeatsFeatureExtractor, exist_ok=True)
    AutoModelForCausalLM.register(UniMoETextConfig, UniMoEForCausalLM, exist_ok=True)
    for auto_class in (AutoModelForMultimodalLM, AutoModelForImageTextToText):
        auto_class.register(UniMoEConfig, UniMoEForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(UniMoEConfig, UniMoEProcessor, exist_ok=True)
    register_names()
    register_layout()
    register_reader()


_register()

__all__ = [
    "CHAT_TEMPLATE",
    "MEDIA",
    "BeatsFeatureExtractor",
    "BeatsModel",
    "Modality",
    "UniMoEAudioConfig",
    "UniMoEBeatsConfig",
    "UniMoEConfig",
    "UniMoEConnectorConfig",
    "UniMoEForCausalLM",
    "UniMoEForConditionalGeneration",
    "UniMoEModel",
    "UniMoEProcessor",
    "UniMoESpeechConfig",
    "UniMoETextConfig",
    "UniMoETextModel",
    "UniMoEVisionConfig",
    "add_placeholder_tokens",
    "experts_as_linears",
    "fold_experts",
]
