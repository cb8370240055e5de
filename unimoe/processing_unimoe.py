"""Chat messages and media become what the model takes: first stop of a sample.

    messages -> text with one placeholder per medium -> media loaded, features extracted, sounds cut into windows
             -> every placeholder repeated to its exact number of tokens -> token ids, modality ids, assistant mask

Everything uncertain about lengths is settled here, so that the model only scatters: a medium fills
`num_tokens[modality]` placeholders for each of its units (picture, clip, or window of a sound). transformers'
processors know image, video and audio; speech, with its own extractor, is added here to each of their steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import ImagesKwargs, ProcessorMixin, TextKwargs

from .media import FrameSampling, cut_windows, load_clip, load_picture, load_sound, window_samples
from .modality import MEDIA, Modality
from .placeholders import (
    CHAT_TEMPLATE,
    add_placeholder_tokens,
    arrange_media,
    check_text,
    collect_media,
    count_placeholders,
    expand_placeholders,
    placeholder_id,
    require_placeholder_id,
)
from .remote_code import AUTO_MAP, write_remote_code
from .suggest import did_you_mean

SAMPLING_RATE = 16_000
"""Hz; the rate of sounds that are passed as bare samples, unless `sampling_rate=` says otherwise."""

_EXTRACTORS = {
    Modality.IMAGE: "image_processor",
    Modality.VIDEO: "image_processor",
    Modality.AUDIO: "audio_feature_extractor",
    Modality.SPEECH: "speech_feature_extractor",
}
_EXTRACTIONS = {
    Modality.IMAGE: "_picture_features",
    Modality.VIDEO: "_clip_features",
    Modality.AUDIO: "_sound_features",
    Modality.SPEECH: "_sound_features",
}
_UNSUPPORTED = "text_pair text_target text_pair_target is_split_into_words return_overflowing_tokens stride"
_TEXT_OPTIONS = frozenset(TextKwargs.__annotations__).difference(_UNSUPPORTED.split(), ["return_tensors"])
_FLAGS = ("return_mm_token_type_ids", "return_text_replacement_offsets")
_OWN_OPTIONS = (*_FLAGS, "sampling_rate", "text_kwargs", "images_kwargs")


@dataclass
class _Options:
    """Keyword arguments of one call, sorted by the part that takes them."""

    text: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    return_tensors: str | None = None
    sampling_rate: int = SAMPLING_RATE
    return_mm_token_type_ids: bool = True
    return_text_replacement_offsets: bool = False


class UniMoEProcessor(ProcessorMixin):
    """Tokenizer, image processor and two feature extractors behind one call.

    Args:
        tokenizer: With the placeholder tokens of the modalities in use (see `add_placeholder_tokens`).
        image_processor: For pictures and video frames. None: the processor takes neither.
        audio_feature_extractor: For sounds, such as ASTFeatureExtractor. None: the processor takes none.
        speech_feature_extractor: For speech, such as WhisperFeatureExtractor. None: the processor takes none.
        num_tokens: Modality key -> tokens per unit (picture, clip, window of a sound); `UniMoEConfig.num_tokens`.
        video_num_frames: Frames sampled from every clip.
        chat_template: Jinja template. None: `CHAT_TEMPLATE`; the tokenizer's own is not used, it knows no media.

    Raises:
        ValueError: If a part and `num_tokens` do not fit, or the tokenizer lacks a placeholder.
    """

    return_mm_token_type_ids = True

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Any = None,
        audio_feature_extractor: Any = None,
        speech_feature_extractor: Any = None,
        num_tokens: dict[str, int] | None = None,
        video_num_frames: int = 8,
        chat_template: str | dict[str, str] | None = None,
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        self.image_processor = image_processor
        self.audio_feature_extractor = audio_feature_extractor
        self.speech_feature_extractor = speech_feature_extractor
        self.num_tokens = dict(num_tokens or {})
        self.video_num_frames = video_num_frames
        self.skip_tensor_conversion = [*ProcessorMixin.skip_tensor_conversion, "offset_mapping"]
        self._check_parts()
        self.modalities = tuple(
            m for m in MEDIA if m.key in self.num_tokens and getattr(self, _EXTRACTORS[m]) is not None
        )
        self._ids = {modality: require_placeholder_id(tokenizer, modality) for modality in self.modalities}

    @classmethod
    def from_config(
        cls,
        config: Any,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Any = None,
        audio_feature_extractor: Any = None,
        speech_feature_extractor: Any = None,
        chat_template: str | None = None,
    ) -> "UniMoEProcessor":
        """Build the processor of a model: lengths and frame count come from its configuration.

        Args:
            config: A `UniMoEConfig`; `num_tokens`, `video_num_frames` and `*_token_id` are read.
            tokenizer: With the configuration's placeholder ids.
            image_processor, audio_feature_extractor, speech_feature_extractor, chat_template: See the class.

        Raises:
            ValueError: If the tokenizer's placeholder ids are not the configuration's, and as the class does.
        """
        num_tokens = dict(config.num_tokens)
        for modality in (m for m in MEDIA if m.key in num_tokens):
            wanted, found = getattr(config, f"{modality.key}_token_id"), placeholder_id(tokenizer, modality)
            if found != wanted:
                raise ValueError(
                    f"The tokenizer's id of {modality.token} is {found}, the configuration's {modality.key}_token_id "
                    f"is {wanted}. Call add_placeholder_tokens(tokenizer) if it is None, then set "
                    f"config.{modality.key}_token_id to the tokenizer's."
                )
        return cls(
            tokenizer,
            image_processor,
            audio_feature_extractor,
            speech_feature_extractor,
            num_tokens=num_tokens,
            video_num_frames=config.video_num_frames,
            chat_template=chat_template,
        )

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        speech: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Turn texts with one placeholder per medium, and the media, into the model's inputs.

        Args:
            images, videos, audio, speech: One medium, a flat list for the whole batch in order of appearance, or one
                list for each row. What a medium can be: `unimoe.media`. Bare samples are at `sampling_rate`.
            text: One text, or one for each row. None: only features are returned.
            **kwargs: The tokenizer's (`padding`, `max_length`, `padding_side`, ...), the image processor's, also
                nested as `text_kwargs` and `images_kwargs`; `return_tensors`; `sampling_rate` (Hz, default 16000);
                `return_mm_token_type_ids` (default True); `return_text_replacement_offsets`. Without `padding_side`,
                the tokenizer's own is used.

        Returns:
            `input_ids`, `attention_mask`, `mm_token_type_ids` (B, S); for media present, N units in order of
            appearance: `pixel_values` (N, C, H, W), `pixel_values_videos` (N, F, C, H, W), `audio_features`
            (N, frames, mel bins), `speech_features` (N, mel bins, frames).

        Raises:
            ValueError: If placeholders and media do not match in a row, a medium cannot be loaded or the processor
                has no part for it, truncation would cut a block of placeholders, or an argument is unknown.
        """
        options = self._sort_options(kwargs)
        media = {Modality.IMAGE: images, Modality.VIDEO: videos, Modality.AUDIO: audio, Modality.SPEECH: speech}
        texts = None if text is None else [text] if isinstance(text, str) else list(text)
        if not texts and all(medium is None for medium in media.values()):
            raise ValueError("There is nothing to process. Pass text, images, videos, audio or speech.")
        features, units = self._extract(self._media_by_row(media, texts), options)
        data = self._tokenize(texts, units, options) if texts is not None else {}
        if options.return_tensors == "np":
            features = {name: feature.numpy() for name, feature in features.items()}
        return BatchFeature(
            {**data, **features},
            tensor_type=options.return_tensors,
            skip_tensor_conversion=self.skip_tensor_conversion,
        )

    def apply_chat_template(  # type: ignore[override]
        self, conversation: Any, chat_template: str | None = None, **kwargs: Any
    ) -> Any:
        """Render one conversation or a batch of them; with `tokenize=True`, load their media and process all.

        A message is {"role", "content"}; its content a string or a list of items {"type": "text", "text": ...},
        {"type": "image"|"video"|"audio"|"speech", TYPE or "path" or "url" (of a local file): medium}.

        Args:
            conversation: Messages, or a list of lists of messages.
            chat_template: Template or its name; None: the processor's.
            **kwargs: As in `ProcessorMixin.apply_chat_template` (`tokenize`, `return_dict`, `return_tensors`,
                `add_generation_prompt`, `continue_final_message`, `return_assistant_tokens_mask`, ...). Arguments of
                `__call__`, such as `padding`, may be given here or in `processor_kwargs`. Where `padding_side` is not,
                prompts for generation are padded left and all others right, whatever the tokenizer's default.

        Returns:
            Text; or with `tokenize=True` token ids, or with `return_dict=True` what `__call__` returns and, if asked,
            `assistant_masks` (B, S): 1 for the assistant's text and end token.

        Raises:
            ValueError: If an item's type is unknown or not this processor's, or a text holds a placeholder token; and
                as `__call__` does.
        """
        self._check_conversations(conversation, sanitized=bool(kwargs.get("sanitize_control_tokens")))
        known = {*_TEXT_OPTIONS, *_OWN_OPTIONS, *self._image_options()} - {"sanitize_control_tokens"}
        options = {**(kwargs.pop("processor_kwargs", None) or {}), **{k: kwargs.pop(k) for k in known & kwargs.keys()}}
        if "padding_side" not in {**options, **options.get("text_kwargs", {})}:
            continues = kwargs.get("add_generation_prompt") or kwargs.get("continue_final_message")
            options["padding_side"] = "left" if continues else "right"
        return super().apply_chat_template(conversation, chat_template, processor_kwargs=options, **kwargs)

    def create_mm_token_type_ids(self, input_ids: Any) -> list[list[int]]:
        """Give the modality id of every token: 0 text, 1 image, 2 video, 3 audio, 4 speech."""
        kinds = {token_id: int(modality) for modality, token_id in self._ids.items()}
        rows = (row if isinstance(row, list) else row.tolist() for row in input_ids)
        return [[kinds.get(token, 0) for token in row] for row in rows]

    @property
    def model_input_names(self) -> list[str]:
        """What a call returns for the model's forward."""
        features = (str(modality.feature_name) for modality in self.modalities)
        return ["input_ids", "attention_mask", "mm_token_type_ids", *features]

    @property
    def unused_input_names(self) -> list[str]:
        """What the tokenizer may return and the model does not take."""
        return ["token_type_ids"]

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Parts that transformers must load itself; `from_args_and_dict` builds the others, which are optional."""
        return ["tokenizer"]

    def to_dict(self) -> dict[str, Any]:
        """As every processor's, with what finds this class where unimoe was not imported."""
        return {**super().to_dict(), "auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]}}

    def save_pretrained(self, save_directory: str | PathLike, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Save all parts, and the file that `trust_remote_code=True` loads this class from."""
        write_remote_code(save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build the processor from a loaded tokenizer and the contents of `processor_config.json`."""
        parts = {name: cls._build_part(name, processor_dict.get(name)) for name in set(_EXTRACTORS.values())}
        return super().from_args_and_dict(args, {**processor_dict, **parts}, **kwargs)

    @classmethod
    def _build_part(cls, name: str, config: dict[str, Any] | None) -> Any:
        if config is None:
            return None
        kind = "image_processor" if name == "image_processor" else "feature_extractor"
        return cls.get_possibly_dynamic_module(config[f"{kind}_type"])(**config)

    def _check_parts(self) -> None:
        keys = [modality.key for modality in MEDIA]
        for key, count in self.num_tokens.items():
            if key not in keys:
                raise ValueError(f"num_tokens has the unknown modality {key!r}.{did_you_mean(key, keys)}")
            if count < 1:
                raise ValueError(f"num_tokens[{key!r}] is {count}; a unit needs at least 1 token.")
        if self.video_num_frames < 1:
            raise ValueError(f"video_num_frames is {self.video_num_frames}; a clip needs at least 1 frame.")
        for name in sorted(set(_EXTRACTORS.values())):
            if (part := getattr(self, name)) is None:
                continue
            self.check_argument_for_proper_class(name, part)
            served = [modality.key for modality in MEDIA if _EXTRACTORS[modality] == name]
            if not any(key in self.num_tokens for key in served):
                raise ValueError(
                    f"There is an {name}, but num_tokens has no {' or '.join(map(repr, served))} (only "
                    f"{sorted(self.num_tokens)}). State the tokens per unit, as config.num_tokens does."
                )
            if name != "image_processor":
                window_samples(part)

    def _image_options(self) -> frozenset[str]:
        own = getattr(getattr(self.image_processor, "valid_kwargs", None), "__annotations__", {})
        return frozenset({*ImagesKwargs.__annotations__, *own} - {"return_tensors"})

    def _sort_options(self, kwargs: dict[str, Any]) -> _Options:
        kwargs, image_options = dict(kwargs), self._image_options()
        options = _Options(return_mm_token_type_ids=self.return_mm_token_type_ids)
        options.text.update(kwargs.pop("text_kwargs", {}))
        options.images.update(kwargs.pop("images_kwargs", {}))
        for nested in (options.text, options.images):
            if "return_tensors" in nested:
                kwargs.setdefault("return_tensors", nested.pop("return_tensors"))
        for key, value in kwargs.items():
            if key in _OWN_OPTIONS or key == "return_tensors":
                setattr(options, key, value)
            elif key in _TEXT_OPTIONS:
                options.text[key] = value
            elif key in image_options:
                options.images[key] = value
            else:
                known = {*_TEXT_OPTIONS, *_OWN_OPTIONS, *image_options, "images", "videos", "audio", "speech"}
                raise ValueError(f"{type(self).__name__} got the unknown argument {key!r}.{did_you_mean(key, known)}")
        for flag in _FLAGS:
            setattr(options, flag, options.text.pop(flag, getattr(options, flag)))
        return options

    def _media_by_row(self, media: dict[Modality, Any], texts: list[str] | None) -> dict[Modality, list[list[Any]]]:
        """Assign media to rows and check each row's count against its placeholders."""
        by_row: dict[Modality, list[list[Any]]] = {}
        for modality, given in media.items():
            counts = None if texts is None else [count_placeholders(text, modality) for text in texts]
            if given is None and not any(counts or []):
                continue
            if modality not in self.modalities:
                raise ValueError(self._cannot_take(modality, "The call"))
            by_row[modality] = arrange_media(given, modality, counts)
        return by_row

    def _cannot_take(self, modality: Modality, where: str) -> str:
        available = ", ".join(m.key for m in self.modalities) or "text alone"
        return (
            f"{where} has {modality.key}, but this processor takes only {available}: it has no "
            f"{_EXTRACTORS[modality]}, or num_tokens lacks {modality.key!r}. Leave the medium out, or build the "
            "processor with both."
        )

    def _extract(
        self, media: dict[Modality, list[list[Any]]], options: _Options
    ) -> tuple[dict[str, Any], dict[Modality, list[int]]]:
        """Features by the name of the model's argument, and the units (windows) of each medium by modality."""
        features, units = {}, {}
        for modality, rows in media.items():
            named = [
                (f"row {row}, {modality.key} {index}", medium)
                for row, in_row in enumerate(rows)
                for index, medium in enumerate(in_row)
            ]
            if named:
                extraction = getattr(self, _EXTRACTIONS[modality])
                features[str(modality.feature_name)], units[modality] = extraction(modality, named, options)
        return features, units

    def _pixels(self, pictures: list[Any], options: _Options) -> torch.Tensor:
        return self.image_processor(pictures, return_tensors="pt", **options.images)["pixel_values"]

    def _picture_features(
        self, _: Modality, named: list[tuple[str, Any]], options: _Options
    ) -> tuple[torch.Tensor, list[int]]:
        pictures = [load_picture(medium, where=where) for where, medium in named]
        return self._pixels(pictures, options), [1] * len(named)  # (N, C, H, W)

    def _clip_features(
        self, _: Modality, named: list[tuple[str, Any]], options: _Options
    ) -> tuple[torch.Tensor, list[int]]:
        sampling = FrameSampling(maximum=self.video_num_frames)
        clips = [load_clip(medium, sampling=sampling, where=where) for where, medium in named]
        frames = self._pixels([frame for clip in clips for frame in clip.frames], options)
        return frames.unflatten(0, (len(clips), self.video_num_frames)), [1] * len(named)  # (N, F, C, H, W)

    def _sound_features(
        self, modality: Modality, named: list[tuple[str, Any]], options: _Options
    ) -> tuple[torch.Tensor, list[int]]:
        extractor = getattr(self, _EXTRACTORS[modality])
        rate, window = extractor.sampling_rate, window_samples(extractor)
        windows: list[np.ndarray] = []
        units = []
        for where, medium in named:
            sound = load_sound(medium, sampling_rate=rate, array_sampling_rate=options.sampling_rate, where=where)
            cut = cut_windows(sound, window=window, sampling_rate=rate)
            windows.extend(cut)
            units.append(len(cut))
        extracted = extractor(windows, sampling_rate=rate, return_tensors="pt")
        return extracted[extractor.model_input_names[0]], units  # Whisper (N, mel, T), AST (N, T, mel)

    def _tokenize(self, texts: list[str], units: dict[Modality, list[int]], options: _Options) -> dict[str, Any]:
        lengths = {m: iter([self.num_tokens[m.key] * unit for unit in counts]) for m, counts in units.items()}
        expanded, offsets = zip(*(expand_placeholders(text, lengths) for text in texts), strict=True)
        data = dict(self.tokenizer(list(expanded), **options.text))
        self._check_blocks(expanded, data["input_ids"], options)
        if options.return_text_replacement_offsets:
            data["text_replacement_offsets"] = list(offsets)
        if options.return_mm_token_type_ids:
            data["mm_token_type_ids"] = self.create_mm_token_type_ids(data["input_ids"])
        return {name: value for name, value in data.items() if name not in self.unused_input_names}

    def _check_blocks(self, texts: Sequence[str], input_ids: list[list[int]], options: _Options) -> None:
        for row, (text, ids) in enumerate(zip(texts, input_ids, strict=True)):
            for modality, token_id in self._ids.items():
                expected, found = count_placeholders(text, modality), list(ids).count(token_id)
                if expected != found:
                    raise ValueError(
                        f"Row {row}: {found} of {expected} {modality.token} tokens remain after tokenization with "
                        f"truncation={options.text.get('truncation')}, max_length={options.text.get('max_length')}: "
                        "a block of media would be cut. Do not truncate, raise max_length, or leave out the medium."
                    )

    def _check_conversations(self, conversation: Any, *, sanitized: bool) -> None:
        if not len(conversation):
            raise ValueError("The conversation is empty. Pass at least one message.")
        conversations, _ = self._normalize_conversations(conversation)
        for row, messages in enumerate(conversations):
            for turn, message in enumerate(messages):
                self._check_content(message.get("content"), f"Row {row}, message {turn}", sanitized)

    def _check_content(self, content: Any, where: str, sanitized: bool) -> None:
        items = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        for item in items:
            kind = item.get("type") if isinstance(item, dict) else type(item).__name__
            if kind not in (keys := [modality.key for modality in Modality]):
                raise ValueError(f"{where}: unknown item type {kind!r}.{did_you_mean(str(kind), keys)}")
            modality = Modality.from_key(kind)
            if modality is Modality.TEXT:
                check_text(item.get("text"), where=where, sanitized=sanitized)
            elif modality not in self.modalities:
                raise ValueError(self._cannot_take(modality, where))

    def _multimodal_inputs_from_conversations(
        self, conversations: list[Any], audio_loading_params: dict[str, Any], load_audio_from_video: bool = False
    ) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Collect the media of each row; `__call__` loads them. Speech travels as an additional input."""
        if load_audio_from_video:
            raise ValueError("load_audio_from_video is not supported. Add the sound of the clip as an audio item.")
        found = collect_media(conversations)
        sounds = {m: found[m] if any(found[m]) else None for m in (Modality.AUDIO, Modality.SPEECH)}
        additional = {"speech": sounds[Modality.SPEECH]}
        return found[Modality.IMAGE], found[Modality.VIDEO], sounds[Modality.AUDIO], additional

    def _adjust_assistant_masks_indices(self, processed_dict: Any, generation_indices: Any) -> Any:
        """As in transformers, but media that an assistant's turn holds are not the assistant's words: 0."""
        processed = super()._adjust_assistant_masks_indices(processed_dict, generation_indices)
        kinds = self.create_mm_token_type_ids(processed["input_ids"])
        processed["assistant_masks"] = [
            [kept if kind == 0 else 0 for kept, kind in zip(mask, row, strict=True)]
            for mask, row in zip(processed["assistant_masks"], kinds, strict=True)
        ]
        return processed


__all__ = ["CHAT_TEMPLATE", "UniMoEProcessor", "add_placeholder_tokens"]
