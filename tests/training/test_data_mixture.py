"""Order, augmentation and batches of a mixture follow from the seed; labels are the assistant's words alone."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from training.config.data import AugmentConfig, DataConfig, ImageAugment, SoundAugment
from training.data import Collator, DataError, MixtureDataset, MixtureSampler
from training.data.mixture.augment import augment_image, augment_sound, sample_generator
from training.data.mixture.dataset import SampleIndex, read_mixture
from unimoe import UniMoEProcessor

AUGMENT = {
    "image": {"flip": 0.5, "shift": 0.2, "zoom": 0.2, "rotate": 20, "jitter": 0.3},
    "speech": {"shift": 0.1, "speed": 0.2, "gain": 6, "noise": 0.1, "mask_time": 0.3, "mask_frequency": 0.3},
    "audio": {"speed": 0.2, "mask_time": 0.3, "mask_frequency": 0.3},
}


@pytest.fixture(scope="module")
def processor(workspace):
    return UniMoEProcessor.from_pretrained(workspace / "start")


@pytest.fixture
def dataset(workspace):
    def make(*, weights=(1, 1, 1, 1), seed=0, augment=None, cache_media=False):
        names = ("image_kind", "spoken_word", "sound_kind", "text")
        mixture = [
            {"path": str(workspace / "data" / f"{name}_train.jsonl"), "weight": weight}
            for name, weight in zip(names, weights, strict=True)
            if weight
        ]
        config = DataConfig.model_validate({"mixture": mixture, "augment": augment or {}})
        return MixtureDataset(read_mixture(config), seed=seed, cache_media=cache_media)

    return make


def batch_tensors(batch):
    return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}


def test_order_follows_from_seed_and_epoch(dataset):
    assert dataset().order(0) == dataset().order(0)
    assert dataset().order(0) != dataset().order(1)
    assert dataset().order(0) != dataset(seed=1).order(0)


def test_weights_are_passes_over_a_file(dataset):
    mixed = dataset(weights=(2, 1, 0.5, 1.5))
    sizes = [len(source.rows) for source in mixed.sources]
    ends = np.cumsum(sizes)
    for epoch in range(2):
        order = mixed.order(epoch)
        assert len(order) == len(mixed)
        shown = Counter(order)
        per_file = [sum(shown[row] for row in range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
        assert per_file == [2 * sizes[0], sizes[1], round(sizes[2] / 2), sizes[3] + round(sizes[3] / 2)]
        assert all(shown[row] == 2 for row in range(ends[0])) and max(shown.values()) == 2
    assert set(mixed.order(0)) != set(mixed.order(1))


def test_the_sampler_shows_another_order_in_another_epoch(dataset):
    sampler = MixtureSampler(dataset())
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert len(first) == len(sampler) and first != second
    assert first[3] == SampleIndex(0, 3, dataset().order(0)[3]) and second[3].epoch == 1


def test_batches_are_the_same_with_and_without_worker_processes_and_cache(dataset, processor):
    def batches(workers, cache):
        data = dataset(augment=AUGMENT, cache_media=cache)
        loader = DataLoader(
            data, sampler=MixtureSampler(data), batch_size=8, collate_fn=Collator(processor), num_workers=workers
        )
        return list(loader)

    expected = batches(0, False)
    for other in (batches(0, True), batches(2, False)):
        for one, two in zip(expected, other, strict=True):
            assert one["row_ids"] == two["row_ids"]
            torch.testing.assert_close(batch_tensors(one), batch_tensors(two), rtol=0, atol=0)


def test_augmentation_changes_media_with_the_epoch_and_is_off_by_default(dataset):
    def first(augment, epoch):
        sample = dataset(weights=(1, 0, 0, 0), augment=augment)[SampleIndex(epoch, 0, 0)]
        return np.asarray(sample.messages[0]["content"][0]["image"])

    assert (first(None, 0) == first(None, 1)).all()
    assert (first(AUGMENT, 0) == first(AUGMENT, 0)).all()
    assert (first(AUGMENT, 0) != first(AUGMENT, 1)).any()


def test_image_augmentation_with_nothing_allowed_or_only_a_flip():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8))
    generator = sample_generator(0)
    assert augment_image(image, ImageAugment(), generator).tobytes() == image.tobytes()
    flipped = augment_image(image, ImageAugment(flip=1.0), generator)
    assert (np.asarray(flipped) == np.asarray(image)[:, ::-1]).all()
    moved = augment_image(image, ImageAugment(shift=0.3, rotate=30, zoom=0.3), generator)
    assert moved.size == image.size and moved.tobytes() != image.tobytes()


def test_sound_augmentation_keeps_within_its_limits():
    samples = np.sin(np.linspace(0, 200, 8000)).astype(np.float32) / 2
    for seed in range(5):
        changed = augment_sound(
            samples, SoundAugment(speed=0.2, shift=0.1, gain=3, noise=0.1), sample_generator(seed), rate=16000
        )
        assert 8000 / 1.2 - 1 <= len(changed) <= 8000 / 0.8 + 1600 + 1
        assert changed.dtype == np.float32 and np.abs(changed).max() <= 1
    assert (augment_sound(samples, SoundAugment(), sample_generator(0), rate=16000) == samples).all()


def test_masks_cover_stretches_of_time_and_frequency_alone(dataset, processor):
    for index, key in ((1, "speech_features"), (2, "audio_features")):
        weights = [0, 0, 0, 0]
        weights[index] = 1
        kind = key.partition("_")[0]
        collate = Collator(processor)
        masks = {kind: {"mask_time": 0.3, "mask_frequency": 0.3}}
        plain, masked = (
            collate([dataset(weights=weights, augment=augment)[place] for place in range(4)])[key]
            for augment in ({}, masks)
        )
        changed = plain != masked
        assert changed.any() and changed.float().mean() < 0.6


def test_labels_are_the_answers_with_their_end_token(dataset, processor):
    batch = Collator(processor)([dataset()[row] for row in range(0, 40, 5)])
    tokenizer = processor.tokenizer
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        learned = labels != -100
        assert (labels[learned] == ids[learned]).all() and mask[learned].all()
        text = tokenizer.decode(ids[mask.bool()])
        assert tokenizer.decode(labels[learned]) == text.partition("<|im_end|>")[2]
    assert len(batch["row_ids"]) == len(batch["labels"]) == 8


def test_rows_that_are_too_long_or_teach_nothing_are_refused_by_name(dataset, processor, write_jsonl):
    samples = [dataset()[row] for row in (0, 40)]
    with pytest.raises(DataError, match=rf"{samples[0].id}.*data.max_length is 12. Raise max_length"):
        Collator(processor, max_length=12)(samples)
    silent = Collator(processor)
    silent.processor = UniMoEProcessor.from_pretrained(
        processor.tokenizer.name_or_path,
        chat_template="{{- messages[0]['role'] -}}{%- generation -%}{%- endgeneration -%}",
    )
    text_only = [sample for sample in samples if len(sample.messages[0]["content"]) == 1]
    with pytest.raises(DataError, match=f"{text_only[0].id}.*no token of the assistant to learn"):
        silent(text_only)


def test_an_augmentation_may_belong_to_one_file(workspace):
    path = str(workspace / "data" / "image_kind_train.jsonl")
    config = DataConfig.model_validate(
        {"mixture": [{"path": path, "augment": {}}, path], "augment": {"image": {"flip": 1.0}}}
    )
    own, general = read_mixture(config)
    assert own.augment == AugmentConfig() and general.augment.image.flip == 1.0
