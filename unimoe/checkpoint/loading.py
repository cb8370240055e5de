"""Load a model folder, or say in one line what is wrong with it: the file, the weight or the key, and the cure.

transformers draws random values for weights that a checkpoint lacks and leaves out those that the model has no place
for, both with no more than a warning. Here both are errors, as is a processor that does not fit the model.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import (
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.utils import logging

from ..configuration_unimoe import UniMoEConfig
from ..errors import UniMoEError
from ..files.folder import AGAIN, CheckpointError, check_folder
from ..files.weights import check_weights
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..processing_unimoe import UniMoEProcessor

LOADING_ERRORS = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)
"""What transformers raises when a folder cannot be loaded."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_model(source: str | Path, *, dtype: torch.dtype | str = "auto") -> UniMoEForConditionalGeneration:
    """Load a unimoe model, in evaluation mode, with every weight that its configuration describes and no other.

    Args:
        source: Folder or Hub id.
        dtype: Of the weights. `auto`: as they were saved.

    Raises:
        CheckpointError: If it is no unimoe model, or a file or a weight is missing, damaged or of another model.
    """
    kind = _model_type(source)
    if kind != UniMoEConfig.model_type:
        raise CheckpointError(
            source,
            f"it holds a {kind!r} model, not a unimoe model. Compose one from pretrained "
            "parts with `unimoe build`, or correct the path.",
        )
    model: UniMoEForConditionalGeneration = load_weights(
        UniMoEForConditionalGeneration, source, dtype=dtype, exact=True
    )
    return model


def load_processor(source: str | Path, config: UniMoEConfig) -> UniMoEProcessor:
    """Load the processor of a `source`, and check that it makes the tokens that the model's `config` expects.

    Raises:
        CheckpointError: If a file of it is missing or damaged, or it is another model's.
    """
    cure = f"Save the model's processor beside it: processor.save_pretrained({str(source)!r})."
    if Path(source).is_dir():
        for names in (
            ("processor_config.json",),
            ("tokenizer_config.json",),
            ("tokenizer.json", "tokenizer.*", "vocab.*"),
        ):
            if not any(path for name in names for path in Path(source).glob(name)):
                raise CheckpointError(source, f"there is no {names[0]}. {cure}")
    with _one_line(source):
        processor = UniMoEProcessor.from_pretrained(source, trust_remote_code=False)
    expected = config.media_layout.to_dict()
    if differing := sorted(key for key, value in expected.items() if processor.media_layout[key] != value):
        key = differing[0]
        raise CheckpointError(
            source,
            f"its processor_config.json has media_layout.{key} {processor.media_layout[key]}, but its "
            f"config.json describes a model with {expected[key]}. {cure}",
        )
    return processor


def load_any(source: str | Path) -> tuple[Any, Any]:
    """Load a unimoe model, or another multimodal one that transformers knows, and its processor.

    Raises:
        CheckpointError: As `load_model`; weights of another kind of model that have no place in it are left out.
    """
    kind = _model_type(source)
    if kind == UniMoEConfig.model_type:
        model = load_model(source)
        return model, load_processor(source, model.config)
    if kind not in {config.model_type for config in MODEL_FOR_MULTIMODAL_LM_MAPPING}:
        raise CheckpointError(
            source,
            f"it holds a {kind!r} model, which is not a multimodal language model. Correct "
            "the path, or compose a model from pretrained parts with `unimoe build`.",
        )
    model = load_weights(AutoModelForMultimodalLM, source, dtype="auto", exact=False)
    with _one_line(source):
        return model, AutoProcessor.from_pretrained(source, trust_remote_code=False)


def load_mixture(source: str | Path, *, dtype: torch.dtype | str = "auto") -> tuple[Any, Any]:
    """Load a model of this package, or a language model of transformers, text alone or not, and what makes its tokens.

    Args:
        source: Folder or Hub id.
        dtype: Of the weights. `auto`: as they were saved.

    Returns:
        The model in evaluation mode, and its processor, or the tokenizer of a model of text.

    Raises:
        CheckpointError: As `load_model`.
    """
    if _model_type(source) == UniMoEConfig.model_type:
        model = load_model(source, dtype=dtype)
        return model, load_processor(source, model.config)
    with _one_line(source):
        auto_class = auto_class_of(AutoConfig.from_pretrained(source, trust_remote_code=False))
        is_text = auto_class is AutoModelForCausalLM
        processor = (AutoTokenizer if is_text else AutoProcessor).from_pretrained(source, trust_remote_code=False)
    return load_weights(auto_class, source, dtype=dtype, exact=True), processor


def auto_class_of(config: PreTrainedConfig) -> Any:
    """Return the class of transformers that builds and loads a language model, with media or without."""
    is_multimodal = type(config) in MODEL_FOR_MULTIMODAL_LM_MAPPING
    return AutoModelForMultimodalLM if is_multimodal else AutoModelForCausalLM


def read_config(source: str | Path) -> dict[str, Any]:
    """Read the configuration of any model as it stands; the JSON files of a folder are checked on the way.

    Raises:
        CheckpointError: If there is no folder, no configuration in it, or a JSON file is damaged.
    """
    path = Path(source)
    if path.is_dir():
        _check_files(path)
    elif path.exists() or not HUB_ID.fullmatch(str(source)):
        raise CheckpointError(source, "there is no such folder. Correct the path.")
    try:
        values, _ = PreTrainedConfig.get_config_dict(source)
    except LOADING_ERRORS as error:
        raise CheckpointError(
            source,
            f"there is no such folder, nor such a model on the Hub or in its cache ({type(error).__name__}). Correct "
            "the path, or unset HF_HUB_OFFLINE to download.",
        ) from error
    return dict(values)


def load_weights(
    model_class: Any, source: str | Path, *, dtype: torch.dtype | str, exact: bool, unread: str = "", **options: Any
) -> Any:
    """Load a model of a class, in evaluation mode, and refuse weights that are missing or of another shape.

    Args:
        model_class: With `from_pretrained`.
        source: Folder or Hub id.
        dtype: Of the weights.
        exact: Refuse also weights that the model has no place for.
        unread: Module whose weights may be missing, because nobody reads what it computes.
        **options: For `from_pretrained`.

    Raises:
        CheckpointError: If weights and configuration do not fit; the weights are named.
    """
    with _one_line(source):
        model, found = model_class.from_pretrained(
            source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    if mismatched := sorted(found["mismatched_keys"]):
        name, saved, expected = mismatched[0]
        problem = f"{name} is {tuple(saved)} in the weights, but {tuple(expected)} by config.json"
    elif missing := sorted(name for name in found["missing_keys"] if unread not in name.split(".")):
        problem = f"its weights lack {_names(missing)}, which would be random"
    elif exact and (unexpected := sorted(found["unexpected_keys"])):
        problem = f"its weights hold {_names(unexpected)}, for which the model of config.json has no place"
    else:
        check_weights(model, source)
        return model.eval()
    raise CheckpointError(source, f"{problem}. Save model and configuration again, together, with save_pretrained.")


def explain(source: str | Path, error: BaseException) -> str:
    """Say in one line why transformers could not load `source`; of weights, name the file, which `error` does not."""
    if isinstance(error, CheckpointError):
        return error.problem
    folder = Path(source)
    if isinstance(error, OSError) and folder.is_dir() and not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        return f"there are no weights, such as model.safetensors. {AGAIN}"
    for path in sorted(folder.glob("*.safetensors")) if isinstance(error, (OSError, SafetensorError)) else ():
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as damage:
            return f"{path.name} is damaged or cut off ({reason(damage)}). {AGAIN}"
    return reason(error)


def reason(error: BaseException) -> str:
    """Return an error's message in one line; of a configuration that failed validation, what the check said."""
    wrapped = isinstance(error, StrictDataclassError) and not isinstance(error, UniMoEError)
    source = error.__cause__ if wrapped else None
    return " ".join(str(source or error).split())


def _model_type(source: str | Path) -> str:
    kind = read_config(source).get("model_type")
    if not kind:
        raise CheckpointError(source, "its config.json states no `model_type`. Save it with save_pretrained.")
    return str(kind)


def _check_files(folder: Path) -> None:
    """Refuse a folder without configuration; and as `check_folder` does."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            folder, "there is no config.json, so this is no model folder. Give the folder that save_pretrained wrote."
        )
    check_folder(folder)


def _names(weights: Sequence[str], limit: int = 3) -> str:
    more = len(weights) - limit
    return ", ".join(weights[:limit]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def _one_line(source: str | Path) -> Iterator[None]:
    """Turn whatever transformers raises into one line, and keep its warnings about weights quiet: they are errors."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except LOADING_ERRORS as error:
        raise CheckpointError(source, explain(source, error)) from error
    finally:
        logging.set_verbosity(verbosity)


def find_device(name: str | None) -> torch.device:
    """Return the device that a name means; `cuda`, or None where there are GPUs, is the GPU of this process.

    Raises:
        RuntimeError: If torch knows no such device.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if name == "cuda" else torch.device(name)


__all__ = [
    "LOADING_ERRORS",
    "CheckpointError",
    "auto_class_of",
    "explain",
    "find_device",
    "load_any",
    "load_mixture",
    "load_model",
    "load_processor",
    "load_weights",
    "read_config",
    "reason",
]
