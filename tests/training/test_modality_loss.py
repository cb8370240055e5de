"""`losses.language: modalities`: every modality of a step counts alike, over batches, packs and processes."""

import io
import json
from pathlib import Path

import pytest
import torch
from launch import train
from rich.console import Console
from transformers import AutoModelForMultimodalLM, AutoProcessor

from training.config.data import DataConfig
from training.data import Collator, MixtureDataset
from training.data.mixture.dataset import read_mixture
from training.stage.run import run_stage
from training.trainer.losses import GROUPS, count_labels, label_weights, row_groups, weighted_loss
from unimoe import Modality

MODALITIES = {"language": "modalities"}
PLAIN = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


@pytest.fixture(scope="module")
def samples(workspace):
    """Two rows of each modality and of text."""
    files = sorted((workspace / "data").glob("*_train.jsonl"))
    dataset = MixtureDataset(read_mixture(DataConfig(mixture=[str(file) for file in files])), seed=0)
    starts = [sum(dataset.sizes[:number]) for number in range(len(files))]
    return [dataset[start + row] for row in range(2) for start in starts]


@pytest.fixture
def parts(workspace):
    """A model and its processor."""
    folder = workspace / "start"
    return AutoModelForMultimodalLM.from_pretrained(folder).train(), AutoProcessor.from_pretrained(folder)


def batch_of(samples, processor, packing=False):
    batch = Collator(processor, packing=packing)(samples)
    del batch["row_ids"]
    return batch


def weighted(model, *batches):
    """Loss of a step of several batches."""
    counts = torch.stack([count_labels(batch) for batch in batches]).sum(dim=0)
    model.loss_function = weighted_loss
    return sum(model(**batch, label_weights=label_weights(batch, counts)).losses["language"] for batch in batches)


def kind(sample):
    return {item["type"] for message in sample.messages for item in message["content"]} - {"text"}


def test_the_loss_is_the_mean_over_modalities_of_the_mean_over_their_labels(parts, samples):
    model, processor = parts
    means = []
    for modality in ({"image"}, {"audio"}, {"speech"}, set()):
        rows = [sample for sample in samples if kind(sample) == modality]
        assert len(rows) == 2
        means.append(model(**batch_of(rows, processor)).losses["language"].detach())
    lopsided = [*samples, *(s for s in samples if kind(s) == {"speech"})]  # twice as many rows of one modality
    assert float(weighted(model, batch_of(lopsided, processor)).detach()) == pytest.approx(
        float(sum(means)) / 4, rel=1e-5
    )


def test_batches_and_packs_give_the_loss_and_the_gradients_of_one_padded_batch(parts, samples):
    model, processor = parts
    splits = {
        "whole": [batch_of(samples, processor)],
        "two": [batch_of(samples[:3], processor), batch_of(samples[3:], processor)],
        "packed": [batch_of(samples[:5], processor, packing=True), batch_of(samples[5:], processor, packing=True)],
    }
    found = {}
    for name, batches in splits.items():
        model.zero_grad()
        model.eval()  # batch norms of the tiny picture tower would see other batches
        loss = weighted(model, *batches)
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found[name] = (float(loss.detach()), gradients)
    loss, gradients = found["whole"]
    for other, theirs in (found["two"], found["packed"]):
        assert other == pytest.approx(loss, rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(theirs[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_rows_with_several_modalities_are_a_group_of_their_own_in_packs_too():
    image, speech = int(Modality.IMAGE), int(Modality.SPEECH)
    padded = {
        "mm_token_type_ids": torch.tensor([[image, 0, speech, 0], [0, 0, image, 0], [0, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 0, 0]]),
    }
    both, one = (1 << image) | (1 << speech), 1 << image
    assert row_groups(padded).tolist() == [[both] * 4, [one] * 4, [0] * 4]
    packed = {
        "mm_token_type_ids": torch.tensor([[image, 0, speech, 0, 0, image, 0, 0, 0]]),
        "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1]]),
    }
    expected = [[both] * 4 + [one] * 3 + [0] * 2]
    assert row_groups(packed).tolist() == expected
    omni = {**packed, "position_ids": packed["position_ids"].expand(4, 1, 9)}
    assert row_groups(omni).tolist() == expected
    assert max(map(max, expected)) < GROUPS


def run(stage):
    folder = run_stage(stage, console=Console(file=io.StringIO()))
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return AutoModelForMultimodalLM.from_pretrained(folder).state_dict(), lines[0]


def test_accumulated_batches_learn_what_one_large_batch_learns(make_stage, mixture_start, tmp_path):
    (one, first), (many, second) = (
        run(
            make_stage(
                start=mixture_start,
                train={"parts": ["router", "experts"], "losses": MODALITIES},
                trainer={"per_device_train_batch_size": rows, "gradient_accumulation_steps": batches, **PLAIN},
                output=str(tmp_path / f"of-{rows}"),
            )
        )
        for rows, batches in ((8, 1), (2, 4))
    )
    for name, value in one.items():
        torch.testing.assert_close(many[name], value, rtol=1e-5, atol=1e-6)
    for key in ("loss", "loss_language"):
        assert first[key] == pytest.approx(second[key], rel=1e-4)


def test_it_is_another_loss_than_the_mean_over_labels(make_stage, tmp_path):
    losses = [
        run(make_stage(train={"parts": ["mlp"], "losses": {"language": over}}, output=str(tmp_path / over)))[1]
        for over in ("labels", "modalities")
    ]
    assert losses[0]["loss_language"] != pytest.approx(losses[1]["loss_language"], rel=1e-4)


@pytest.mark.distributed
def test_two_processes_learn_what_one_learns(make_stage, mixture_start, tmp_path):
    found = []
    for processes in (1, 2):
        stage = make_stage(
            start=mixture_start,
            train={"parts": ["router", "experts"], "losses": {**MODALITIES, "balance": 0}},
            trainer={"per_device_train_batch_size": 8 // processes, "max_steps": 4, **PLAIN},
            output=str(tmp_path / str(processes)),
        )
        train(stage, tmp_path / "stage.yaml", processes=processes)
        found.append([json.loads(line) for line in (Path(stage.output) / "metrics.jsonl").read_text().splitlines()])
    for one, two in zip(*found, strict=True):
        if "loss" in one:
            assert two["loss_language"] == pytest.approx(one["loss_language"], rel=1e-4)
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
