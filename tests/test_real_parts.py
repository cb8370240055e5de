"""Real pretrained parts: SmolLM2, EfficientNet and Whisper, built, upcycled, verified, and trained for a step."""

import os
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, AutoTokenizer
from typer.testing import CliRunner

from training.config.stage import StageConfig
from training.quickstart.rows import demo_rows, write_rows
from training.stage.run import run_stage
from unimoe.cli import app
from unimoe.surgery import Certificate

pytestmark = pytest.mark.slow
MODELS = Path(os.environ.get("UNIMOE_MODELS", "models"))
PARTS = {
    "language": MODELS / "SmolLM2-135M-Instruct",
    "vision": MODELS / "tf_efficientnet_lite0",
    "speech": MODELS / "whisper-tiny.en",
}
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):",
    "Water boils at",
    "The three primary colours are",
    "Q: What is 7 times 8?\nA:",
    "Dear Sir or Madam,",
    "In 1969, the first humans",
    "The opposite of hot is",
    "A haiku about autumn:\n",
    "SELECT name FROM",
    "<|im_start|>user\nName a fruit.<|im_end|>\n<|im_start|>assistant\n",
    "To make an omelette, first",
    "The derivative of x squared is",
    "He opened the door and",
    "Die Hauptstadt von Deutschland ist",
    "1, 1, 2, 3, 5, 8,",
    "Photosynthesis is the process by which",
    "Breaking news:",
    "My favourite book is",
]


def build(out: Path, *options: str) -> str:
    for folder in PARTS.values():
        assert (folder / "model.safetensors").is_file(), f"There is no {folder}. Run: make real-parts"
    arguments = ["build", "--out", str(out), "--dtype", "float32", *options]
    for name, folder in PARTS.items():
        arguments += [f"--{name}", str(folder)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    print(result.output)
    return result.output


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("real") / "mixture"
    return folder, build(folder, "--experts", "4", "--top-k", "2")


def load(dtype: torch.dtype, folder: Path):
    """The dense language model and the mixture built from it, under eager attention and experts."""
    options = {"dtype": dtype, "attn_implementation": "eager"}
    dense = AutoModelForCausalLM.from_pretrained(PARTS["language"], **options).eval()
    model = AutoModelForMultimodalLM.from_pretrained(folder, dtype=dtype).eval()
    model.model.language_model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    return dense, model


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-7)], ids=str)
@torch.no_grad()
def test_the_mixture_gives_exactly_the_logits_of_the_language_model(mixture, dtype, tolerance) -> None:
    dense, model = load(dtype, mixture[0])
    tokenizer = AutoTokenizer.from_pretrained(PARTS["language"])
    largest = 0.0
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        expected = dense(ids).logits
        actual = model(input_ids=ids).logits[..., : expected.shape[-1]]
        largest = max(largest, float((actual - expected).abs().max() / expected.abs().max()))
    print(f"{dtype}: largest difference of the logits on {len(PROMPTS)} prompts {largest:.1e} (limit {tolerance:.0e})")
    assert largest <= tolerance


@torch.no_grad()
def test_the_mixture_writes_exactly_the_text_of_the_language_model(mixture) -> None:
    dense, model = load(torch.float32, mixture[0])
    tokenizer = AutoTokenizer.from_pretrained(PARTS["language"])
    for prompt in PROMPTS[:4]:
        inputs = tokenizer(prompt, return_tensors="pt")
        options = {"max_new_tokens": 50, "min_new_tokens": 50, "do_sample": False, "eos_token_id": 2}
        expected, actual = (m.generate(**inputs, **options)[0].tolist() for m in (dense, model))
        assert actual == expected
    print(tokenizer.decode(actual))


def test_the_build_says_what_it_cost_and_certifies_that_it_is_exactly_the_same(mixture) -> None:
    folder, output = mixture
    assert re.search(r"in \d+ s, with \d+\.\d GB of memory at the peak", " ".join(output.split()))
    certificate = Certificate.load(folder)
    assert certificate.kind == "exact" and certificate.difference <= 1e-5


def test_verify_passes_on_this_model(mixture) -> None:
    result = CliRunner().invoke(app, ["verify", str(mixture[0])])
    print(result.output)
    assert result.exit_code == 0, result.output
    assert re.search(r"verified in \d+ s, with \d+\.\d GB of memory at the peak", result.output)


def changed(before: Path, after: Path) -> set[str]:
    """Names of the parameters that differ between two folders."""
    one, two = (AutoModelForMultimodalLM.from_pretrained(folder).state_dict() for folder in (before, after))
    return {name for name in one if name in two and not torch.equal(one[name], two[name])}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """One step of each stage on a picture and a spoken word: the folders of the start, and of each stage."""
    root = tmp_path_factory.mktemp("stages")
    build(root / "start")
    for task in ("image_kind", "spoken_word"):
        rows = demo_rows(task, "train", relative_to=root.resolve())
        write_rows(root / f"{task}.jsonl", iter([next(rows)]))

    def run(name: str, start, train: dict) -> Path:
        return run_stage(
            StageConfig.model_validate(
                {
                    "start": start,
                    "train": train,
                    "data": {"mixture": [str(root / "image_kind.jsonl"), str(root / "spoken_word.jsonl")]},
                    "trainer": {"max_steps": 1, "per_device_train_batch_size": 2, "logging_steps": 1, "use_cpu": True},
                    "output": str(root / name),
                }
            ),
            name=name,
        )

    align = run("align", str(root / "start"), {"parts": ["connectors"]})
    image = run("image", str(align), {"parts": ["mlp", "connectors.image"]})
    mixed = run(
        "mixed",
        {"assemble": {"base": str(align), "experts": {"image": str(image)}}},
        {"parts": ["router", "connectors"], "lora": {"parts": ["experts", "attention"], "r": 2}},
    )
    return {"start": root / "start", "align": align, "image": image, "mixed": mixed}


@pytest.mark.parametrize(
    ("before", "after", "trained"),
    [
        ("start", "align", r"^model\.connectors\."),
        ("align", "image", r"\.mlp\.|^model\.connectors\.image\."),
        ("align", "mixed", r"^model\.connectors\.|\.self_attn\.\w_proj\."),
    ],
)
def test_one_step_on_real_parts_is_finite_and_changes_what_it_names_alone(stages, before, after, trained) -> None:
    names = changed(stages[before], stages[after])
    assert names and all(re.search(trained, name) for name in names), sorted(names)[:5]
    metrics = (stages[after] / "metrics.jsonl").read_text()
    print(after, re.search(r'"loss": [^,]+', metrics)[0], f"{len(names)} tensors changed")
    assert "NaN" not in metrics and "Infinity" not in metrics


def test_the_last_stage_trains_the_routers_and_the_experts(stages) -> None:
    mixed = AutoModelForMultimodalLM.from_pretrained(stages["mixed"]).state_dict()
    base, image = (AutoModelForMultimodalLM.from_pretrained(stages[name]).state_dict() for name in ("align", "image"))
    layer = "model.language_model.layers.0.mlp"
    for expert, source in enumerate((base, image)):
        dense = torch.cat([source[f"{layer}.gate_proj.weight"], source[f"{layer}.up_proj.weight"]])
        assert 0 < (mixed[f"{layer}.experts.gate_up_proj"][expert] - dense).abs().max() < 1e-2
