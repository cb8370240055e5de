"""The encoder cache: encoders that do not train run once over the media of a stage, and leave the model meanwhile.

media of all rows -> those not yet cached, shared out to the processes -> decoded in workers -> encoders, in batches
-> files (`training.encoder_cache.store`) -> found by the data set instead of the media
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from unimoe import Modality, UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.errors import ConfigError
from unimoe.errors.terminal import plain
from unimoe.processing.lengths import TokenCounter

from ..config.data import EncoderCache
from ..config.stage import StageConfig
from ..data import DataError, MixtureDataset
from ..data.mixture.dataset import SAMPLING_RATE
from ..distributed.processes import first_alone, together
from ..monitor.progress import track
from ..monitor.sizes import in_words
from .media import MediumIndex, ReadyMedium, UncachedMedia, list_media, look_up
from .settings import check_augmentation, choose_modalities, fingerprint, precision, replaced_encoders, settings_of
from .store import CachedMedia, CacheEntry, CacheStore

MEASURED = 1000
"""Media whose headers are read to estimate the size of all."""

_CURABLE = (DataError, ConfigError)
"""What one process may meet, and all stop for."""
_DTYPES = {"computed": None, "float32": torch.float32, "bfloat16": torch.bfloat16}


class CachedEncoders:
    """Encoders whose tokens are cached before the first step; none, if `data.cache_encoders` does not ask for it.

    Those that the cache replaces whole are out of the model, and of the accelerator's memory, until `put_back`.

    Args:
        config: The stage.
        model: What trains in it is chosen already.
        processor: Of the model.

    Raises:
        ConfigError: If an encoder trains whose tokens shall be cached, or there is none that does not.
    """

    def __init__(self, config: StageConfig, model: UniMoEForConditionalGeneration, processor: UniMoEProcessor) -> None:
        asked = config.data.cache_encoders
        self.settings, self.model, self.processor = asked or EncoderCache(), model, processor
        self.folder = Path(self.settings.folder or Path(config.output).parent / "encoder_cache")
        self.modalities = choose_modalities(self.settings.modalities, model) if asked else []
        keys = {modality.encoder_key for modality in self.modalities}
        self.encoders: dict[str, nn.Module] = {key: model.model.encoders[key] for key in keys}
        self.replaced = replaced_encoders(self.modalities, model)
        self._take_out()

    @property
    def outside(self) -> dict[str, nn.Module]:
        """What is out of the model and belongs to it, by its name there."""
        return {f"model.encoders.{key}": self.encoders[key] for key in self.replaced}

    def put_back(self) -> None:
        """Put the encoders back into the model."""
        for key in self.replaced:
            self.model.model.encoders[key] = self.encoders[key]

    def _take_out(self) -> None:
        for key in self.replaced:
            del self.model.model.encoders[key]

    def encode(self, datasets: Sequence[MixtureDataset], args: TrainingArguments, console: Console) -> None:
        """Encode what is not on disk yet; afterwards the data sets give cached media.

        Args:
            datasets: All that the stage reads.
            args: Device, precision and processes.
            console: Where progress goes.

        Raises:
            ConfigError: If the media of an encoder are augmented, the disk is too small, or processes do not share it.
            DataError: If a medium cannot be read.
        """
        if not self.modalities:
            return
        for dataset in datasets:
            check_augmentation(dataset, self.modalities)
        stores = self._open_stores(args)
        media = CachedMedia(stores, video_sound=self.processor.layout.video_sound)
        uncached = first_alone(lambda: self._list(datasets, media, console), errors=_CURABLE)
        together(lambda: self._encode_share(datasets, uncached, stores, args, console), errors=_CURABLE)
        for store in stores.values():
            store.refresh()
        if any(media.missing(at.kind, at.key) for at in uncached):
            raise ConfigError(
                f"data.cache_encoders: this process does not see what others wrote to {self.folder}. Choose a folder "
                "that all processes share."
            )
        for dataset in datasets:
            dataset.cached = media

    def _open_stores(self, args: TrainingArguments) -> dict[str, CacheStore]:
        """Return the files of each modality for these encoders and settings."""
        stores = {}
        encoders = {key: fingerprint(encoder) for key, encoder in self.encoders.items()}
        for modality in self.modalities:
            settings = {
                **settings_of(modality, self.model, self.processor),
                "weights": encoders[modality.encoder_key],
                "precision": str(precision(args)),
                "dtype": self.settings.dtype,
            }
            text = json.dumps(settings, indent=1, sort_keys=True, default=str)
            folder = self.folder / f"{modality.key}-{blake2b(text.encode(), digest_size=6).hexdigest()}"
            stores[modality.key] = CacheStore(folder)
            if args.process_index == 0:
                (folder / "settings.json").write_text(text, encoding="utf-8")
        return stores

    def _list(self, datasets: Sequence[MixtureDataset], media: CachedMedia, console: Console) -> list[MediumIndex]:
        """Find what is to be encoded, say how much it is, and see that the disk has the room."""
        uncached = list(
            list_media(datasets, media, lambda rows, total: track(rows, total, "looking for media", console))
        )
        if not uncached:
            console.print(plain(f"all media are encoded already, in {self.folder}"), highlight=False)
            return uncached
        needed = self._estimate(datasets, uncached, set(media.stores))
        free = shutil.disk_usage(self.folder).free
        kinds = [at.kind for at in uncached]
        counts = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in dict.fromkeys(kinds))
        size = f"about {in_words(needed)} in {self.folder}"
        if needed > free:
            raise ConfigError(
                f"data.cache_encoders: the tokens of {counts} take {size}, where {in_words(free)} are free. Choose "
                "another folder, dtype: bfloat16 or fewer modalities, or leave cache_encoders out."
            )
        console.print(f"encoding {counts} once: {size}", highlight=False)
        return uncached

    def _estimate(self, datasets: Sequence[MixtureDataset], uncached: Sequence[MediumIndex], wanted: set[str]) -> int:
        """Bytes that the tokens of media will take, from the headers of some of them spread over all."""
        counter = TokenCounter(self.processor, sampling_rate=SAMPLING_RATE)
        some = uncached[:: -(-len(uncached) // MEASURED)]
        total = 0
        for at in some:
            where, medium = look_up(datasets, at)
            try:
                text = counter.block(Modality.from_key(at.kind), medium, where).text
            except (ImportError, OSError, ValueError) as error:
                raise DataError(f"{where}: {error}") from error
            for modality in self.modalities:
                units = text.count(str(modality.token)) // self.processor.layout.num_tokens[modality.key]
                total += units * self._unit_bytes(modality) if modality.key in wanted else 0
        return total * len(uncached) // len(some)

    def _unit_bytes(self, modality: Modality) -> int:
        encoder = self.model.config.encoder_config(modality.encoder_key)
        return encoder.num_tokens * encoder.hidden_size * (2 if self.settings.dtype == "bfloat16" else 4)

    def _encode_share(
        self,
        datasets: Sequence[MixtureDataset],
        uncached: Sequence[MediumIndex],
        stores: dict[str, CacheStore],
        args: TrainingArguments,
        console: Console,
    ) -> None:
        """Encode this process's share.

        Raises:
            DataError: If a medium cannot be read.
        """
        share = uncached[args.process_index :: args.world_size]
        devices = {key: next(encoder.parameters()).device for key, encoder in self.encoders.items()}
        self.put_back()
        try:
            loader = self._loader(datasets, share, workers=args.dataloader_num_workers)
            queues = {key: self._queue(Modality.from_key(key), store, args) for key, store in stores.items()}
            for medium in track(loader, len(share), "encoding media", console):
                for part in medium.parts.keys() & queues.keys():
                    if medium.key not in stores[part]:
                        queues[part].add(medium, part)
            for queue in queues.values():
                queue.flush()
        finally:
            for key, encoder in self.encoders.items():
                encoder.to(devices[key])
            self._take_out()
            for store in stores.values():
                store.flush()  # what is done stays, also if a medium was unreadable

    def _loader(
        self, datasets: Sequence[MixtureDataset], uncached: Sequence[MediumIndex], *, workers: int
    ) -> DataLoader:
        media = UncachedMedia(datasets, uncached, self.processor)
        own = torch.Generator()  # its workers' seeds shall not be drawn from the training's
        return DataLoader(media, batch_size=None, num_workers=workers, collate_fn=unchanged, generator=own)

    def _queue(self, modality: Modality, store: CacheStore, args: TrainingArguments) -> "EncoderQueue":
        encoder = self.encoders[modality.encoder_key].to(args.device).eval()
        shape = self.model.config.encoder_config(modality.encoder_key)
        dtype, autocast = _DTYPES[self.settings.dtype], precision(args)

        @torch.inference_mode()
        def run(features: Tensor) -> Tensor:
            with torch.autocast(args.device.type, dtype=autocast, enabled=autocast is not None):
                states = self.model.model.run_encoder(modality, features.to(args.device)).last_hidden_state
            return states.to(dtype=dtype or states.dtype).cpu()

        nothing = torch.empty(0, shape.num_tokens, shape.hidden_size, dtype=dtype or next(encoder.parameters()).dtype)
        return EncoderQueue(run, store, nothing, batch_size=self.settings.batch_size)


@dataclass
class EncoderQueue:
    """Gathers the units of media until there are enough of them to run an encoder.

    Args:
        run: Units -> tokens (N, tokens, C).
        store: Takes the tokens of each medium.
        nothing: Tokens of a medium without a unit, (0, tokens, C).
        batch_size: Units of a run.
    """

    run: Callable[[Tensor], Tensor]
    store: CacheStore
    nothing: Tensor
    batch_size: int
    waiting: list[tuple[ReadyMedium, Sequence[float], Tensor]] = field(default_factory=list)

    def add(self, medium: ReadyMedium, part: str) -> None:
        """Take one medium, for one of its modalities.

        Raises:
            DataError: As `flush`.
        """
        measures, features = medium.parts[part]
        if features is None:
            self.store.add(medium.key, CacheEntry(measures, self.nothing))
            return
        self.waiting.append((medium, measures, features))
        if sum(len(units) for _, _, units in self.waiting) >= self.batch_size:
            self.flush()

    def flush(self) -> None:
        """Run the encoder on what waits.

        Raises:
            DataError: If tokens are not finite; the row is named.
        """
        if not self.waiting:
            return
        features = torch.cat([units for _, _, units in self.waiting])
        states = torch.cat([self.run(units) for units in features.split(self.batch_size)])
        parts = states.split([len(units) for _, _, units in self.waiting])
        for (medium, measures, _), part in zip(self.waiting, parts, strict=True):
            if not part.isfinite().all():
                raise DataError(
                    f"{medium.where}: the encoder makes NaN or infinite numbers of a medium of this row. Look at the "
                    "medium, or compute in another precision."
                )
            self.store.add(medium.key, CacheEntry(measures, part))
        self.waiting = []


def unchanged(value: Any) -> Any:
    """Collate nothing: the value as it is."""
    return value


__all__ = ["CachedEncoders"]
