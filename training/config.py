"""What a stage may say, as data: pydantic models that refuse unknown keys and name the nearest known one.

`training.recipe` reads these from YAML. Paths are relative to the working directory; media paths inside a data file
are relative to that file.
"""

import inspect
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from unimoe.settings import Section, unknown_key

# Arguments of transformers.TrainingArguments that a stage decides elsewhere, and what to do instead.
MANAGED_ARGUMENTS = {
    "output_dir": "Set the stage's `output`.",
    "seed": "Set the stage's `seed`.",
    "data_seed": "Set the stage's `seed`.",
    "dataloader_num_workers": "Set `data.num_workers`.",
    "remove_unused_columns": "The data mixture needs it off.",
    "train_sampling_strategy": "The data mixture has its own seeded order.",
    "gradient_checkpointing": "Its new name is `activation_checkpointing`.",
    "gradient_checkpointing_kwargs": "Its new name is `activation_checkpointing_kwargs`.",
    "average_tokens_across_devices": "Tokens are always counted over all ranks.",
    "logging_nan_inf_filter": "A loss that is not finite always stops the training.",
    "disable_tqdm": "Progress is shown by our own bar.",
    "label_smoothing_factor": "The loss is the model's own, without smoothing.",
    "use_cache": "Training uses no cache.",
    "do_train": "A stage always trains.",
    "resume_from_checkpoint": "Resume with `python -m training FILE --resume`.",
    "deepspeed": "Set the stage's `parallel.zero`.",
    "fsdp": "FSDP is not supported; several processes run with torchrun.",
}

Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]


class AssembleConfig(Section):
    """Build the start from dense models: a base and one specialist for each modality.

    Further keys are arguments of `unimoe.surgery.assemble`.
    """

    model_config = ConfigDict(extra="allow")

    base: str
    experts: dict[str, str]
    num_experts_per_tok: int = 2

    @model_validator(mode="after")
    def _check_arguments(self) -> Self:
        from unimoe.surgery.assemble import assemble

        known = {*inspect.signature(assemble).parameters, *type(self).model_fields}
        for key in self.model_extra or {}:
            if key not in known:
                raise unknown_key(key, known)
        return self

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `assemble`, without the models themselves."""
        return {"num_experts_per_tok": self.num_experts_per_tok, **(self.model_extra or {})}


class StartConfig(Section):
    """Where a stage begins: the Hub id or folder of a model (written as a plain string), or models to assemble."""

    path: str | None = None
    assemble: AssembleConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_path(cls, values: Any) -> Any:
        return {"path": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.path is None) == (self.assemble is None):
            raise PydanticCustomError(
                "refused", "give either a path (or Hub id) or `assemble: {{base: ..., experts: ...}}`."
            )
        return self

    @model_serializer
    def _as_written(self) -> Any:
        return (
            self.path if self.path is not None else {"assemble": self.assemble.model_dump() if self.assemble else {}}
        )


class LoraTraining(Section):
    """Train low-rank deltas of some parts (Hu et al. 2021, arXiv 2106.09685); they are merged when the stage ends.

    Args:
        parts: Parts whose linear layers and stacked experts get a delta; each expert gets its own.
        r: Rank.
        alpha: The delta is scaled by alpha / r.
    """

    parts: list[str] = Field(min_length=1)
    r: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1)


class Annealed(Section):
    """A coefficient that moves linearly from `start` to `end` within `steps` optimiser steps, and stays there."""

    start: NonNegative
    end: NonNegative
    steps: Annotated[int, Field(ge=1)]


Coefficient = NonNegative | Annealed


class LossConfig(Section):
    """Losses of a stage: coefficients of the router losses, for this stage and those after it; see `MoEConfig`.

    None leaves a coefficient as the model says.

    Args:
        language: What the language loss is a mean over: `labels`, the tokens that have one; or `tokens`, all real
            ones (token-balanced: in full batches a text token weighs the same however many tokens are images).
    """

    language: Literal["labels", "tokens"] = "labels"
    balance: Coefficient | None = None
    z: Coefficient | None = None
    importance: Coefficient | None = None
    load: Coefficient | None = None
    entropy: Coefficient | None = None
    entropy_global: Coefficient | None = None
    orthogonality: Coefficient | None = None
    gram: Coefficient | None = None
    score_variance: Coefficient | None = None
    expert_overlap: Coefficient | None = None


class TrainConfig(Section):
    """Which parts of the model train, and by which losses beside that of the language. All other parts are frozen."""

    parts: list[str] = []
    lora: LoraTraining | None = None
    losses: LossConfig = LossConfig()

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if not self.parts and self.lora is None:
            raise PydanticCustomError("refused", "nothing would train. Name parts, or give `lora`.")
        if both := sorted(set(self.parts) & set(self.lora.parts if self.lora else [])):
            raise PydanticCustomError("refused", f"{', '.join(both)}: train a part either whole or by lora, not both.")
        return self


class ImageAugment(Section):
    """Random changes to pictures, drawn anew for each sample; 0 is off.

    Args:
        flip: Probability of a horizontal flip.
        shift: Largest shift, as a fraction of width and height.
        zoom: Largest change of size, as a fraction.
        rotate: Largest rotation, in degrees.
        jitter: Largest relative change of brightness, contrast and saturation.
    """

    flip: Annotated[float, Field(ge=0, le=1)] = 0.0
    shift: Fraction = 0.0
    zoom: Fraction = 0.0
    rotate: NonNegative = 0.0
    jitter: Fraction = 0.0


class SoundAugment(Section):
    """Random changes to waveforms and their spectrograms, drawn anew for each sample; 0 is off.

    Args:
        shift: Longest silence put in front, in seconds.
        speed: Largest relative change of speed (and, with it, of pitch and formants).
        gain: Largest change of loudness, in dB.
        noise: Largest level of white noise, relative to the sound's root mean square.
        mask_time: Largest fraction of frames of a window that is masked (SpecAugment, Park et al. 2019, arXiv
            1904.08779, one mask of each kind).
        mask_frequency: Largest fraction of mel bins that is masked.
    """

    shift: NonNegative = 0.0
    speed: Fraction = 0.0
    gain: NonNegative = 0.0
    noise: NonNegative = 0.0
    mask_time: Fraction = 0.0
    mask_frequency: Fraction = 0.0


class AugmentConfig(Section):
    """Augmentation of each modality; None is off."""

    image: ImageAugment | None = None
    audio: SoundAugment | None = None
    speech: SoundAugment | None = None


class SourceConfig(Section):
    """One data file of a mixture.

    Args:
        path: A .jsonl or .json file in one of the formats of `training.data.schema`.
        weight: Passes over the file in one epoch; a fraction is a random part, drawn anew for each epoch.
        media_root: Folder that media paths are relative to. None: the data file's own.
        augment: Replaces the augmentation of the whole mixture for this file.
    """

    path: str
    weight: float = Field(default=1.0, gt=0)
    media_root: str | None = None
    augment: AugmentConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_path(cls, values: Any) -> Any:
        return {"path": values} if isinstance(values, str) else values


class DataConfig(Section):
    """What a stage trains on.

    Args:
        mixture: Data files and their weights.
        max_length: Longest row in tokens; a longer one is refused by name, never cut. None: no limit.
        augment: Augmentation of all files that have none of their own.
        num_workers: Processes that decode and process media beside the training process.
        cache_media: Keep decoded media in memory; for small sets.
    """

    mixture: list[SourceConfig] = Field(min_length=1)
    max_length: int | None = Field(default=None, ge=1)
    augment: AugmentConfig = AugmentConfig()
    num_workers: int = Field(default=0, ge=0)
    cache_media: bool = False


class ParallelConfig(Section):
    """How the work of a stage is spread over the processes that `deepspeed` or `torchrun` starts.

    Args:
        zero: Stage of DeepSpeed's ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054): 1 shards the optimizer states, 2
            the gradients too. None: every process keeps all (plain data parallel).
    """

    zero: Literal[1, 2] | None = None


class StageConfig(Section):
    """A stage of training.

    Args:
        start: The model that the stage begins with.
        train: What trains.
        data: What it trains on.
        parallel: How it is spread over processes.
        trainer: Passed as it is to `transformers.TrainingArguments`.
        seed: Decides order, augmentation, dropout and new weights.
        output: Folder of the result, an ordinary `save_pretrained` folder.
    """

    start: StartConfig
    train: TrainConfig
    data: DataConfig
    parallel: ParallelConfig = ParallelConfig()
    trainer: dict[str, Any] = {}
    seed: int = 0
    output: str

    @model_validator(mode="after")
    def _check_trainer(self) -> Self:
        from transformers import TrainingArguments

        known = {name for name, field in TrainingArguments.__dataclass_fields__.items() if field.init}
        for key in self.trainer:
            if key in MANAGED_ARGUMENTS:
                raise PydanticCustomError("refused", f"trainer.{key}: leave it out. {MANAGED_ARGUMENTS[key]}")
            if key not in known:
                near = get_close_matches(key, known - MANAGED_ARGUMENTS.keys(), n=1)
                hint = f" Did you mean {near[0]!r}?" if near else " See transformers.TrainingArguments."
                raise PydanticCustomError("unknown_key", "unknown key.{hint}", {"key": f"trainer.{key}", "hint": hint})
        return self
