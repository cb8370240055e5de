"""What all unimoe models share: flags for transformers, initialisation, loading, and what to return."""

from collections.abc import Iterable
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from ..configuration_unimoe import UniMoETextConfig
from ..connectors import QueryConnector
from ..errors import DataError
from ..files.folder import check_folder, local_folder
from ..files.weights import check_weights
from ..moe import Router, SoftMoeBlock, SparseMoeBlock
from ..moe.experts import AnyExperts, init_experts
from ..moe.routers import init_router

_RECORDINGS = ("output_hidden_states", "output_attentions", "output_router_logits")


class UniMoEPreTrainedModel(PreTrainedModel):
    """What all unimoe models share: flags, initialisation, and which implementations may be chosen."""

    config: Any
    config_class: type[PreTrainedConfig] = UniMoETextConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderLayer"]
    _keep_in_fp32_modules_strict = ["router"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _fixed: frozenset[str] = frozenset()

    def post_init(self) -> None:
        """Finish construction as every transformers model does; collect what stays whole, remember what it froze.

        Routers are float32 before weights are drawn, whatever dtype `from_config` was given.
        """
        for module in self.modules():
            if isinstance(module, Router):
                module.keep_float32()
        super().post_init()
        # transformers asks direct children which modules a device map may not split; towers are deeper.
        models = [module for module in self.modules() if isinstance(module, PreTrainedModel)]
        blocks = {name for model in models for name in model._no_split_modules or ()}
        self._no_split_modules = sorted(blocks)
        self._fixed = frozenset(name for name, parameter in self.named_parameters() if not parameter.requires_grad)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Load as every transformers model does, and freeze what construction froze.

        transformers' loader lets all parameters train: the base of LoRA experts, and Whisper's sinusoids.

        Raises:
            CheckpointError: If a file of the folder says two things or names files outside of it, or a weight is no
                number.
        """
        folder = local_folder(pretrained_model_name_or_path, kwargs.get("subfolder"))
        if folder:
            check_folder(folder)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with `output_loading_info`
        for name, parameter in model.named_parameters():
            if name in model._fixed:
                parameter.requires_grad_(False)
        if folder:
            check_weights(model, folder)
        return loaded

    def recordings(self, given: dict[str, Any]) -> dict[str, Any]:
        """Say what a forward returns besides its result: as `given`, else as configured for the whole or its text."""
        asked = asked_for((self.config, self.config.get_text_config()))
        return {name: given.get(name) if given.get(name) is not None else name in asked for name in _RECORDINGS}

    # transformers decides these two by searching the text of the file that defines the class; ours spans several
    # files.
    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True

    @classmethod
    def is_custom_code(cls) -> bool:
        """Be initialised as transformers' own models are.

        Of other packages' models it skips modules without weights of their own, and with them what their towers set
        in such a place: the sinusoids of Whisper.
        """
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, AnyExperts):
            init_experts(module, std)
        elif isinstance(module, Router):
            init_router(module, std)
        elif isinstance(module, SparseMoeBlock):
            if module.alias_index is not None:
                init.copy_(module.alias_index, module.find_alias_index())
        elif isinstance(module, SoftMoeBlock):
            init.normal_(module.slots, mean=0.0, std=std)
            init.ones_(module.scale)
        elif isinstance(module, QueryConnector):
            init.normal_(module.queries, mean=0.0, std=std)


def asked_for(configs: Iterable[PreTrainedConfig]) -> set[str]:
    """Name what forwards shall return by one of these configurations."""
    return {name for config in configs for name in _RECORDINGS if getattr(config, name, None)}


def require_one(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> None:
    """Refuse `input_ids` and `inputs_embeds` together, and neither.

    Raises:
        DataError: Unless exactly one is given.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise DataError("Specify exactly one of input_ids and inputs_embeds.")


__all__ = ["UniMoEPreTrainedModel", "asked_for", "require_one"]
