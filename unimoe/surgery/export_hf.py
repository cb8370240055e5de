"""Export: a model of this package as a class of transformers, for tools that know no other (vLLM, GGUF and more).

Which class is decided from the configuration, see `unimoe.surgery.stock_classes`; what no class can express is refused
by name. That both give the same logits is measured before anything is handed out.
"""

import copy
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from ..checkpoint.loading import load_mixture
from ..errors import UniMoEError
from ..files.writing import new_folder, require_new
from ..modeling.head import UniMoEForCausalLM
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..moe.experts.assignments import LINEARS
from .calibration import Batch, as_batch
from .certificate import Certificate
from .damage import Answers
from .recalibrate import router_parameters
from .stock_classes import CLASSES, choose_class, stock_config

TOLERANCE = 1e-6
"""Largest difference of a logit that is within rounding, relative to the largest logit, in float32 and float64."""

Exportable = UniMoEForCausalLM | UniMoEForConditionalGeneration

_NOISE = re.compile(r".*\.router\.noise_weight")  # of noisy top-k in training
_ZERO = re.compile(r".*\.(shared_experts?(_gate)?\..*|e_score_correction_bias)")  # adds nothing where we have none
_LANGUAGE_MODEL = re.compile(r"model\.language_model\.(.*)")


def export_hf(
    model: Exportable, *, language_only: bool = False, round_routers: bool = False
) -> tuple[PreTrainedModel, Certificate]:
    """Make the model of a class of transformers that gives the logits of a model.

    Of a model in half precision, both are compared in float32, which takes three times its memory.

    Args:
        model: In evaluation mode, with router, experts and attention that a class of transformers has.
        language_only: Leave out encoders and connectors, of a model that has some.
        round_routers: Allow what routers, which are float32 in a model in half precision, lose where all weights are
            in one dtype; it is measured. Otherwise such a loss is refused.

    Returns:
        The new model in evaluation mode, which shares weights with the other, and a certificate: `exact`, or
        `measured` where routers were rounded.

    Raises:
        UniMoEError: If no class can express the model, with the field; or it gives other logits, with the difference.
    """
    if not isinstance(model, Exportable):
        raise UniMoEError(type(model).__name__, "it is no model of this package.", "Pass one of unimoe.")
    media = getattr(model.config, "encoder_keys", [])
    if media and not language_only:
        problem = f"it takes media ({', '.join(media)}), and what is exported takes text alone."
        raise UniMoEError(type(model).__name__, problem, "Pass language_only=True to leave their parts out.")
    text = model.config.get_text_config()
    if text._experts_implementation == LINEARS:
        raise UniMoEError(type(model).__name__, "its experts are seen as linear maps.", "Call fold_experts first.")
    kind = choose_class(text)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    config = stock_config(text, kind, tie_word_embeddings=tied)
    weights, left_out = _renamed(model, kind)
    stock, added = _filled(config, weights, model.dtype)
    stock.to(model.device)
    if any(map(text.is_sparse, range(text.num_hidden_layers))):
        stock.set_experts_implementation(text._experts_implementation)
    stock.generation_config = copy.deepcopy(model.generation_config)
    details = {"class": type(stock).__name__, "left_out": left_out, "added": added}
    return stock, _certificate(model, stock, details, round_routers=round_routers)


def export_folder(
    folder: str | Path,
    out: str | Path,
    *,
    language_only: bool = False,
    round_routers: bool = False,
    dtype: torch.dtype | str = "auto",
) -> Certificate:
    """Export the model of a folder into another folder, with its tokenizer and a certificate.

    Args:
        folder: Of a model of this package.
        out: Of the new one, which is not there yet; what fails leaves none.
        language_only: As in `export_hf`.
        round_routers: As in `export_hf`.
        dtype: Of the weights. `auto`: as they were saved.

    Raises:
        UniMoEError: If the folder cannot be read, or as in `export_hf`.
    """
    require_new(out)
    model, processor = load_mixture(folder, dtype=dtype)
    stock, certificate = export_hf(model, language_only=language_only, round_routers=round_routers)
    with new_folder(out) as work:
        stock.save_pretrained(work)
        getattr(processor, "tokenizer", processor).save_pretrained(work)
        certificate.save(work)
    return certificate


def _renamed(model: Exportable, kind: str) -> tuple[dict[str, Tensor], list[str]]:
    """Name the weights of the language model as a class does; list what is left out, parts of media as a whole."""
    weights: dict[str, Tensor] = {}
    left_out: list[str] = []
    for name, tensor in model.state_dict().items():
        inner = _LANGUAGE_MODEL.fullmatch(name)
        if _NOISE.fullmatch(name):
            left_out.append(name)
        elif name.startswith(("model.encoders.", "model.connectors.")):
            left_out.append(".".join(name.split(".")[1:3]))
        else:
            ours = f"model.{inner[1]}" if inner else name
            weights[CLASSES[kind].name(ours)] = tensor[0] if ours.endswith(".balance_bias") else tensor
    return weights, sorted(set(left_out))


def _filled(config: PreTrainedConfig, weights: dict[str, Tensor], dtype: torch.dtype) -> tuple[Any, list[str]]:
    """Build a model with these weights; list what it has besides, and is 0.

    Raises:
        UniMoEError: If names do not fit.
    """
    with init.no_init_weights():
        stock = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    blanks = stock.state_dict()
    added = sorted(name for name in blanks.keys() - weights.keys() if _ZERO.fullmatch(name))
    weights = weights | {name: torch.zeros_like(blanks[name]) for name in added}
    if strange := sorted(weights.keys() ^ blanks.keys()):
        raise UniMoEError(strange[0], f"it is a weight of the model or of {config.model_type}, and not of both.")
    stock.load_state_dict({name: weights[name].to(blank.dtype) for name, blank in blanks.items()}, assign=True)
    stock.tie_weights()
    return stock, added


def _certificate(
    model: Exportable, stock: PreTrainedModel, details: dict[str, Any], *, round_routers: bool
) -> Certificate:
    """State what was measured; refuse a difference, unless it is that of rounded routers and allowed."""
    is_half = torch.finfo(model.dtype).bits < 32
    difference = _difference(model, stock)
    keeps = difference <= TOLERANCE
    if not keeps and not (is_half and round_routers and _difference(model, stock, rounded=True) <= TOLERANCE):
        problem = f"its logits differ from those of the model by {difference:.2g} of the largest."
        is_rounded = is_half and not round_routers
        cure = f"Its routers are rounded to {model.dtype}: export in float32, or round routers." if is_rounded else ""
        raise UniMoEError(details["class"], problem, cure)
    claim = f"As a model of the class {details['class']}, it gives the same logits for text"
    return Certificate(
        operation="export",
        kind="exact" if keeps else "measured",
        claim=f"{claim}." if keeps else f"{claim}, but for the rounding of its routers to {model.dtype}.",
        difference=difference,
        details={**details, "measured_on": "two batches of random tokens, one with padding"},
    )


def _difference(model: Exportable, stock: PreTrainedModel, *, rounded: bool = False) -> float:
    """Compare logits, in float32 or float64; with `rounded`, those of the model whose routers are rounded as well."""
    rows, dtype = _random_rows(model), model.dtype
    if torch.finfo(dtype).bits < 32:
        model, stock = (copy.deepcopy(own).float() for own in (model, stock))
        for parameter in router_parameters(model).values() if rounded else ():
            parameter.data = parameter.data.to(dtype).float()
    return Answers.of(model, rows).compare(stock).largest


def _random_rows(model: Exportable) -> list[Batch]:
    """Draw tokens of text for comparisons."""
    media = [getattr(model.config, f"{key}_token_id", None) for key in ("image", "video", "audio", "speech")]
    words = torch.tensor([token for token in range(model.config.get_text_config().vocab_size) if token not in media])
    generator = torch.Generator().manual_seed(0)
    rows = [words[torch.randint(len(words), (2, length), generator=generator)] for length in (24, 9)]
    mask = torch.ones_like(rows[1])
    mask[0, :4] = 0
    return [as_batch({"input_ids": rows[0]}), as_batch({"input_ids": rows[1], "attention_mask": mask})]


__all__ = ["TOLERANCE", "export_folder", "export_hf"]
