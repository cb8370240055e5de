"""Encoders that run once: losses and weights are those of encoders that run at every step."""

import itertools
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from films import write_film
from launch import train, train_and_kill
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from tiny_model import save_tiny
from tiny_processor import sound
from transformers import AutoModelForMultimodalLM

from training.data import DataError
from training.stage.run import run_stage
from training.trainer.trainer import StageTrainer
from unimoe import UniMoEModel
from unimoe.errors import ConfigError

Usage = namedtuple("Usage", "total used free")


def run(config, **options):
    """Run a stage; what it says."""
    console = Console(record=True, width=200, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    run_stage(config, console=console, **options)
    return console.export_text()


def losses(folder, name="loss"):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def weights(folder):
    return AutoModelForMultimodalLM.from_pretrained(folder).state_dict()


def assert_equal_runs(one, two):
    """Losses are equal; weights but for what Adam, which divides gradients by their size, makes of rounding."""
    assert len(losses(one)) == len(losses(two)) > 1
    torch.testing.assert_close(losses(one), losses(two), rtol=0, atol=1e-6)
    torch.testing.assert_close(weights(one), weights(two), rtol=0, atol=1e-5)


@pytest.fixture
def stage(make_stage, tmp_path):
    """A stage with or without cached tokens, in a folder of its own."""
    numbers = itertools.count()

    def make(cache=True, **changes):
        data = {"cache_encoders": cache, **changes.pop("data", {})}
        trainer = {"max_steps": 2, "learning_rate": 0.001, **changes.pop("trainer", {})}
        return make_stage(
            **{"output": str(tmp_path / str(next(numbers))), "data": data, "trainer": trainer, **changes}
        )

    return make


@pytest.fixture
def count_units(monkeypatch):
    """Units that encoders run over, by modality."""
    counts = {}
    run_encoder = UniMoEModel.run_encoder

    def counted(self, modality, features, **kwargs):
        counts[modality.key] = counts.get(modality.key, 0) + len(features)
        return run_encoder(self, modality, features, **kwargs)

    monkeypatch.setattr(UniMoEModel, "run_encoder", counted)
    return counts


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Rows with every kind of medium: large pictures, long speech, films with and without sound, lists of frames."""
    folder = tmp_path_factory.mktemp("media")
    import soundfile

    rows = []
    for number in range(4):
        size = [(32, 32), (96, 64), (40, 90), (64, 64)][number]
        Image.effect_noise(size, 60 + number).save(folder / f"{number}.png")
        soundfile.write(folder / f"{number}.wav", sound(0.4 + number), 16_000)
        track = sound(2.0 + number) if number % 2 else None
        write_film(folder / f"{number}.mp4", range(0, 120, 3 + number), sound=track)
        frames = [f"{frame}.png" for frame in range(number + 1)]
        for kind, path in (("image", f"{number}.png"), ("speech", f"{number}.wav"), ("video", f"{number}.mp4")):
            content = [{"type": "text", "text": "x"}, {"type": kind, "path": path}, {"type": "audio", "path": "0.wav"}]
            rows.append((content, f"{kind} {number}"))
        rows.append(([{"type": "video", "path": frames}, {"type": "image", "path": "1.png"}], "frames"))
        rows.append(([{"type": "text", "text": "no media"}], "text"))
    lines = [
        {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}
        for content, answer in rows
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    Image.effect_noise((32, 32), 10).save(folder / "held.png")
    lines[0]["messages"][0]["content"][1]["path"] = "held.png"
    (folder / "held.jsonl").write_text("\n".join(map(json.dumps, lines[:6])))
    return folder / "rows.jsonl"


LAYOUTS = {
    "plain": ({}, {}),
    "tiles, packed, in a worker": ({"image_max_tiles": 4}, {"packing": True, "max_length": 900, "num_workers": 1}),
    "omni, packed, sound of clips": (
        {"position_type": "omni", "image_max_tiles": 2, "video_sound": "speech"},
        {"packing": True, "max_length": 900},
    ),
}


@pytest.mark.parametrize(
    ("layout", "data"),
    [
        pytest.param(*values, id=name, marks=[] if name.startswith("omni") else pytest.mark.slow)
        for name, values in LAYOUTS.items()
    ],
)
def test_training_on_cached_tokens_is_training_on_media(stage, media, tmp_path, layout, data):
    changes = {
        "start": str(save_tiny(tmp_path / "start", layout, num_experts=4)),
        "train": {"parts": ["connectors", "router"], "lora": {"parts": ["attention"], "r": 2}},
        "trainer": {"max_steps": 2, "eval_steps": 10, "per_device_train_batch_size": 2},
    }
    data = {"mixture": [str(media)], "validation": [str(media.with_name("held.jsonl"))], **data}
    plain, kept = (stage(cache, data=data, **changes) for cache in (False, True))
    run(plain)
    said = run(kept)
    assert "encoding 5 image, 1 audio, 4 speech, 8 video once" in " ".join(said.split())
    assert_equal_runs(plain.output, kept.output)
    assert losses(plain.output, "eval_loss") == pytest.approx(losses(kept.output, "eval_loss"), abs=1e-6)
    assert losses(plain.output, "eval_distinct_answers") == losses(kept.output, "eval_distinct_answers") != []


def test_a_second_stage_runs_no_encoder(stage, count_units):
    first, second = stage(), stage(seed=1)
    run(first)
    assert set(count_units) == {"image", "audio", "speech"}
    count_units.clear()
    assert "all media are encoded already" in run(second)
    second = stage(start=first.output)  # which saved the encoders that it took from its start
    assert "all media are encoded already" in run(second)
    assert not count_units


def test_encoders_are_out_of_the_model_while_it_trains_and_back_when_it_is_saved(stage, monkeypatch, workspace):
    seen = []
    training_step = StageTrainer.training_step

    def step(self, model, *args, **kwargs):
        seen.append([name for name, _ in model.named_parameters() if "encoders" in name])
        return training_step(self, model, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", step)
    config = stage({"modalities": ["speech", "audio"]}, trainer={"save_steps": 2})
    run(config)
    assert seen and all(names and all(".image." in name for name in names) for names in seen)
    start, end = weights(workspace / "start"), weights(config.output)
    assert start.keys() == end.keys()
    assert all(torch.equal(start[name], end[name]) for name in start if "encoders" in name)


def test_only_what_changed_is_encoded_again(stage, count_units, workspace, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    lines = []
    for number in range(5):
        Image.effect_noise((32, 32), 50 + number).save(folder / f"{number}.png")
        content = [{"type": "image", "path": f"{number}.png"}]
        lines += [
            json.dumps({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]})
        ]
    (folder / "rows.jsonl").write_text("\n".join(lines * 2))  # each picture twice
    data = {"mixture": [str(folder / "rows.jsonl")]}
    run(stage(data=data))
    assert count_units == {"image": 5}
    Image.effect_noise((32, 32), 99).save(folder / "2.png")
    run(stage(data=data))
    assert count_units == {"image": 6}
    model = AutoModelForMultimodalLM.from_pretrained(workspace / "start")
    next(model.model.encoders["image"].parameters()).data.mul_(1.01)
    shutil.copytree(workspace / "start", tmp_path / "changed")
    model.save_pretrained(tmp_path / "changed")
    run(stage(data=data, start=str(tmp_path / "changed")))
    assert count_units == {"image": 11}
    run(stage({"dtype": "bfloat16"}, data=data))
    assert count_units == {"image": 16}


def test_what_was_encoded_before_an_unreadable_medium_stays(stage, count_units, tmp_path, monkeypatch):
    monkeypatch.setattr("training.encoder_cache.run.MEASURED", 1)  # otherwise it is found before anything is encoded
    lines = []
    for number in range(20):
        Image.effect_noise((32, 32), 50 + number).save(tmp_path / f"{number}.png")
        content = [{"type": "image", "path": f"{number}.png"}]
        lines += [
            json.dumps({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]})
        ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    whole = (tmp_path / "17.png").read_bytes()
    (tmp_path / "17.png").write_bytes(whole[: len(whole) // 2])
    config = stage({"batch_size": 8}, data={"mixture": [str(tmp_path / "rows.jsonl")]})
    with pytest.raises(DataError, match=r"rows.jsonl:18 .*17.png' cannot be read as a picture"):
        run(config)
    assert count_units == {"image": 16}
    (tmp_path / "17.png").write_bytes(whole)
    run(config)
    assert count_units == {"image": 20}


def test_kept_numbers_may_be_shorter(stage):
    plain, short = stage(False), stage({"dtype": "bfloat16", "folder": None})
    run(plain)
    said = run(short)
    torch.testing.assert_close(losses(short.output), losses(plain.output), rtol=0, atol=0.01)
    files = list((Path(short.output).parent / "encoder_cache").rglob("*.safetensors"))
    states = [load_file(file)["states"] for file in files]
    assert len(states) == 3 and all(each.dtype == torch.bfloat16 for each in states)
    megabytes = sum(each.nbytes for each in states) / 1e6
    assert f"about {megabytes:.1f} MB" in said


def test_media_that_are_augmented_are_left_out_or_refused(stage):
    augment = {"augment": {"speech": {"gain": 3.0, "mask_time": 0.2}}}
    with pytest.raises(
        ConfigError, match=r"image_kind_train.jsonl augments speech.*modalities: \['image', 'video', 'audio'\]"
    ):
        run(stage(data=augment))
    plain, kept = stage(False, data=augment), stage({"modalities": ["image", "audio"]}, data=augment)
    run(plain)
    run(kept)
    assert_equal_runs(plain.output, kept.output)


@pytest.mark.parametrize(
    ("cache", "changes", "message"),
    [
        ({"modalities": ["image"]}, {"train": {"parts": ["encoders.image"]}}, "encoders.image trains, so that the"),
        (True, {"train": {"parts": ["encoders"]}}, "there is no encoder that does not train"),
    ],
)
def test_encoders_that_train_are_refused(stage, cache, changes, message):
    with pytest.raises(ConfigError, match=message):
        run(stage(cache, **changes))


def test_encoders_that_do_not_train_are_kept_beside_one_that_does(stage, count_units, workspace):
    changes = {"train": {"parts": ["connectors", "encoders.image"]}}
    plain, kept = stage(False, **changes), stage(True, **changes)
    run(plain)
    count_units.clear()
    run(kept)
    rows = (workspace / "data" / "spoken_word_train.jsonl").read_text().splitlines()
    assert count_units["speech"] == len(rows)  # of a second at most, each once; but every batch has its pictures
    assert_equal_runs(plain.output, kept.output)


def test_streams_and_wrong_settings_are_refused(make_stage, workspace):
    path = str(workspace / "data" / "image_kind_train.jsonl")
    with pytest.raises(ValueError, match=r"cache_encoders: .*image_kind_train.jsonl is a stream"):
        make_stage(data={"mixture": [{"path": path, "stream": True}], "cache_encoders": True})
    with pytest.raises(ValueError, match="Input should be 'image', 'video', 'audio' or 'speech'"):
        make_stage(data={"cache_encoders": {"modalities": ["images"]}})
    with pytest.raises(ValueError, match="unknown key"):
        make_stage(data={"cache_encoders": {"directory": "x"}})
    assert make_stage(data={"cache_encoders": False}).data.cache_encoders is None
    assert make_stage(data={"cache_encoders": "here"}).data.cache_encoders.folder == "here"


def test_a_disk_that_is_too_small_is_refused(stage, monkeypatch, count_units):
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**9, 10**9, 1000))
    with pytest.raises(ConfigError, match=r"13 image, 13 speech, 13 audio take about .* where 0.0 MB are free"):
        run(stage())
    assert not count_units


def test_a_folder_that_processes_do_not_share_is_refused(stage, monkeypatch):
    monkeypatch.setattr("training.encoder_cache.store.CacheStore.refresh", lambda self: None)
    with pytest.raises(ConfigError, match=r"does not see what others wrote to .*encoder_cache"):
        run(stage())


def test_numbers_that_are_not_finite_are_named(stage, workspace, tmp_path):
    model = AutoModelForMultimodalLM.from_pretrained(workspace / "start")
    next(model.model.encoders["speech"].parameters()).data.fill_(1e38)
    shutil.copytree(workspace / "start", tmp_path / "start")
    model.save_pretrained(tmp_path / "start")
    with pytest.raises(DataError, match=r"spoken_word_train.jsonl:1 .*: the encoder makes NaN"):
        run(stage(start=str(tmp_path / "start")))


def test_specialists_of_one_run_learn_from_cached_tokens(stage, make_stage, workspace):
    modalities = {"image": 1, "speech": 1, "text": 1}
    mixture = [str(workspace / "data" / f"{name}_train.jsonl") for name in ("image_kind", "spoken_word", "text")]
    changes = {
        "start": {"specialists": {"base": str(workspace / "start-dense"), "modalities": modalities}},
        "train": {"parts": ["mlp", "connectors.image", "connectors.speech"]},
        "trainer": {"max_steps": 6},
    }
    plain, kept = (stage(cache, **{**changes, "data": {"mixture": mixture}}) for cache in (False, True))
    run(plain)
    run(kept)
    for key in modalities:
        torch.testing.assert_close(
            weights(Path(plain.output) / key), weights(Path(kept.output) / key), rtol=0, atol=1e-5
        )


@pytest.mark.distributed
@pytest.mark.parametrize(("processes", "zero"), [(0, None), (2, 2)], ids=["one process", "two under ZeRO-2"])
def test_a_killed_stage_goes_on_with_its_cached_tokens(stage, tmp_path, processes, zero):
    trainer = {"max_steps": 16, "save_steps": 6, "logging_steps": 2}
    plain, kept = (stage(cache, trainer=trainer, parallel={"zero": zero}) for cache in (False, True))
    train(plain, tmp_path / "plain.yaml", processes=processes)
    train_and_kill(kept, tmp_path / "kept.yaml", at=6, processes=processes)
    done = train(kept, tmp_path / "kept.yaml", "--resume", processes=processes)
    assert "all media are encoded already" in done.stdout and "going on from" in done.stdout
    assert_equal_runs(plain.output, kept.output)
