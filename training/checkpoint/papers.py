"""What a stage writes beside weights: into its checkpoints, and into the model that it leaves."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimoe import UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.surgery import Certificate

from ..config.stage import StageConfig
from .model_card import write_papers


@dataclass
class Papers:
    """The papers of a stage.

    Args:
        config: The stage.
        processor: Of its model.
        certificate: Of the assembly that it starts from, if it does.
        history: Makes the history up to now, this stage as its last entry.
    """

    config: StageConfig
    processor: UniMoEProcessor
    certificate: Certificate | None
    history: Callable[[], list[dict[str, Any]]]

    def describe(self, folder: Path, model: UniMoEForConditionalGeneration) -> None:
        """Write all of a model but its weights."""
        folder.mkdir(parents=True, exist_ok=True)
        model.config.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        write_papers(folder, self.config, self.history(), certificate=self.certificate)

    def save(self, folder: Path, model: UniMoEForConditionalGeneration) -> None:
        """Write a model with its processor and papers."""
        model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        write_papers(folder, self.config, self.history(), certificate=self.certificate)


__all__ = ["Papers"]
