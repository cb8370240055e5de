"""Commands that make a model, look at its folder, verify or audit it, or talk to it."""

import platform
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from ..errors import UniMoEError
from ..errors.terminal import fail
from .common import app, console, cost, load, say, summary

PACKAGES = (
    "unimoe",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "timm",
    "torchaudio",
    "torchvision",
    "datasets",
    "safetensors",
    "deepspeed",
    "av",
)
Precision = Literal["auto", "float32", "bfloat16", "float16"]
ModalityRouting = Literal["shared", "bias", "separate"]
ExpertType = Literal["mlp", "lora"]
Files = Annotated[list[Path] | None, typer.Option(help="A file; repeat the option for several.")]
Folder = Annotated[str, typer.Argument(help="Model folder, or Hub id.")]


@app.command()
def env() -> None:
    """Print versions and devices: a block to paste into an issue."""
    import torch

    console.print(f"python {platform.python_version()} on {platform.system()} {platform.machine()}", highlight=False)
    for name in PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = "not installed"
        console.print(f"{name} {version}", highlight=False)
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    console.print(f"devices: {', '.join(devices) or 'CPU only'}", highlight=False)


@app.command()
def info(
    folder: Folder,
    tokens_per_second: Annotated[float | None, typer.Option(help="Measured, of one sequence of text.")] = None,
    bandwidth: Annotated[float, typer.Option(help="Peak of the device's memory, GB/s.")] = 0.0,
    tflops: Annotated[float, typer.Option(help="Peak of the device, TFLOPS.")] = 0.0,
) -> None:
    """Describe a model, of this package or a mixture of transformers: parts, experts, parameters, cost of a token.

    With --tokens-per-second, --bandwidth and --tflops also how much of the device decoding uses.
    """
    from transformers.utils import logging

    from ..analysis.describe import describe, open_model, text_cost

    logging.disable_progress_bar()
    try:
        model = open_model(folder)
    except UniMoEError as error:
        fail(error)
    rows = list(describe(model))
    if tokens_per_second is not None:
        cost = text_cost(model)
        if min(tokens_per_second, bandwidth, tflops) <= 0 or cost is None:
            fail("--tokens-per-second needs --bandwidth and --tflops, all above 0, and routing that is not soft.")
        used = cost.utilisation(tokens_per_second, bandwidth=bandwidth * 1e9, flops=tflops * 1e12)
        rows.append(("S-MBU, S-MFU", f"{used[0]:.1%} of the bandwidth, {used[1]:.1%} of the operations"))
    table = Table("part", "what it is", title=escape(folder))
    for name, text in rows:
        table.add_row(name, escape(text))
    console.print(table)


@app.command()
def presets() -> None:
    """List published configurations: what each is, where its figures are from, and what it leaves out."""
    from ..presets import PRESETS

    table = Table("name", "what it is", "source", "what differs", show_lines=True)
    for name, preset in PRESETS.items():
        table.add_row(name, *map(escape, (preset.title, preset.source, preset.differs)))
    console.print(table)


@app.command()
def build(
    language: Annotated[str, typer.Option(help="Language model, dense or sparse: folder or Hub id.")],
    out: Annotated[Path, typer.Option(help="Folder for the model and its processor.")],
    vision: Annotated[str | None, typer.Option(help="Image tower: CLIP, SigLIP, ViT, a CNN, any timm model.")] = None,
    speech: Annotated[str | None, typer.Option(help="Whisper model, of which the encoder is taken.")] = None,
    audio: Annotated[str | None, typer.Option(help="Tower for sounds: AST, or BEATs.")] = None,
    experts: Annotated[int, typer.Option(min=0, help="Copies of each feed-forward as experts. 0: dense.")] = 0,
    top_k: Annotated[int, typer.Option(min=1, help="Experts that each token passes.")] = 2,
    expert_type: Annotated[
        ExpertType, typer.Option(help="mlp: copies. lora: low-rank changes of one frozen copy.")
    ] = "mlp",
    routing: Annotated[ModalityRouting, typer.Option(help="Modality mode of the routers.")] = "shared",
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="How an encoder is read, e.g. image.feature_layer=-2 or image.keep_prefix=true."),
    ] = None,
    connector: Annotated[
        list[str] | None,
        typer.Option(help="A field of a connector, e.g. speech.stack=5 or image.type=qformer; repeat for several."),
    ] = None,
    media: Annotated[
        list[str] | None,
        typer.Option(
            help="How media become tokens, e.g. image_max_tiles=4 or video_frame_rate=1; repeat for several."
        ),
    ] = None,
    dtype: Annotated[Precision, typer.Option(help="Of the weights. auto: as the language model was saved.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the connectors and the routers.")] = 0,
) -> None:
    """Compose a model from pretrained parts, with new connectors: where the first stage of training starts.

    With experts, the model answers text exactly as the language model did; certificate.json says so.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers.utils import logging

    from ..build.model import PartError, build_model
    from ..checkpoint.loading import reason
    from ..surgery import upcycle

    logging.disable_progress_bar()
    started = time.perf_counter()
    options: Any = {"vision": vision, "speech": speech, "audio": audio, "dtype": dtype, "seed": seed}
    try:
        for name, given in (("encoders", encoder), ("connectors", connector), ("media", media)):
            options[name] = read_fields(given)
        (model, processor), certificate = build_model(language, **options), None
        if experts:
            chosen: Any = {"num_experts_per_tok": top_k, "expert_type": expert_type, "modality_routing": routing}
            model, certificate = upcycle(model, num_experts=experts, **chosen, seed=seed)
    except PartError as error:
        fail(f"--{error}")
    except (OSError, ValueError, StrictDataclassError) as error:
        fail(reason(error))
    model.save_pretrained(out)
    processor.save_pretrained(out)
    if certificate:
        certificate.save(out)
        say(summary(certificate, model.dtype))
    say(f"written to {out} in {cost(started)}")


@app.command()
def convert(
    folder: Annotated[
        Path, typer.Argument(help="Tuned part of a release: adapter, projector, aligner, routers; or all of 2.0.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the model and its processor.")],
    vision: Annotated[str | None, typer.Option(help="CLIP ViT-L/14 at 336 pixels, for all but 2.0.")] = None,
    speech: Annotated[str | None, typer.Option(help="Whisper small, for all but v1 audio and 2.0.")] = None,
    audio: Annotated[str | None, typer.Option(help="BEATs' .pt file, for v1 audio.")] = None,
    base: Annotated[Path | None, typer.Option(help="Base of the release. Default: FOLDER.")] = None,
    experts: Annotated[Path | None, typer.Option(help="Experts of 8e. Default: the base.")] = None,
    dtype: Annotated[Precision, typer.Option(help="Of the weights. auto: as those of the base.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would become of each file only.")] = False,
) -> None:
    """Turn released weights of Uni-MoE (v1 speech, v1 audio, v1.5, 8e, 2.0) into a model folder; docs/uni_moe.md.

    certificate.json says what became of each tensor.
    """
    import torch
    from transformers.utils import logging

    from ..checkpoint.loading import reason
    from ..convert import read_release

    logging.disable_progress_bar()
    started = time.perf_counter()
    try:
        found = read_release(folder, vision=vision, speech=speech, audio=audio, base=base, experts=experts)
        table = Table("file", "what became of its tensors", "how many", title=escape(found.release.title))
        for file, fate, count in found.table():
            table.add_row(escape(file), fate, str(count))
        console.print(table)
        for line in (*found.release.otherwise, f"not read: {', '.join(found.unread) or 'nothing'}"):
            console.print(escape(line), soft_wrap=True, highlight=False)
        if dry_run:
            return
        say(summary(found.write(out, dtype=None if dtype == "auto" else getattr(torch, dtype)), dtype))
    except (OSError, ValueError) as error:
        fail(reason(error))
    say(f"written to {out} in {cost(started)}")


def read_fields(overrides: list[str] | None) -> dict[str, Any]:
    """Read `key.field=value` as {key: {field: value}}, and `field=value` as {field: value}."""
    from ..files.settings import apply_override

    fields: dict[str, Any] = {}
    for override in overrides or []:
        apply_override(fields, override)
    return fields


@app.command("verify")
def verify_folder(
    folder: Folder,
    dtype: Annotated[Literal["float32", "float64"], typer.Option(help="To compute in.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of the pictures, sounds and the order of the experts.")] = 0,
) -> None:
    """Check that answers depend on the inputs alone, not on kernels, batches, padding, caches or expert order."""
    from ..analysis import verify

    started = time.perf_counter()
    model, processor = load(folder, dtype=dtype)
    table = Table("what was changed", "largest difference", "limit", "", title=escape(folder))
    try:
        checks = verify(model, processor, seed=seed)
    except UniMoEError as error:
        fail(error)
    for check in checks:
        outcome = "[green]equal[/green]" if check.passed else "[red]DIFFERENT[/red]"
        table.add_row(check.name, f"{check.difference:.1e}", f"{check.tolerance:.0e}", outcome)
    console.print(table)
    if reason := model.config.text_config.generation_obstacle:
        console.print(f"The routing of this model depends on the batch: {reason}.", highlight=False)
    console.print(f"verified in {cost(started)}", highlight=False)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


@app.command()
def audit(
    before: Annotated[Path, typer.Argument(help="Folder of a model, of this package or of transformers.")],
    after: Annotated[Path, typer.Argument(help="Folder of what became of it.")],
    min_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit with 1 if a smaller share of the parameters was touched.")
    ] = None,
    part: Annotated[str | None, typer.Option(help="Of which part --min-share is. Default: of all.")] = None,
) -> None:
    """Print which share of a model's weights an operation touched, by part and by expert; the rest it passed by."""
    from ..surgery import audit_change

    try:
        found = audit_change(before, after)
        found.share(part)  # refuses a part that the model has not, before anything is printed
    except UniMoEError as error:
        fail(error)
    table = Table("part", "parameters", "touched", "changed values", title=escape(f"{before} -> {after}"))
    for name, (count, touched, changed) in found.by_part().items():
        table.add_row(name, f"{count:,}", f"{touched / count:.1%}", f"{changed / count:.1%}")
    console.print(table)
    for layer, expert in found.untouched_experts():
        console.print(f"untouched: expert {expert} of layer {layer}", highlight=False)
    for what, names in {"not there before": found.new, "not there any more": found.gone}.items():
        if names:
            console.print(escape(f"{what}: {', '.join(names)}"), soft_wrap=True, highlight=False)
    try:
        found.require(min_share or 0.0, part)
    except UniMoEError as error:
        console.print(escape(str(error)), soft_wrap=True, highlight=False)
        raise typer.Exit(1) from None


@app.command()
def chat(
    folder: Folder,
    question: Annotated[str | None, typer.Argument(help="The question. Without it: a conversation.")] = None,
    image: Files = None,
    video: Files = None,
    audio: Files = None,
    speech: Files = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
) -> None:
    """Ask a model about images, video, sounds or speech. Media stand before the first question."""
    from transformers import TextStreamer

    from ..checkpoint.loading import reason

    content = media_items(image=image, video=video, audio=audio, speech=speech)
    model, processor = load(folder)
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    messages: list[dict[str, Any]] = []
    output: Any = None
    for text in [question] if question else ask():
        content.append({"type": "text", "text": text})
        messages.append({"role": "user", "content": content})
        content = []
        try:
            inputs = processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            ).to(model.device)
        except (OSError, ValueError, ImportError) as error:
            fail(reason(error))
        output = model.generate(
            **inputs,
            cache=cache_of(output, inputs["input_ids"]),
            max_new_tokens=max_new_tokens,
            streamer=streamer,
            return_dict_in_generate=True,
        )
        answer = processor.decode(output.sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        messages.append({"role": "assistant", "content": answer})


def cache_of(output: Any, input_ids: Any) -> Any:
    """Cache of the turns so far, if the conversation goes on from what it holds: then only what is new is computed."""
    if output is None:
        return None
    length = output.cache.get_seq_length()
    known = output.sequences[:, :length]
    return output.cache if known.equal(input_ids[:, :length]) else None


def media_items(**media: list[Path] | None) -> list[dict[str, Any]]:
    """Return the content items of the files given for each kind of medium, or exit with code 2 if one is missing."""
    items = [(key, path) for key, paths in media.items() for path in paths or []]
    for key, path in items:
        if not path.is_file():
            fail(f"--{key} {path}: there is no such file.")
    return [{"type": key, "path": str(path)} for key, path in items]


def ask() -> Iterator[str]:
    """Yield questions typed at a prompt until an empty one or the end of input."""
    while True:
        try:
            text = console.input("[bold]you:[/bold] ").strip()
        except EOFError:
            return
        if not text:
            return
        yield text
