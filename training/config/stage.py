"""What a stage may say, as data: pydantic models that refuse unknown keys and name the nearest known one.

`training.config.recipe` reads these from YAML. Paths are relative to the working directory; media paths inside a data
file are relative to that file.
"""

import inspect
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from unimoe.errors.suggest import did_you_mean
from unimoe.files.settings import Section, unknown_key

from .arguments import FORMER, PASSED_ON, REFUSED, STRATEGIES, VALIDATION_ONLY
from .build import BuildConfig
from .data import DataConfig
from .train import TrainConfig, ValidationConfig

STAGE_FILE = "stage.yaml"
"""File of a stage's output with the stage as it was run."""

# Settings of DeepSpeed that a stage decides elsewhere, and what to do instead.
MANAGED_SETTINGS = {
    "train_batch_size": "It follows from the other batch sizes.",
    "train_micro_batch_size_per_gpu": "Set trainer.per_device_train_batch_size.",
    "gradient_accumulation_steps": "Set trainer.gradient_accumulation_steps.",
    "gradient_clipping": "Set trainer.max_grad_norm.",
    "optimizer": "Set trainer.optim and trainer.learning_rate.",
    "scheduler": "Set trainer.lr_scheduler_type.",
    "fp16": "Use trainer.bf16.",
    "bf16": "Set trainer.bf16, which keeps the weights in float32.",
    "torch_autocast": "Set trainer.bf16.",
    "expert_parallel": "Set parallel.expert_parallel_size: DeepSpeed's own would put other routers in.",
    "use_data_before_expert_parallelism": "Neighbouring processes share experts.",
    "tensor_parallel": "Layers are not split over processes.",
    "sequence_parallel_size": "Rows are not split over processes.",
    "amp": "Set trainer.bf16.",
    "prescale_gradients": "Gradients are summed as in one process.",
    "gradient_predivide_factor": "Gradients are summed as in one process.",
}

_NO_ROWS = "there are no validation rows. Set data.validation."
OWN_PARTS = ("mlp", "connectors", "encoders")
"""Parts of which each specialist of a run has its own."""


class AssembleConfig(Section):
    """Build the start from dense models: a base and one specialist for each modality.

    Further keys are arguments of `unimoe.surgery.assemble`.
    """

    model_config = ConfigDict(extra="allow")

    base: str
    experts: dict[str, str | list[str]]
    num_experts_per_tok: int = 2

    @model_validator(mode="after")
    def _check_arguments(self) -> Self:
        from unimoe.surgery.assemble import assemble

        known = {*inspect.signature(assemble).parameters, *type(self).model_fields}
        for key in self.model_extra or {}:
            if key not in known:
                raise unknown_key(key, known)
        return self

    @property
    def expert_folders(self) -> dict[str, list[str]]:
        """Modality -> folders (or Hub ids) of its specialists."""
        return {key: given if isinstance(given, list) else [given] for key, given in self.experts.items()}

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `assemble`, without the models themselves."""
        return {"num_experts_per_tok": self.num_experts_per_tok, **(self.model_extra or {})}


class ExtendConfig(Section):
    """Give a modality or a task experts of its own in a mixture; `unimoe.surgery.extend` tells what has no word here.

    Args:
        base: The mixture.
        modality: Key of the modality. None: it is a task.
        task: Name of the task. None: it is a modality.
        encoder_of: A model whose encoder it gets, if the mixture has none.
        num_experts, init, noise, router_bias, seed: As there.
    """

    base: str
    modality: str | None = None
    task: str | None = None
    encoder_of: str | None = None
    num_experts: int = 2
    init: Literal["copy", "random"] = "copy"
    noise: float = 0.01
    router_bias: float = 1.0
    seed: int = 0

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.modality is None) == (self.task is None):
            raise PydanticCustomError("refused", "extend: give either a modality or a task.")
        return self

    @property
    def folders(self) -> dict[str, str]:
        """Key -> folder (or Hub id) of each model that is read."""
        return {key: path for key in ("base", "encoder_of") if (path := getattr(self, key)) is not None}

    def arguments(self) -> dict[str, Any]:
        """Arguments of `extend`, without the models themselves."""
        return self.model_dump(exclude={"base", "encoder_of"})


class SpecialistsConfig(Section):
    """Train dense specialists in one run; see `training.trainer.specialists`.

    Args:
        base: The dense model that all start from.
        modalities: Encoder keys, and `text` for rows without media: as a list, or each with its share of the steps.
    """

    base: str
    modalities: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)

    @field_validator("modalities", mode="before")
    @classmethod
    def _equal_shares(cls, values: Any) -> Any:
        return dict.fromkeys(values, 1.0) if isinstance(values, list) else values


class StartConfig(Section):
    """Where a stage begins: the Hub id or folder of a model (written as a plain string), or how it is made.

    Args:
        path: A model.
        build: Pretrained parts to compose it of.
        assemble: Models to assemble it from.
        extend: A mixture that gets experts for a further modality or task.
        specialists: A dense model of which several specialists are trained in this stage, one for each modality.
    """

    path: str | None = None
    build: BuildConfig | None = None
    assemble: AssembleConfig | None = None
    extend: ExtendConfig | None = None
    specialists: SpecialistsConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_path(cls, values: Any) -> Any:
        return {"path": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise PydanticCustomError(
                "refused",
                "give one of: the path (or Hub id) of a model, `build: {{language: ..., vision: ...}}`, "
                "`assemble: {{base: ..., experts: ...}}`, `extend: {{base: ..., modality: ...}}`, "
                "`specialists: {{base: ..., modalities: ...}}`.",
            )
        return self

    @model_serializer
    def _as_written(self) -> Any:
        if self.path is not None:
            return self.path
        made = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return {name: value.model_dump() for name, value in made.items()}


class ParallelConfig(Section):
    """How the work of a stage is shared out to the processes that `deepspeed` or `torchrun` starts.

    Args:
        zero: Stage of DeepSpeed's ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054): 1 shards the optimizer states, 2
            the gradients too, 3 the weights of the language model as well. None: every process keeps all (plain data
            parallel), or what `deepspeed` says.
        deepspeed: JSON file with more of DeepSpeed's settings, such as offloading; see `configs/deepspeed`.
        expert_parallel_size: Neighbouring processes that share the experts of one model, each with its part of every
            layer's; tokens go to where their experts are (Lepikhin et al. 2020, arXiv 2006.16668). Needs ZeRO.
    """

    zero: Literal[1, 2, 3] | None = None
    deepspeed: str | None = None
    expert_parallel_size: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _read_settings(self) -> Self:
        if self.deepspeed is None:
            return self
        stage = (self.settings().get("zero_optimization") or {}).get("stage")
        if stage not in (1, 2, 3):
            raise PydanticCustomError(
                "refused", f"deepspeed: zero_optimization.stage of {self.deepspeed} is {stage!r}; choose 1, 2 or 3."
            )
        if self.zero not in (None, stage):
            raise PydanticCustomError(
                "refused", f"zero is {self.zero}, but {self.deepspeed} has stage {stage}. Leave one of them out."
            )
        self.zero = stage
        return self

    @model_validator(mode="after")
    def _check_experts(self) -> Self:
        if self.expert_parallel_size > 1 and self.zero is None:
            raise PydanticCustomError(
                "refused",
                "expert_parallel_size needs zero: 1, 2 or 3. Without ZeRO, DeepSpeed takes the gradient norm of the "
                "experts of one process for that of all, and clips each process by another factor.",
            )
        return self

    def settings(self) -> dict[str, Any]:
        """Read the file `deepspeed`; nothing without one.

        Raises:
            PydanticCustomError: If it cannot be read, or sets what a stage decides elsewhere.
        """
        if self.deepspeed is None:
            return {}
        try:
            values = json.loads(Path(self.deepspeed).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise PydanticCustomError("refused", f"deepspeed: {self.deepspeed} cannot be read: {error}") from None
        if not isinstance(values, dict):
            raise PydanticCustomError("refused", f"deepspeed: {self.deepspeed} holds no JSON object.")
        for key in values:
            if key in MANAGED_SETTINGS:
                raise PydanticCustomError(
                    "refused", f"deepspeed: leave {key} out of {self.deepspeed}. {MANAGED_SETTINGS[key]}"
                )
        return values


class ReportConfig(Section):
    """What is said before the first step beside parts, data and a sample.

    Args:
        memory: Estimate the memory of a step, as `python -m training plan` does: the first batches are measured, and
            a step is tried out on tensors without values. It takes seconds for a small model, minutes for a large one.
    """

    memory: bool = False


class StageConfig(Section):
    """A stage of training.

    Args:
        start: The model that the stage begins with.
        train: What trains.
        data: What it trains on.
        parallel: How it is shared out to processes.
        trainer: Passed as it is to `transformers.TrainingArguments`.
        report: What is said before the first step.
        seed: Decides order, augmentation, dropout and new weights.
        output: Folder of the result, an ordinary `save_pretrained` folder.
    """

    start: StartConfig
    train: TrainConfig
    data: DataConfig
    parallel: ParallelConfig = ParallelConfig()
    trainer: dict[str, Any] = {}
    report: ReportConfig = ReportConfig()
    seed: int = 0
    output: str

    @field_validator("trainer")
    @classmethod
    def _read_no(cls, trainer: dict[str, Any]) -> dict[str, Any]:
        """YAML reads a bare `no` as false: a strategy of that is `no`."""
        return {key: "no" if key in STRATEGIES and value is False else value for key, value in trainer.items()}

    @property
    def _has_steps(self) -> bool:
        """Whether a number of steps is given, before there are arguments of transformers to ask."""
        return bool(self.trainer.get("max_steps", 0) > 0)

    @model_validator(mode="after")
    def _check_streams(self) -> Self:
        if self.data.has_streams and not self._has_steps:
            raise PydanticCustomError("refused", "data: a stream has no last row. Set trainer.max_steps.")
        return self

    @model_validator(mode="after")
    def _check_specialists(self) -> Self:
        if self.start.specialists is None:
            return self
        for part in [*self.train.parts, *(self.train.lora.parts if self.train.lora else [])]:
            if part.partition(".")[0] not in OWN_PARTS:
                raise PydanticCustomError(
                    "refused",
                    f"train: {part} is shared by all specialists of one run, so that one would learn from the rows of "
                    f"another. Train {', '.join(OWN_PARTS)} here, and {part} in the stage that assembles them.",
                )
        if self.train.lora is not None and (not self.train.lora.merge or self.train.lora.adapter):
            raise PydanticCustomError(
                "refused", "train.lora: specialists are written as whole models. Leave merge and adapter out."
            )
        if self.train.warm_up is not None:
            raise PydanticCustomError("refused", "train.warm_up: specialists have nothing to wait for. Leave it out.")
        if self.parallel.zero is not None:
            raise PydanticCustomError(
                "refused",
                "parallel.zero: its flat buffers would move specialists that rest. Leave it out (several processes "
                "work without it), or train the specialists in a stage each.",
            )
        if not self._has_steps:
            raise PydanticCustomError(
                "refused", "trainer.max_steps: specialists of one run share out a number of steps. Set it."
            )
        return self

    @model_validator(mode="after")
    def _check_validation(self) -> Self:
        strategy = self.trainer.get("eval_strategy")
        unused = [key for key in VALIDATION_ONLY if self.trainer.get(key) not in (None, False)]
        if unused and not self.data.validation:
            raise PydanticCustomError("refused", f"trainer.{unused[0]}: {_NO_ROWS}")
        if self.train.validation != ValidationConfig() and not self.data.validation:
            raise PydanticCustomError("refused", f"train.validation: {_NO_ROWS}")
        if strategy not in (None, "no") and not self.data.validation:
            raise PydanticCustomError("refused", f"trainer.eval_strategy: {_NO_ROWS}")
        if strategy == "no" and self.data.validation:
            raise PydanticCustomError(
                "refused", "trainer.eval_strategy is no: data.validation would not be used. Leave out one of them."
            )
        return self

    @model_validator(mode="after")
    def _check_trainer(self) -> Self:
        for key in self.trainer:
            if (cure := (REFUSED | FORMER).get(key)) is not None:
                raise PydanticCustomError("refused", f"trainer.{key}: leave it out. {cure}")
            if key not in PASSED_ON:
                hint = did_you_mean(str(key), PASSED_ON, otherwise="See transformers.TrainingArguments.")
                raise PydanticCustomError(
                    "unknown_key", "unknown key.{hint}", {"key": f"trainer.{key}"[:200], "hint": hint}
                )
        return self
