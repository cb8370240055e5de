"""Calibration rows on the disk, with a small picture and sounds, and batches of tokens."""

import json
import wave
from pathlib import Path
from typing import Any

import torch
from tiny_processor import picture

from unimoe import Modality
from unimoe.checkpoint.loading import load_mixture
from unimoe.surgery import Certificate
from unimoe.surgery.calibration import Batch, as_batch, read_calibration
from unimoe.surgery.damage import Answers, Difference

KINDS = ("text", "image", "audio", "speech")


def write_rows(folder: Path, kinds: tuple[str, ...] = KINDS, each: int = 2) -> Path:
    """Write `each` rows of each kind."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number in range(each):
        for kind in kinds:
            items: list[dict[str, Any]] = [{"type": "text", "text": f"what is {number}?"}]
            if kind == "image":
                picture(40 + 50 * number).save(folder / f"{number}.png")
                items.insert(0, {"type": "image", "path": f"{number}.png"})
            elif kind != "text":
                write_sound(folder / f"{number}.wav", number + 1)
                items.insert(0, {"type": kind, "path": f"{number}.wav"})
            answer = {"role": "assistant", "content": f"{kind} {number}"}
            rows.append({"messages": [{"role": "user", "content": items}, answer]})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def measure_again(before: Path, after: Path, rows: Path) -> Difference:
    """Compare the models of two folders as an operation did, and find what its certificate says."""
    (old, processor), (new, _) = load_mixture(before), load_mixture(after)
    found, certificate = Answers.of(old, read_calibration(rows, old, processor)).compare(new), Certificate.load(after)
    assert found.largest == certificate.difference
    assert {key: damage._asdict() for key, damage in found.by_modality.items()} == certificate.details["damage"]
    return found


def write_sound(path: Path, pitch: int) -> None:
    times = torch.arange(3200) / 16000
    samples = (torch.sin(times * 700 * pitch) * 2**13).short()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.numpy().tobytes())


def token_batches(vocabulary: int = 60, *, modalities: bool = False, seed: int = 0) -> list[Batch]:
    """Make two batches of random tokens, the second with padding; with `modalities`, each of another one."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for length in (7, 5):
        ids = torch.randint(3, vocabulary, (3, length), generator=generator)
        inputs: dict[str, Any] = {"input_ids": ids}
        if length == 5:
            inputs["attention_mask"] = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
        if modalities:
            inputs["mm_token_type_ids"] = torch.randint(0, len(Modality), ids.shape, generator=generator)
            inputs["labels"] = ids
        batches.append(as_batch(inputs))
    return batches
