"""Files of encoder states: what was put in comes out, whoever wrote it, and media are known by what they hold."""

import os
import pickle
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import DataError
from training.encoder_cache.store import CachedMedia, CacheEntry, CacheStore, medium_key
from unimoe.media import CachedMedium

MEDIA = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.floats(0, 1e9, allow_nan=False), max_size=3)), min_size=1, max_size=12
)


def make(media, dtype=torch.float32):
    return {
        index.to_bytes(16, "big"): CacheEntry(measures, torch.randn(units, 2, 3).to(dtype))
        for index, (units, measures) in enumerate(media)
    }


def fill(store, media):
    for key, medium in media.items():
        store.add(key, medium)
    store.flush()


@settings(max_examples=40, deadline=None)
@given(
    media=MEDIA, file_bytes=st.sampled_from([1, 60, 10_000]), dtype=st.sampled_from([torch.float32, torch.bfloat16])
)
def test_what_is_put_in_comes_out_of_files_of_any_size(media, file_bytes, dtype):
    with tempfile.TemporaryDirectory() as folder:
        media = make(media, dtype)
        writers = [CacheStore(Path(folder), file_bytes=file_bytes) for _ in range(2)]
        for number, writer in enumerate(writers):
            fill(writer, dict(list(media.items())[number::2]))
        reader = pickle.loads(pickle.dumps(CacheStore(Path(folder))))  # as a worker process gets it
        assert len(reader) == len(media) and bytes(16)[:15] + b"x" not in reader
        for key, medium in media.items():
            assert list(reader[key].measures) == medium.measures
            assert reader[key].states.dtype == dtype and torch.equal(reader[key].states, medium.states)


def test_a_file_appears_when_it_is_whole(tmp_path, monkeypatch):
    def killed(tensors, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    store = CacheStore(tmp_path)
    fill(store, make([(1, [])]))
    monkeypatch.setattr("training.encoder_cache.store.save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        fill(store, make([(1, []), (1, [])]))
    assert len(CacheStore(tmp_path)) == 1


def test_states_are_read_without_the_rest_of_their_file(tmp_path):
    fill(CacheStore(tmp_path), make([(4, [])] * 50))
    states = CacheStore(tmp_path)[(7).to_bytes(16, "big")].states
    file = next(tmp_path.glob("*.safetensors"))
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(file) in line]
    assert states.shape == (4, 2, 3) and mapped


def test_a_medium_is_known_by_its_file_or_its_bytes(tmp_path):
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    one.write_bytes(b"picture")
    other.write_bytes(b"picture")

    def key(medium, kind="image"):
        return medium_key(kind, medium, where="here")

    before = key(str(one))
    assert key(str(one)) == before == key({"path": str(one), "bytes": None})
    assert len({before, key(str(other)), key(str(one), "video"), key([str(one)] * 2, "video")}) == 4
    os.utime(one, (0, 0))
    changed = key(str(one))
    assert changed != before
    os.utime(one, (1, 1))
    assert key(str(one)) not in (changed, before)
    assert key(b"picture") == key({"bytes": b"picture", "path": "anywhere.png"}) != key(b"another")
    with pytest.raises(DataError, match=r"here: '.*gone.png' cannot be read"):
        key(str(tmp_path / "gone.png"))
    with pytest.raises(DataError, match="here: a Tensor cannot be found again"):
        key(torch.zeros(3))


def test_a_medium_that_changed_while_training_is_named(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"picture")
    store = CacheStore(tmp_path / "store")
    store.add(medium_key("image", str(file), where=""), CacheEntry([3, 2], torch.ones(1, 2, 3)))
    store.flush()
    store.refresh()
    media = CachedMedia({"image": store}, video_sound="speech")
    found = media.find("image", str(file), where="data.jsonl:1 (a)")
    assert isinstance(found, CachedMedium) and found.measures.size == (3, 2) and found.medium is None
    assert media.find("speech", str(file), where="") is None and media.find("video", str(file), where="") is None
    file.write_bytes(b"another picture")
    with pytest.raises(DataError, match=r"data.jsonl:1 \(a\): its image has changed since"):
        media.find("image", str(file), where="data.jsonl:1 (a)")


@pytest.mark.parametrize("raw", [b"", b"\xff" * 100, b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_file_is_named(tmp_path, raw):
    (tmp_path / "a.safetensors").write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.safetensors: is damaged .* Remove it: its media are encoded anew"):
        CacheStore(tmp_path)
