"""TRL's supervised fine-tuning trainer on messages: pictures through its own collator, other media through ours."""

import pytest
import torch
from tiny_model import save_tiny
from tiny_processor import first, picture, process, turn
from transformers import AutoModelForMultimodalLM, AutoProcessor

datasets = pytest.importorskip("datasets")
trl = pytest.importorskip("trl")


FILES = {
    "image": first("image_kind", "*.png"),
    "speech": first("spoken_word", "*.flac"),
    "audio": first("sound_kind", "*.*"),
}


@pytest.fixture
def parts(tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("model"), num_experts=4)
    return AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def arguments(folder, **changes):
    options = {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "max_length": None,
        "gradient_checkpointing": False,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
    }
    return trl.SFTConfig(output_dir=str(folder), **{**options, **changes})


def train(model, processor, dataset, folder, **changes) -> list[str]:
    """Names of the parameters that two steps changed."""
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    collator = changes.pop("data_collator", None)
    trainer = trl.SFTTrainer(
        model,
        arguments(folder, **changes),
        train_dataset=dataset,
        processing_class=processor,
        data_collator=collator,
    )
    result = trainer.train()
    assert torch.isfinite(torch.tensor(result.training_loss)) and 0 < result.training_loss < 20
    return [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]


def picture_rows() -> list[dict]:
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}
    return [{"messages": [question, answer], "images": [picture(shade)]} for shade in (0, 80, 160, 240)]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_pictures_train_through_trls_own_collator(parts, tmp_path, checkpointing) -> None:
    model, processor = parts
    dataset = datasets.Dataset.from_list(picture_rows())
    changed = train(model, processor, dataset, tmp_path, gradient_checkpointing=checkpointing)
    for part in ("encoders.image", "connectors.image", "mlp.experts", "mlp.router", "lm_head"):
        assert any(part in name for name in changed), part


def test_the_answer_alone_can_be_trained(parts, tmp_path) -> None:
    model, processor = parts
    rows = [
        {"prompt": row["messages"][:1], "completion": row["messages"][1:], "images": row["images"]}
        for row in picture_rows()
    ]
    assert train(model, processor, datasets.Dataset.from_list(rows), tmp_path)


@pytest.mark.parametrize("kind", FILES)
def test_other_media_train_through_a_collator_that_calls_the_processor(parts, tmp_path, kind) -> None:
    """TRL's collator knows pictures alone; one of three lines takes every medium."""
    model, processor = parts
    medium = {"type": kind, "path": str(FILES[kind])}
    rows = [{"messages": [turn(medium, f"{n}?"), turn("a cat", role="assistant")]} for n in range(4)]

    def collate(examples: list[dict]) -> dict:
        batch = process(processor, [row["messages"] for row in examples], return_assistant_tokens_mask=True)
        mask = torch.as_tensor(batch.pop("assistant_masks"))
        return {**batch, "labels": batch["input_ids"].masked_fill(mask == 0, -100)}

    options = {"dataset_kwargs": {"skip_prepare_dataset": True}, "remove_unused_columns": False}
    changed = train(model, processor, datasets.Dataset.from_list(rows), tmp_path, data_collator=collate, **options)
    for part in (f"connectors.{kind}", "mlp.experts"):
        assert any(part in name for name in changed), part


def test_text_rows_train(parts, tmp_path) -> None:
    model, processor = parts
    messages = [{"role": "user", "content": "say it"}, {"role": "assistant", "content": "it"}]
    dataset = datasets.Dataset.from_list([{"messages": messages}] * 4)
    assert any("mlp.experts" in name for name in train(model, processor, dataset, tmp_path))


def test_null_experts_need_trls_balance_loss_switched_off(tmp_path, model_folder) -> None:
    """TRL computes Mixtral's balance loss by itself, over `num_experts` targets; a null expert is one more."""
    parts = [auto_class.from_pretrained(model_folder) for auto_class in (AutoModelForMultimodalLM, AutoProcessor)]
    dataset = datasets.Dataset.from_list(picture_rows())
    with pytest.raises(RuntimeError, match="out of bounds"):
        train(*parts, dataset, tmp_path)
    assert train(*parts, dataset, tmp_path, router_aux_loss_coef=0.0)
