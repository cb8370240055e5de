"""Training as others train: checkpointing of every layer, LoRA of peft, transformers' Trainer, router in float32."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import randomise, tiny_inputs, tiny_model
from transformers import AutoModelForMultimodalLM, Trainer, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from unimoe.encoders import Encoder

MEDIA = ("pixel_values", "speech_features", "audio_features", "pixel_values_videos")


def step(model, inputs) -> float:
    """One step of plain gradient descent on the answer to `inputs`."""
    model.train()
    for module in model.modules():  # batch norms would learn from the media, though nothing of them is trained
        if isinstance(module, Encoder):
            module.eval()
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    model.zero_grad()
    return float(loss)


def test_gradient_checkpointing_reaches_every_layer_and_changes_no_gradient(sparse, inputs) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(**sparse).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
            owners = {type(layer).__name__ for layer in layers}
            assert {"DecoderLayer", "WhisperEncoderLayer"} <= owners
            assert all(layer.gradient_checkpointing for layer in layers)
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_input_gradients_can_be_required_of_a_frozen_model(sparse, inputs) -> None:
    """What peft asks for before it checkpoints a model whose embeddings are frozen."""
    model = tiny_model(**sparse).train().requires_grad_(False)
    model.enable_input_require_grads()
    seen = []
    model.model.language_model.layers[0].register_forward_pre_hook(lambda m, args: seen.append(args[0].requires_grad))
    model(**inputs)
    model.disable_input_require_grads()
    model(**inputs)
    assert seen == [True, False]


LORA = {
    "attention": {"target_modules": ["q_proj", "v_proj", "o_proj"]},
    "feed-forward of shared experts": {"target_modules": ["gate_proj", "up_proj", "down_proj"]},
    "experts": {
        "target_modules": [],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    },
}


@pytest.mark.parametrize("kind", LORA)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_of_peft_trains_saves_loads_and_merges(sparse, inputs, kind, checkpointing, tmp_path: Path) -> None:
    model = tiny_model(**sparse)
    randomise(model)
    model.save_pretrained(tmp_path / "base")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, **LORA[kind]))
    if checkpointing:
        adapted.gradient_checkpointing_enable()
        adapted.enable_input_require_grads()
    trained = {name: p.clone() for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    step(adapted, inputs)
    changed = [name for name, p in adapted.named_parameters() if name in trained and not torch.equal(p, trained[name])]
    assert len(changed) == len(trained)
    adapted.eval()
    with torch.no_grad():
        expected = adapted(**inputs).logits
    adapted.save_pretrained(tmp_path / "adapter")
    base = AutoModelForMultimodalLM.from_pretrained(tmp_path / "base")
    for name, parameter in base.named_parameters():
        assert torch.equal(parameter, before[name]), name
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, expected)
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(merged(**inputs).logits, expected, atol=1e-5, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForMultimodalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, merged(**inputs).logits)


def test_adapters_load_through_transformers_own_methods(sparse, inputs, tmp_path) -> None:
    model = tiny_model(**sparse)
    adapted = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj"]))
    expected = adapted(**inputs).logits
    adapted.save_pretrained(tmp_path)
    fresh = tiny_model(**sparse)
    fresh.load_adapter(str(tmp_path))
    torch.testing.assert_close(fresh(**inputs).logits, expected)


class Rows(torch.utils.data.Dataset):
    """Rows with every medium, and labels."""

    def __init__(self, config) -> None:
        self.rows = [tiny_inputs(config, seed=seed) for seed in range(6)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    batch = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    return {**batch, "labels": batch["input_ids"]}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_transformers_own_trainer_trains_evaluates_and_saves(sparse, checkpointing, tmp_path) -> None:
    model = tiny_model(**sparse)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=2,
        learning_rate=1e-2,
        gradient_checkpointing=checkpointing,
        report_to=[],
        save_steps=1,
        use_cpu=True,
    )
    rows = Rows(model.config)
    trainer = Trainer(model, arguments, data_collator=collate, train_dataset=rows, eval_dataset=rows)
    result = trainer.train()
    assert result.training_loss < 10 and result.global_step == 2
    still = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert still == {"model.encoders.speech.tower.embed_positions.weight"}  # sinusoids, frozen by design
    metrics = trainer.predict(rows)
    assert isinstance(metrics.metrics["test_loss"], float)
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path / "checkpoint-2")
    assert all(torch.equal(p, dict(model.named_parameters())[name]) for name, p in loaded.named_parameters())
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


@pytest.mark.parametrize("how", ["to", "from_pretrained", "autocast", "half"])
def test_the_router_computes_in_float32_whatever_the_dtype_of_the_model(sparse, inputs, how, tmp_path) -> None:
    model = tiny_model(**sparse)
    context = torch.autocast("cpu", enabled=False)
    if how in ("to", "half"):
        model.to(torch.bfloat16 if how == "to" else torch.float16)
    elif how == "from_pretrained":
        model.save_pretrained(tmp_path)
        model = AutoModelForMultimodalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert model.model.language_model.layers[0].mlp.router.weight.dtype == torch.float32
    else:
        context = torch.autocast("cpu", dtype=torch.bfloat16)
    with context, torch.no_grad():
        output = model(**inputs, output_router_logits=True)
    assert all(logits.dtype == torch.float32 for logits in output.router_logits)
    assert output.logits.dtype == (torch.float16 if how == "half" else torch.bfloat16)
    assert output.logits.isfinite().all()
