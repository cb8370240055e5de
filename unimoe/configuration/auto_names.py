"""The tables of class names by which transformers decides what a model is where it does not ask the Auto classes.

A Trainer with `label_smoothing_factor` shifts labels for the causal language models of these tables alone; of any
other model it would smooth the loss of repeating the input. `transformers serve`, the text-generation pipeline and
model cards look here too. `AutoModel.register` does not enter them.
"""

from transformers.models.auto import modeling_auto

_NAMES = {
    "MODEL_MAPPING_NAMES": {"unimoe": "UniMoEModel", "unimoe_text": "UniMoETextModel"},
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": {
        "unimoe_text": "UniMoEForCausalLM",
        "unimoe": "UniMoEForConditionalGeneration",  # its labels are those of a causal model
    },
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES": {"unimoe": "UniMoEForConditionalGeneration"},
    "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES": {"unimoe": "UniMoEForConditionalGeneration"},
}


def register_names() -> None:
    """Enter unimoe's classes; transformers' own entries stay as they are."""
    for table, names in _NAMES.items():
        for model_type, name in names.items():
            getattr(modeling_auto, table).setdefault(model_type, name)


__all__ = ["register_names"]
