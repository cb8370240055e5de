"""A tiny start (model and processor) and small data files from the demo media, made once for all training tests."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

from training.config.recipe import merge
from training.config.stage import StageConfig
from training.monitor.curves import plot_curves
from training.quickstart.build import build_start
from training.quickstart.rows import demo_rows, text_rows, write_rows
from training.stage import finish
from unimoe import UniMoEForConditionalGeneration, UniMoETextConfig
from unimoe.surgery import assemble

TINY_MODEL = {
    "vocab_size": 320,
    "image_size": 32,
    "config": {
        "text_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2},
        "vision_config": {
            "num_tokens": 4,
            "tower_config": {
                "model_type": "resnet",
                "embedding_size": 8,
                "hidden_sizes": [8, 16, 16],
                "depths": [1, 1, 1],
                "layer_type": "basic",
            },
        },
        "audio_config": {
            "tower_config": {
                "model_type": "audio-spectrogram-transformer",
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "patch_size": 16,
                "frequency_stride": 16,
                "time_stride": 16,
                "num_mel_bins": 32,
                "max_length": 96,
            }
        },
        "speech_config": {
            "tower_config": {
                "model_type": "whisper",
                "d_model": 16,
                "encoder_layers": 1,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 32,
                "num_mel_bins": 80,
                "max_source_positions": 50,
            }
        },
        "speech_connector_config": {"stack": 10},
    },
}
TASKS = ("image_kind", "spoken_word", "sound_kind")


@pytest.fixture(scope="session", autouse=True)
def _cheap_stages() -> Iterator[None]:
    """No stage draws its losses, but where `curves` is asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "plot_curves", lambda *args: False)
        yield


@pytest.fixture(scope="module")
def curves() -> Iterator[None]:
    """Stages draw their losses from here to the end of the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "plot_curves", plot_curves)
        yield


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/{image_kind,spoken_word,sound_kind,text}_train.jsonl, start/ and start-dense/."""
    folder = tmp_path_factory.mktemp("training")
    data = folder / "data"
    data.mkdir()
    for task in TASKS:
        rows = list(demo_rows(task, "train", relative_to=data.resolve()))
        write_rows(data / f"{task}_train.jsonl", iter(rows[:: len(rows) // 12]))
    write_rows(data / "text_train.jsonl", iter(list(text_rows())[::20]))
    build_start(TINY_MODEL, data=data, output=folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def mixture_start(workspace, tmp_path_factory):
    """An assembled start with a strong z-loss and no balance loss, whose gradient is not additive over batches."""
    folder = tmp_path_factory.mktemp("mixture")
    model, _ = assemble(workspace / "start", {"image": workspace / "start"})
    model.config.text_config.router_aux_loss_coef = 0.0
    model.config.text_config.router_z_loss_coef = 0.1
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(workspace / "start").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def make_stage_in(workspace: Path) -> Callable[..., StageConfig]:
    """Build a stage on the tiny start that writes to a folder; keyword arguments are merged over its values."""

    def make(output: Path | str, **changes: Any) -> StageConfig:
        values = {
            "start": str(workspace / "start"),
            "train": {"parts": ["connectors"]},
            "data": {"mixture": [str(workspace / "data" / f"{name}_train.jsonl") for name in (*TASKS, "text")]},
            "trainer": {
                "max_steps": 1,
                "per_device_train_batch_size": 4,
                "logging_steps": 1,
                "use_cpu": True,
                "report_to": "none",
            },
            "output": str(output),
        }
        return StageConfig.model_validate(merge(values, changes))

    return make


@pytest.fixture
def make_stage(make_stage_in: Callable[..., StageConfig], tmp_path: Path) -> Callable[..., StageConfig]:
    """Build a stage that writes to a folder of the test, unless it is told another one."""
    return lambda **changes: make_stage_in(**{"output": tmp_path / "output", **changes})


@pytest.fixture
def make_sparse(workspace: Path, tmp_path: Path) -> Callable[..., str]:
    """Save a start with four experts in each of two layers; `change` may alter the model before."""

    def make(change: Callable[[Any], None] = lambda model: None, **text: Any) -> str:
        config = AutoModelForMultimodalLM.from_pretrained(workspace / "start").config
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        fields = {name: getattr(config.text_config, name) for name in (*names, "pad_token_id", "eos_token_id")}
        config.text_config = UniMoETextConfig(**fields, **{"num_experts": 4, "moe_intermediate_size": 16, **text})
        torch.manual_seed(0)
        model = UniMoEForConditionalGeneration(config)
        change(model)
        model.save_pretrained(tmp_path / "sparse")
        AutoProcessor.from_pretrained(workspace / "start").save_pretrained(tmp_path / "sparse")
        return str(tmp_path / "sparse")

    return make


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows to a data file and return its path."""

    def write(*rows: Any, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
        return path

    return write
