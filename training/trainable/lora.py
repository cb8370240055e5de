"""LoRA by peft: low-rank deltas put on parts of a model, saved, put on again, and merged."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from unimoe import UniMoEForConditionalGeneration
from unimoe.errors import ConfigError
from unimoe.moe import Experts

from ..config.stage import STAGE_FILE
from ..config.train import LoraTraining

ADAPTER_FOLDER = "adapter"
"""Within a stage's output: the deltas in peft's format."""

Deltas = dict[str, list[nn.Parameter]]


def add_lora(
    model: UniMoEForConditionalGeneration, config: LoraTraining, names: dict[str, list[str]]
) -> tuple[Any, Deltas]:
    """Put deltas on the linear layers and stacked experts of parts, in place: new ones, or saved ones to go on with.

    Args:
        model: Its other parameters are frozen.
        config: Parts and sizes.
        names: Parameters of each part.

    Returns:
        peft's model around this one, and the deltas of each part.

    Raises:
        ConfigError: If a part has nothing that LoRA can be put on, or saved deltas are others than the stage says.
    """
    from peft import LoraConfig, PeftModel

    modules: list[str] = []
    parameters: list[str] = []
    for part in config.parts:
        part_modules, part_parameters = lora_targets(model, names[part])
        if not part_modules and not part_parameters:
            raise ConfigError(
                f"train.lora.parts: {part} has neither linear layers nor stacked experts; name it in train.parts."
            )
        modules += part_modules
        parameters += part_parameters
    settings = LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.use_rslora,
        target_modules=modules or None,
        target_parameters=parameters or None,
    )
    if config.adapter is None:
        adapter: Any = PeftModel(model, settings)
    else:
        _check_adapter(config.adapter, settings)
        adapter = PeftModel.from_pretrained(model, config.adapter, is_trainable=True)
    deltas: Deltas = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            owner = next(part for part in config.parts if _belongs(name, names[part]))
            deltas.setdefault(owner, []).append(parameter)
    return adapter, deltas


def _check_adapter(folder: str, settings: Any) -> None:
    """Refuse to go on with deltas that were made for other parts, or of another size."""
    from peft import PeftConfig

    try:
        saved: Any = PeftConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"train.lora.adapter: {folder} holds no adapter of peft ({error}).") from None
    for key, field in (("r", "r"), ("alpha", "lora_alpha"), ("use_rslora", "use_rslora")):
        if getattr(saved, field) != getattr(settings, field):
            raise ConfigError(
                f"train.lora.{key} is {getattr(settings, field)}, but the adapter {folder} was trained with "
                f"{getattr(saved, field)}. Put it back, or start a new adapter."
            )
    for field in ("target_modules", "target_parameters"):
        if differing := set(getattr(saved, field) or ()) ^ set(getattr(settings, field) or ()):
            raise ConfigError(
                f"train.lora.parts: the adapter {folder} was trained on other parts; {min(differing)} is in one of "
                "both only. Name the same parts, or start a new adapter."
            )


def lora_targets(model: nn.Module, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Find what LoRA can be put on among parameters: names of linear modules, and names of stacked 3-D parameters."""
    modules = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    linear = [name for name in modules if type(model.get_submodule(name)) is nn.Linear]
    stacked = [name for name in names if isinstance(model.get_submodule(name.rpartition(".")[0]), Experts)]
    return linear, stacked


def _belongs(delta: str, names: list[str]) -> bool:
    """Whether a low-rank parameter sits on a module of these; peft adds `.base_layer` and `.lora_` to names."""
    module = delta.partition(".lora_")[0].replace(".base_layer", "")
    return any(name.startswith(f"{module}.") for name in names)


def save_adapter(adapter: Any, folder: Path, *, base: str) -> None:
    """Write deltas in peft's format; `PeftModel.from_pretrained(model, folder)` puts them on again.

    Args:
        adapter: As `add_lora` returned it.
        folder: Where to.
        base: Folder of the model that they belong to, for people.
    """
    adapter.peft_config["default"].base_model_name_or_path = base
    adapter.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a form with nothing filled in


def unmerged_adapter(folder: str | Path) -> Path | None:
    """Return the adapter that belongs on the model of a stage's output: one that was saved apart from it. None: all is
    in.
    """
    stage, adapter = Path(folder) / STAGE_FILE, Path(folder) / ADAPTER_FOLDER
    if not (stage.is_file() and (adapter / "adapter_config.json").is_file()):
        return None
    lora = (yaml.safe_load(stage.read_text(encoding="utf-8")).get("train") or {}).get("lora") or {}
    return None if lora.get("merge", True) else adapter


def merge_adapter(model: UniMoEForConditionalGeneration, folder: str | Path) -> None:
    """Add the deltas of an adapter to a model, in place.

    Args:
        model: The model that they were trained on.
        folder: The adapter.

    Raises:
        ConfigError: If the adapter does not fit the model.
    """
    from peft import PeftModel

    try:
        PeftModel.from_pretrained(model, str(folder)).merge_and_unload(safe_merge=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{folder}: the adapter does not fit the model: {error}") from error


__all__ = ["ADAPTER_FOLDER", "add_lora", "lora_targets", "merge_adapter", "save_adapter", "unmerged_adapter"]
