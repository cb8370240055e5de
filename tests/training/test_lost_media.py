"""No medium is lost between row and model without a word, and what goes wrong in a worker is said in one line."""

import json
import os
import signal
from pathlib import Path

import pytest
from torch.utils.data import get_worker_info
from typer.testing import CliRunner

from training.__main__ import app
from training.config.data import DataConfig
from training.data import Collator, DataError, MixtureDataset
from training.data.mixture.dataset import load_picture, read_mixture
from unimoe import UniMoEProcessor
from unimoe.errors import MediaError

KINDS = {"image": "image_kind", "speech": "spoken_word", "audio": "sound_kind"}


@pytest.fixture(scope="module")
def processor(workspace):
    return UniMoEProcessor.from_pretrained(workspace / "start")


@pytest.fixture(scope="module")
def samples(workspace):
    """Rows with media, and one without, by name."""
    names = {**KINDS, "text": "text"}
    paths = [str(workspace / "data" / f"{name}_train.jsonl") for name in names.values()]
    found = {}
    for kind, path in zip(names, paths, strict=True):
        dataset = MixtureDataset(read_mixture(DataConfig.model_validate({"mixture": [path]})), seed=0)
        found[kind] = [dataset[number] for number in range(2)]
    return found


def losing(monkeypatch, processor, kinds, *, features):
    """Let the processor lose media of these kinds: their features, or all of them."""
    whole = UniMoEProcessor.apply_chat_template

    def lossy(self, conversations, **kwargs):
        if not features:
            conversations = [
                [
                    {**turn, "content": [item for item in turn["content"] if item["type"] not in kinds]}
                    for turn in messages
                ]
                for messages in conversations
            ]
        inputs = whole(self, conversations, **kwargs)
        names = {"image": "pixel_values", "speech": "speech_features", "audio": "audio_features"}
        return {name: value for name, value in inputs.items() if name not in {names[kind] for kind in kinds}}

    monkeypatch.setattr(UniMoEProcessor, "apply_chat_template", lossy)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("features", [False, True], ids=["medium", "features"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_lacks_a_medium_is_refused_by_row(monkeypatch, processor, samples, kind, features, packing):
    rows = [samples["text"][0], samples[kind][0], *(samples[other][1] for other in KINDS if other != kind)]
    collator = Collator(processor, packing=packing)
    assert collator(rows)
    losing(monkeypatch, processor, [kind], features=features)
    message = "but the processor gave no" if features else "but the processor gave placeholders of 0"
    with pytest.raises(DataError, match=rf"1 {kind} item\(s\), {message}") as caught:
        collator(rows)
    assert features or samples[kind][0].id in str(caught.value)
    assert collator([row for row in rows if row is not rows[1]]), "the others lack nothing"


@pytest.fixture
def run(make_stage, tmp_path):
    def run():
        stage = make_stage(data={"num_workers": 1})
        (tmp_path / "stage.yaml").write_text(json.dumps(stage.model_dump()))
        result = CliRunner().invoke(app, [str(tmp_path / "stage.yaml")])
        assert result.exit_code == 2, result.output
        (said,) = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
        assert "Traceback" not in result.output
        assert not (Path(stage.output) / "training.lock").exists()
        return said

    return run


def test_a_killed_worker_is_told_in_one_line(monkeypatch, run, tmp_path):
    whole = Collator.__call__

    def killed(self, samples):
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, samples)

    monkeypatch.setattr(Collator, "__call__", killed)
    said = run()
    assert f"{tmp_path}/output: process " in said and "which loaded data for it, was killed" in said
    assert "lower data.num_workers" in said and said.endswith("with --resume.")


def test_a_medium_that_a_worker_cannot_read_is_told_in_one_line_with_file_and_row(monkeypatch, run):
    def broken(medium, *, where):
        if get_worker_info() is not None:
            raise MediaError(where, f"{Path(medium).name} cannot be read: it ends early.", "Save it again.")
        return load_picture(medium, where=where)

    monkeypatch.setattr("training.data.mixture.dataset.load_picture", broken)
    said = run()
    assert "image_kind_train.jsonl:" in said and ".png cannot be read: it ends early. Save it again." in said
    assert "Caught" not in said and "DataLoader" not in said
