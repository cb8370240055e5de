"""How many tokens a conversation has, without decoding its media where their headers say enough.

Each medium is measured (a picture's size, a sound's samples, the times of a clip's frames) and becomes the block that
`unimoe.processing.units` would put in its place; the text with these blocks is tokenized as the processor does.
"""

from collections.abc import Sequence
from typing import Any

from transformers import ProcessorMixin

from ..errors import DataError
from ..media import CachedMedium, clip_times, load_clip_sound, picture_size, sound_length
from ..modality import Modality
from .placeholders import collect_media, expand_placeholders, find_placeholders, hears
from .templates import check_media
from .units import Block, UnitCollector


class TokenCounter:
    """Counts the tokens that a processor makes of conversations.

    Args:
        processor: A `UniMoEProcessor`; its layout is used as it is.
        sampling_rate: Hz, of sounds that are passed as bare samples.
    """

    def __init__(self, processor: Any, *, sampling_rate: int = 16_000) -> None:
        self.processor = processor
        extractors = {modality: getattr(processor, str(modality.extractor_name)) for modality in processor.modalities}
        self.units = UnitCollector(extractors, processor.layout, {}, sampling_rate)

    def __call__(self, messages: Sequence[dict[str, Any]]) -> int:
        """Count the tokens of one conversation: the length of what `apply_chat_template(tokenize=True)` gives.

        Args:
            messages: As `UniMoEProcessor.apply_chat_template` takes them.

        Raises:
            ValueError: If the processor would refuse the conversation, as far as headers show it.
        """
        (read, *others), _ = self.processor.read_conversations(messages)
        if others:
            raise DataError("count_tokens", "there is more than one conversation.", "Count one at a time.")
        check_media([read], {})
        text = ProcessorMixin.apply_chat_template(self.processor, read, tokenize=False)  # ours would read it again
        media = collect_media([read])
        found = find_placeholders(text)
        for modality in media:
            placeholders = sum(kind is modality for kind, _ in found)
            if placeholders != (given := len(media[modality][0])):
                raise DataError(
                    "row 0",
                    f"found {placeholders} {modality.token} placeholder(s) but {given} {modality.key} item(s).",
                    "The chat template must write one for each.",
                )
        blocks = [
            self.block(modality, media[modality][0][index], f"{modality.key} {index}", beside_sound=hears(found))
            for modality, index in found
        ]
        expanded, _ = expand_placeholders(text, [block.text for block in blocks])
        tokenizer = self.processor.tokenizer
        begins = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        return len(tokenizer(expanded, add_special_tokens=not begins)["input_ids"])

    def block(self, modality: Modality, medium: Any, where: str, *, beside_sound: bool = False) -> Block:
        """Say what stands in the text for one medium.

        Args:
            modality: Of the medium.
            medium: What `unimoe.media` loads.
            where: Its place, for errors.
            beside_sound: Whether its row has a sound.

        Raises:
            ValueError: If it cannot be read.
        """
        units = self.units
        if isinstance(medium, CachedMedium) and medium.medium is None:
            return units.block(modality, medium.measures, where)
        if modality is Modality.IMAGE:  # without tiles every size gives the same block, but the file must be a picture
            return units.picture_block(picture_size(medium, where=where, limits=units.limits))
        if modality is not Modality.VIDEO:
            rate = units.extractors[modality].sampling_rate
            samples = sound_length(
                medium, sampling_rate=rate, array_sampling_rate=units.sampling_rate, where=where, limits=units.limits
            )
            return units.sound_block(modality, samples, where)
        sampling, samples = units.sampling(beside_sound=beside_sound), 0
        times = clip_times(medium, sampling=sampling, where=where, limits=units.limits)
        if units.layout.video_sound is not None:
            rate = units.extractors[Modality.from_key(units.layout.video_sound)].sampling_rate
            sound = load_clip_sound(medium, sampling_rate=rate, where=where, limits=units.limits)
            samples = 0 if sound is None else len(sound)
        return units.clip_block(times, samples, where=where)


__all__ = ["TokenCounter"]
