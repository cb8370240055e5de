"""Extending by a modality or a task: all else gets the same bits, before and after the training of what is new."""

from pathlib import Path
from typing import Any

import pytest
import torch
from surgery.rows import write_rows
from tiny import tiny_config, tiny_inputs, tiny_model
from tiny_model import save_tiny
from tiny_processor import byte_tokenizer
from torch import Tensor
from typer.testing import CliRunner

from unimoe import Modality, UniMoEConfig, UniMoEForConditionalGeneration
from unimoe.checkpoint.loading import load_mixture, load_model
from unimoe.cli import app
from unimoe.errors import UniMoEError
from unimoe.moe.tasks import set_task, task_on
from unimoe.surgery import Certificate, audit_change, extend
from unimoe.surgery.calibration import as_batch
from unimoe.surgery.extension import extended_config, extended_processor
from unimoe.surgery.mixture import sparse_layers
from unimoe.surgery.saliency import saliency

MODES: dict[str, dict[str, Any]] = {
    "shared": {},
    "bias": {"modality_routing": "bias"},
    "separate": {"modality_routing": "separate"},
    "isolated": {"modality_routing": "isolated", "expert_groups": {"text": [0, 1], "image": [2, 3]}},
    "semi_isolated": {"modality_routing": "semi_isolated", "expert_groups": {"image": [2, 3]}},
    "top_p with nulls": {"router_type": "top_p", "num_experts_per_tok": 3, "num_null_experts": 1},
    "sigmoid with bias": {"scoring_func": "sigmoid", "balance_bias": True, "num_null_experts": 1},
    "two widths": {
        "modality_routing": "isolated",
        "expert_groups": {"text": [0, 1], "image": [2, 3]},
        "expert_group_intermediate_sizes": {"image": 8},
    },
}


def mixture(**fields: Any) -> UniMoEForConditionalGeneration:
    """A mixture whose routers and biases have values that matter."""
    model = tiny_model(**{"num_experts": 4, "moe_intermediate_size": 16, **fields})
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if ".router." in name:
                tensor.normal_(std=0.3)
    return model


def rows_without(model: Any, modality: Modality) -> dict[str, Tensor]:
    """A row with every medium but one."""
    inputs = tiny_inputs(model.config)
    keep = inputs["input_ids"] != model.config.token_id(modality)
    inputs = {**inputs, "input_ids": inputs["input_ids"][keep][None], "attention_mask": keep[keep][None].long()}
    return {name: value for name, value in inputs.items() if name != modality.feature_name}


def speech_row(model: Any) -> dict[str, Tensor]:
    inputs = tiny_inputs(model.config)
    ids = torch.tensor([[5, *[63] * (2 * model.config.num_tokens["speech"]), 9, 10, 11, 12]])
    return {"input_ids": ids, "speech_features": inputs["speech_features"], "labels": ids.masked_fill(ids == 63, -100)}


@torch.no_grad()
def logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    return model.eval()(**inputs).logits


def train(model: Any, parts: list[str], steps: int = 6) -> list[float]:
    """Losses of steps of AdamW with weight decay on a row of speech, of parts alone."""
    trained = {name for part in parts for name in model.parts()[part]}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained and "embed_positions" not in name)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.5)
    model.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**speech_row(model)).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("mode", MODES)
def test_other_modalities_get_the_same_bits_before_and_after_training(mode: str) -> None:
    model = mixture(**MODES[mode])
    inputs = rows_without(model, Modality.SPEECH)
    before, state = logits(model, inputs), {name: value.clone() for name, value in model.state_dict().items()}
    new, certificate = extend(model, "speech", num_experts=3)
    assert (certificate.kind, certificate.difference) == ("exact", 0.0)
    assert torch.equal(logits(new, inputs), before)
    losses = train(new, certificate.details["stage"]["train"]["parts"])
    assert losses[-1] < losses[0] - 0.1
    assert torch.equal(logits(new, inputs), before)
    trained = ("encoders.speech.", "connectors.speech.")
    after = new.state_dict()
    for name, value in state.items():
        if not any(part in name for part in trained) and not name.endswith("balance_bias"):
            assert torch.equal(after[name], value), name


def test_the_new_experts_learn() -> None:
    new, certificate = extend(mixture(), "speech")
    state = {name: value.clone() for name, value in new.state_dict().items()}
    losses = train(new, ["reserved_experts.speech", "reserved_router.speech"])
    assert losses[-1] < losses[0]
    moved = {name for name, value in new.state_dict().items() if not torch.equal(value, state[name])}
    assert moved == {name for name in state if "reserved" in name}
    assert certificate.details["added"] == {
        part: sum(state[name].numel() for name in new.parts()[part])
        for part in ("reserved_router", "reserved_experts")
    }


@pytest.mark.parametrize("mode", MODES)
def test_without_the_task_all_modalities_get_the_same_bits_before_and_after_training(mode: str) -> None:
    model = mixture(**MODES[mode])
    inputs = tiny_inputs(model.config)
    before, state = logits(model, inputs), {name: value.clone() for name, value in model.state_dict().items()}
    new, certificate = extend(model, task="ocr", num_experts=3)
    assert (certificate.kind, certificate.difference) == ("exact", 0.0)
    assert "While the task ocr is off, tokens of text, image, video, audio, speech get" in certificate.claim
    assert torch.equal(logits(new, inputs), before)
    with task_on(new, "ocr"):
        first = logits(new, inputs)
        assert not torch.equal(first, before)
        losses = train(new, certificate.details["stage"]["train"]["parts"])
        assert losses[-1] < losses[0]
        assert not torch.equal(logits(new, inputs), first)
    assert torch.equal(logits(new, inputs), before)
    after = new.state_dict()
    assert all(torch.equal(after[name], value) for name, value in state.items() if not name.endswith("balance_bias"))


def test_later_tasks_and_modalities_leave_a_task_as_it_was(tmp_path: Path) -> None:
    first, _ = extend(mixture(), task="ocr", num_experts=1)
    set_task(first, "ocr")
    second, certificate = extend(first, task="asr", num_experts=2)
    assert certificate.difference == 0.0
    third, certificate = extend(second, "speech", num_experts=1)
    assert certificate.difference == 0.0
    assert third.config.text_config.reserved_experts == {"task_ocr": [4], "task_asr": [5, 6], "speech": [7]}
    inputs = tiny_inputs(first.config)
    third.save_pretrained(tmp_path)
    for new, given in ((second, inputs), (load_model(tmp_path), rows_without(first, Modality.SPEECH))):
        for task in (None, "ocr"):
            with task_on(new, task), task_on(first, task):
                assert torch.equal(logits(new, given), logits(first, given))


def test_copies_for_a_task_are_of_all_that_some_modality_may_choose() -> None:
    _, certificate = extend(mixture(**MODES["isolated"]), task="ocr", num_experts=5)
    assert set(map(tuple, certificate.details["copied"].values())) == {(0, 1, 2, 3, 0)}


@pytest.mark.parametrize("mode", ["bias", "top_p with nulls"])
def test_generation_asks_the_experts_of_a_task_that_is_on(mode: str) -> None:
    model, prompt = mixture(**MODES[mode]), {"input_ids": torch.arange(5, 12)[None]}
    new, _ = extend(model, task="ocr")
    with torch.no_grad():
        for name in new.parts()["reserved_experts.task_ocr"]:
            new.get_parameter(name).normal_()

    def answer(model: Any) -> Tensor:
        return model.generate(**prompt, max_new_tokens=6, do_sample=False)

    assert torch.equal(answer(new), answer(model))
    with task_on(new, "ocr"):
        ids = answer(new)
        likeliest = logits(new, {"input_ids": ids})[:, 6:-1, :60].argmax(dim=-1)  # of all but placeholders
    assert torch.equal(ids[:, 7:], likeliest) and not torch.equal(ids, answer(model))


def open_to_all(model: Any) -> None:
    for layer in model.model.language_model.layers:
        layer.mlp.router.permitted.fill_(True)
        layer.mlp.router.reserved["speech"].bias.data.fill_(3.0)


@pytest.mark.parametrize(
    ("parts", "change"),
    [
        (["reserved_experts", "reserved_router", "router"], lambda model: None),
        (["reserved_experts", "reserved_router", "experts"], lambda model: None),
        (["reserved_experts", "reserved_router", "attention"], lambda model: None),
        (["reserved_experts"], open_to_all),
    ],
)
def test_any_less_changes_other_modalities(parts: list[str], change: Any) -> None:
    """Controls: old router rows, experts or attention that train, and new experts that are open to all."""
    model = mixture()
    new, _ = extend(model, "speech")
    change(new)
    inputs = rows_without(model, Modality.SPEECH)
    train(new, parts)
    assert float((logits(new, inputs) - logits(model, inputs)).abs().max()) > 1e-4


def test_a_second_extension_leaves_the_first_as_it_was() -> None:
    first, _ = extend(mixture(), "speech", num_experts=1)
    new, certificate = extend(first, "audio", num_experts=2)
    assert new.config.text_config.reserved_experts == {"speech": [4], "audio": [5, 6]}
    assert certificate.difference == 0.0
    inputs = rows_without(first, Modality.AUDIO)
    assert torch.equal(logits(new, inputs), logits(first, inputs))
    assert "tokens of text, image, video, speech get" in certificate.claim


def test_copies_are_of_the_most_used_experts_that_the_modality_may_choose() -> None:
    model = mixture(**MODES["semi_isolated"])
    used = saliency(model, [as_batch({"input_ids": torch.arange(3, 33)[None]})])
    new, certificate = extend(model, "speech", num_experts=3, noise=0.0, use=used)
    layer = new.model.language_model.layers[1].mlp
    order = sorted([0, 1], key=lambda expert: -float(used.layers[1].count.sum(dim=0)[expert]))
    assert certificate.details["copied"]["1"] == [*order, order[0]]
    for place, expert in enumerate(certificate.details["copied"]["1"]):
        assert torch.equal(layer.reserved_experts["speech"].down_proj[place], layer.experts.down_proj[expert])


def test_extending_by_images_promises_nothing_of_video_which_they_serve() -> None:
    _, certificate = extend(mixture(), "image", init="random")
    assert "tokens of text, audio, speech get" in certificate.claim
    _, certificate = extend(mixture(), "video")
    assert certificate.details["stage"] == {"train": {"parts": ["reserved_experts.video", "reserved_router.video"]}}
    assert "tokens of text, image, audio, speech get" in certificate.claim


def deaf(config: UniMoEConfig) -> UniMoEConfig:
    """The same model without an encoder for speech, and without a placeholder for it."""
    values = {**config.to_dict(), "speech_config": None, "speech_connector_config": None, "speech_token_id": None}
    return UniMoEConfig.from_dict(values)


def save_deaf(folder: Path, like: Path, **text: Any) -> Path:
    """A mixture that takes no speech, with the processor of another model."""
    donor, processor = load_mixture(like)
    values = donor.config.to_dict()
    values["text_config"] |= {"num_experts": 4, "moe_intermediate_size": 16, **text}
    torch.manual_seed(1)
    model = UniMoEForConditionalGeneration(deaf(UniMoEConfig.from_dict(values)))
    model.save_pretrained(folder)
    processor.speech_feature_extractor = None
    extended_processor(processor, model.config, None).save_pretrained(folder)
    return folder


def test_the_command_adds_an_encoder_and_leaves_the_other_tensors_as_they_are(tmp_path: Path) -> None:
    donor = save_tiny(tmp_path / "donor")
    folder, out = save_deaf(tmp_path / "deaf", donor), tmp_path / "out"
    rows = write_rows(tmp_path / "data", ("text", "image", "audio"))
    command = ["extend", str(folder), str(out), "--modality", "speech", "--encoder-of", str(donor)]
    result = CliRunner().invoke(app, [*command, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "reserved_experts" in result.output and not out.exists()
    result = CliRunner().invoke(app, [*command, "--data", str(rows)])
    assert result.exit_code == 0, result.output
    certificate = Certificate.load(out)
    assert (certificate.kind, certificate.difference) == ("exact", 0.0)
    found = audit_change(folder, out)
    assert found.share() == 0.0 and not found.gone
    parts = {"reserved_experts", "reserved_router", "encoders", "connectors"}
    assert set(certificate.details["added"]) == parts
    (new, processor), (source, _) = load_mixture(out), load_mixture(donor)
    for part in ("encoders", "connectors"):
        own, theirs = (getattr(model.model, part)["speech"].state_dict() for model in (new, source))
        assert all(torch.equal(own[name], theirs[name]) for name in theirs)
    assert Modality.SPEECH in processor.modalities
    with pytest.raises(UniMoEError, match="reserved for a modality"):
        sparse_layers(new)


def test_the_command_extends_by_a_task(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", num_experts=4, moe_intermediate_size=16)
    rows = write_rows(tmp_path / "data")
    command = ["extend", str(tmp_path / "model"), str(tmp_path / "out"), "--task", "ocr", "--experts", "1"]
    result = CliRunner().invoke(app, [*command, "--data", str(rows)])
    assert result.exit_code == 0, result.output
    found = audit_change(tmp_path / "model", tmp_path / "out")
    assert found.share() == 0.0 and not found.gone
    new, _ = load_mixture(tmp_path / "out")
    assert new.config.text_config.reserved_experts == {"task_ocr": [4]}
    result = CliRunner().invoke(app, command[:3])
    assert result.exit_code != 0 and "neither is given. Extend by one of them." in result.output


def test_a_vocabulary_without_the_placeholder_grows_by_rows_that_are_never_the_likeliest() -> None:
    config = deaf(tiny_config(num_experts=4, moe_intermediate_size=16))
    config.text_config.vocab_size = 60
    for key in ("image", "video", "audio"):
        setattr(config, f"{key}_token_id", 3)
    torch.manual_seed(0)
    model = UniMoEForConditionalGeneration(config).eval()
    new, certificate = extend(model, "speech", encoder_of=tiny_model(), tokenizer=byte_tokenizer())
    size, token = new.config.text_config.vocab_size, new.config.speech_token_id
    assert size > token >= 60 and certificate.difference == 0.0
    found = logits(new, {"input_ids": torch.arange(10, 50)[None]})
    assert torch.equal(found[..., :60], logits(model, {"input_ids": torch.arange(10, 50)[None]}))
    assert bool((found[..., 60:].amax(dim=-1) < found[..., :60].amax(dim=-1)).all())


DEAF = deaf(tiny_config(num_experts=4))


@pytest.mark.parametrize(
    ("config", "options", "problem"),
    [
        (tiny_config(num_experts=4), {"modality": "touch"}, "Unknown modality 'touch'"),
        (tiny_config(num_experts=4), {"modality": "text"}, "modality: text is in every row"),
        (tiny_config(num_experts=4), {"task": "ocr"}, "modality or task: both are given, 'speech' and 'ocr'"),
        (tiny_config(num_experts=4), {"modality": None}, "modality or task: neither is given"),
        (tiny_config(num_experts=4), {"modality": None, "task": "o c"}, "'task_o c' names no task"),
        (
            tiny_config(num_experts=4, reserved_experts={"task_ocr": [3]}),
            {"modality": None, "task": "ocr"},
            r"task: ocr has the experts \[3\] reserved for it already. Train these, or extend by another task",
        ),
        (
            tiny_config(num_experts=4),
            {"modality": None, "task": "ocr", "encoder_of": tiny_config()},
            "encoder_of: a task has no encoder of its own",
        ),
        (tiny_config(num_experts=4), {"num_experts": 0}, "num_experts: it is 0; at least 1 is added"),
        (tiny_config(), {}, "model: it is dense"),
        (
            tiny_config(num_experts=4, n_group=2),
            {},
            "reserved_experts belong to no group",
        ),
        (tiny_config(num_experts=4, reserved_experts={"speech": [3]}), {}, r"speech has the experts \[3\] reserved"),
        (DEAF, {}, "encoder_of: the model has no encoder for speech"),
        (DEAF, {"encoder_of": DEAF}, "encoder_of: neither the model nor that of encoder_of has an encoder for speech"),
        (DEAF, {"encoder_of": tiny_config(hidden_size=64)}, "embeddings of size 64, and the model takes 32"),
        (DEAF, {"encoder_of": tiny_config()}, r"tokenizer: the model has no id for <\|speech\|>"),
        (tiny_config(num_experts=4), {"encoder_of": tiny_config()}, "the model has an encoder for speech already"),
    ],
)
def test_what_cannot_be_extended_is_refused(config: UniMoEConfig, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UniMoEError, match=problem):
        extended_config(config, **{"modality": "speech", **options})
