"""How well sounds fill the windows of their encoders, said from the headers of their files."""

import numpy as np
import pytest
import soundfile
from transformers import AutoProcessor
from typer.testing import CliRunner

from training.__main__ import app
from training.config.data import DataConfig
from training.data import MixtureDataset
from training.data.mixture.dataset import read_mixture
from training.stage.report import window_warnings


@pytest.fixture
def make_sounds(tmp_path, write_jsonl):
    """A data file of sounds that last so many seconds, each in a row of its own."""

    def make(kind, *seconds):
        rows = []
        for number, length in enumerate(seconds):
            soundfile.write(tmp_path / f"{number}.wav", np.zeros(round(length * 16_000), np.float32), 16_000)
            content = [{"type": kind, "path": f"{number}.wav"}, {"type": "text", "text": "what?"}]
            turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "this"}]
            rows.append({"id": str(number), "messages": turns})
        return str(write_jsonl(*rows))

    return make


@pytest.fixture
def warned(workspace, make_sounds):
    """What a stage says of sounds: AST's windows are of 0.96 s, Whisper's of 1 s."""

    def look(kind, *seconds):
        dataset = MixtureDataset(read_mixture(DataConfig(mixture=[make_sounds(kind, *seconds)])), seed=0)
        return window_warnings(dataset, AutoProcessor.from_pretrained(workspace / "start"))

    return look


def test_a_sound_just_longer_than_its_window_is_said_with_the_cure(warned):
    (text,) = warned("audio", 1.0, 1.0, 0.9)
    assert text.startswith("audio: 40% of the windows is padding (windows of 0.96 s; half of 3 measured")
    assert "0.04 s longer than 1 window(s), and takes one more: cut it to 0.96 s, or take an encoder" in text


def test_windows_that_are_mostly_padding_are_said(warned):
    (text,) = warned("speech", 0.2, 0.3)
    assert text.startswith("speech: 75% of the windows is padding (windows of 1.00 s;") and "shorter windows" in text


def test_windows_that_are_well_filled_are_not_spoken_of(warned):
    assert warned("speech", 1.0, 0.9, 1.9) == []


def test_check_says_it_where_a_model_is_given(workspace, make_sounds):
    file = make_sounds("audio", 1.0)
    asked = ["check", file, "--model", str(workspace / "start")]
    said = " ".join(CliRunner().invoke(app, asked).output.split())
    assert "audio: 48% of the windows is padding" in said
    assert "of the windows is padding" not in CliRunner().invoke(app, asked[:2]).output
