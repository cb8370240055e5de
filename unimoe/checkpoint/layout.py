"""Checkpoints hold the experts one by one, as those of Mixtral and Qwen-MoE do; models hold them in stacks.

`mlp.experts.3.gate_proj.weight` and its like are stacked when a folder is loaded, and written apart when a model is
saved. A folder that holds stacks loads too, and is saved as stacks again; `save_original_format=False` always writes
stacks.
"""

from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter

from ..configuration_unimoe import UniMoETextConfig

# The base of LoRA experts is one feed-forward, `mlp.experts.base.gate_proj.weight`, and not an expert named `base`.
_EXPERT = r"mlp.experts.(?!base\.)*."


def register_layout() -> None:
    """Tell transformers' loader and `save_pretrained` of the layout."""
    gate_up = WeightConverter(
        [f"{_EXPERT}gate_proj.weight", f"{_EXPERT}up_proj.weight"],
        "mlp.experts.gate_up_proj",
        [MergeModulelist(dim=0), Concatenate(dim=1)],
    )
    down = WeightConverter(f"{_EXPERT}down_proj.weight", "mlp.experts.down_proj", [MergeModulelist(dim=0)])
    register_checkpoint_conversion_mapping(UniMoETextConfig.model_type, [gate_up, down], overwrite=True)


__all__ = ["register_layout"]
