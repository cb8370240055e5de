"""Convert a release: read its parts, check that every tensor has its place, write the folder tensor by tensor."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from ..configuration_unimoe import UniMoEConfig
from ..files.tensors import write_shards
from ..files.writing import new_folder
from ..modality import ENCODER_OPTIONS, MEDIA
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..processing_unimoe import UniMoEProcessor
from ..surgery.certificate import Certificate
from . import describe_v1, describe_v2
from .parts import Folders, find_release
from .releases import RELEASES, Family, Release
from .weights import Collector, Row, Weight, check_weights

_MERGED = "Every weight is that of the release, any LoRA merged in float32, up to rounding. Logits were not compared."
_READERS: dict[Family, ModuleType] = {"v1": describe_v1, "2.0": describe_v2}
"""Family -> the module that checks and describes it."""


@dataclass(frozen=True)
class Conversion:
    """A release that was read and checked, ready to be written.

    Args:
        name: Of the release.
        release: Its facts.
        config: Of the model.
        processor: Of the model. None: the release came without a tokenizer.
        weights: Of the model by their names in checkpoints.
        rows: What became of each tensor that was read.
        vocabulary: Tokens in the release, and in the model.
        sources: What was read from where.
        unread: Names of what lies in the folders and was not read.
    """

    name: str
    release: Release
    config: UniMoEConfig
    processor: UniMoEProcessor | None
    weights: dict[str, Weight]
    rows: list[Row]
    vocabulary: tuple[int, int]
    sources: dict[str, str]
    unread: list[str]

    def table(self) -> Iterator[tuple[str, str, int]]:
        """File, what became of its tensors, and how many they are."""
        counts = Counter((row.file, row.fate if not row.why else f"{row.fate}: {row.why}") for row in self.rows)
        yield from ((file, fate, count) for (file, fate), count in counts.items())

    def write(self, out: str | Path, *, dtype: torch.dtype | None = None, shard_size: str = "5GB") -> Certificate:
        """Write the model folder; a conversion that fails leaves none.

        Args:
            out: The folder, which is not there yet.
            dtype: Of the weights but the routers', which are float32. None: of the base.
            shard_size: Largest size of a file of weights.

        Returns:
            The certificate, which stands beside the model.

        Raises:
            UniMoEError: If there is such a folder.
        """
        dtype = dtype or self.weights["lm_head.weight"].tensor.dtype
        with new_folder(out) as made:
            difference = self._write_weights(made, dtype, shard_size)
            self._write_settings(made, dtype)
            certificate = self._certificate(difference)
            certificate.save(made)
        return certificate

    def _write_weights(self, folder: Path, dtype: torch.dtype, shard_size: str) -> float:
        """Write one weight after the other; return the largest rounding of one, relative to its largest value."""
        dtypes = {name: torch.float32 if ".router." in name else dtype for name in self.weights}
        blank = {
            name: torch.empty(weight.shape(self.vocabulary), dtype=dtypes[name], device="meta")
            for name, weight in self.weights.items()
        }
        difference = 0.0

        def value(name: str) -> Tensor:
            nonlocal difference
            exact = self.weights[name].value(self.vocabulary)
            written = exact.to(dtypes[name])
            difference = max(difference, _rounding(exact, written))
            return written

        write_shards(folder, blank, value, shard_size=shard_size)
        return difference

    def _write_settings(self, folder: Path, dtype: torch.dtype) -> None:
        self.config.architectures = [UniMoEForConditionalGeneration.__name__]
        self.config.dtype = dtype
        self.config.save_pretrained(folder)
        text = self.config.text_config
        GenerationConfig(
            bos_token_id=text.bos_token_id,
            eos_token_id=text.eos_token_id,
            pad_token_id=text.pad_token_id,
            suppress_tokens=[self.config.token_id(modality) for modality in MEDIA],
        ).save_pretrained(folder)
        if self.processor is not None:
            self.processor.save_pretrained(folder)

    def _certificate(self, difference: float) -> Certificate:
        details: dict[str, Any] = {"release": self.name, "sources": self.sources, "not_read": self.unread}
        details |= {"otherwise": list(self.release.otherwise), "tensors": [asdict(row) for row in self.rows]}
        return Certificate("convert", "exact", _MERGED, difference, details)


def read_release(
    folder: str | Path,
    *,
    vision: str | Path | None = None,
    speech: str | Path | None = None,
    audio: str | Path | None = None,
    base: str | Path | None = None,
    experts: str | Path | None = None,
) -> Conversion:
    """Read a release of Uni-MoE (v1 speech, v1 audio, v1.5, 8e, 2.0) and check that nothing is missing.

    Values are read when they are written; until then, only names and shapes.

    Args:
        folder: Of the tuned parts: adapter, projector, aligner, routers; or the folder of 2.0, which is all.
        vision: Folder or Hub id of the CLIP ViT-L/14 at 336 pixels, for all but 2.0.
        speech: Folder or Hub id of Whisper small, for all but v1 audio and 2.0.
        audio: BEATs' `.pt` file, for v1 audio.
        base: Folder of the base's shards and tokenizer. None: the same folder.
        experts: Folder of the experts of 8e. None: the base's.

    Returns:
        What `Conversion.write` writes.

    Raises:
        UniMoEError: If it is no such release, or a tensor is missing, has no place or another shape, which is named.
    """
    tuned = Path(folder)
    options = {"vision": vision, "speech": speech, "audio": audio, "base": base, "experts": experts}
    given = {name: source for name, source in options.items() if source is not None}
    folders = Folders(tuned, Path(base or tuned), Path(experts or base or tuned))
    folders.read.update(Path(given[name]) for name in ("vision", "speech", "audio") if name in given)
    name, config = find_release(folders)
    release = RELEASES[name]
    reader = _READERS[release.family]
    reader.check(release, config, folders, given)
    collector = Collector(release, folders, config)
    for source in release.sources:
        collector.read(source)
    ours, processor, towers = reader.describe(release, config, folders, collector.weights, given)
    with torch.device("meta"):
        model = UniMoEForConditionalGeneration(ours)
    state: dict[str, Tensor] = revert_weight_conversion(model, model.state_dict())
    sources = {"folder": str(tuned), **{name: str(source) for name, source in given.items()}}
    for key, tower in towers.items():
        add_tower(collector, key, tower, model, sources[ENCODER_OPTIONS[key]])
    vocabulary = (config["vocab_size"], ours.text_config.vocab_size)
    check_weights(collector.weights, {key: tuple(value.shape) for key, value in state.items()}, vocabulary, tuned)
    return Conversion(
        name, release, ours, processor, collector.weights, collector.rows, vocabulary, sources, folders.unread()
    )


def add_tower(
    collector: Collector, key: str, tower: PreTrainedModel, model: UniMoEForConditionalGeneration, source: str
) -> None:
    """Add the weights of a tower, under the names that they have in checkpoints of the model.

    Args:
        collector: Gets weights and rows.
        key: Of the encoder.
        tower: With its weights.
        model: Knows the names.
        source: Of the tower.
    """
    start = f"model.encoders.{key}.tower."
    named = {f"{start}{name}": tensor for name, tensor in tower.state_dict().items()}
    for name, tensor in revert_weight_conversion(model, named).items():
        row = Row(source, name.removeprefix(start), "taken", name)
        collector.rows.append(row)
        collector.weights[name] = Weight({0: tensor}, rows=[row])


def _rounding(exact: Tensor, written: Tensor) -> float:
    if exact.dtype == written.dtype or not exact.numel():
        return 0.0
    low, high = exact.aminmax()
    largest = torch.maximum(-low, high).float().clamp(min=1e-30)
    return float((written - exact).abs_().max() / largest)


__all__ = ["Conversion", "read_release"]
