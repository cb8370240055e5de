"""The same dialogue is the same row in every format and from every kind of file, read at random or as a stream."""

import base64
import json
import pickle
import tracemalloc

import pytest
from fault_kinds import good_rows, write_media
from hypothesis import given, settings
from hypothesis import strategies as st
from row_formats import FORMATS, HEARD, QUESTION, SEEN, SHOWN, Columns, Llava, Messages, Parquet, UniMoE

from training.config.data import SourceConfig
from training.data import DataError, read_rows
from training.data.mixture.dataset import medium_of
from training.data.readers.json_files import JsonFile
from training.data.readers.sources import open_source, open_stream
from training.data.rows import Faults
from training.stage.run import run_stage
from unimoe.errors import ConfigError
from unimoe.files.settings import validate


@pytest.fixture(autouse=True)
def no_cache_of_tables(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("formats")
    write_media(found)
    return found


def source(path, **keys):
    return SourceConfig(path=str(path), **keys)


def content(row):
    """Messages of a row with the bytes of their media in the place of paths."""

    def load(medium):
        if isinstance(medium, list):
            return [load(frame) for frame in medium]
        if isinstance(medium, dict):
            return medium["bytes"]
        with open(medium, "rb") as file:
            return file.read()

    return [
        (message["role"], [(i["type"], i["text"] if i["type"] == "text" else load(medium_of(i))) for i in items])
        for message in row.messages
        for items in [message["content"]]
    ]


def one(tmp_path, values, **keys):
    """The content of a row that is alone in its file."""
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(values))
    (row,) = open_source(source(path, **keys))
    return content(row)


def test_good_rows_are_the_same_in_every_format(folder):
    read = {form.name: read_rows(form.write(folder / form.name, good_rows(form))) for form in FORMATS}
    expected = [content(row) for row in read["messages"]]
    assert [content(row) for row in read["columns"]] == expected
    assert [content(row) for row in read["llava"]] == expected
    assert [content(row) for row in read["table"]] == expected[:-1]  # the table has no lists of frames


def test_the_keys_of_a_medium_are_its_kind_path_url_and_base64(folder):
    data = base64.b64encode((folder / "good.png").read_bytes()).decode()
    contents = [
        {"path": "good.png"},
        {"image": "good.png"},
        {"url": "good.png"},
        {"url": (folder / "good.png").as_uri()},
        {"url": f"data:image/png;base64,{data}"},
        {"base64": data},
        {"base64": f"data:image/png;base64,{data[:40]}\n{data[40:]}"},
        {"path": str(folder / "good.png"), "text": None, "image": None},
    ]
    rows = [Messages().row(str(number), QUESTION) for number in range(len(contents))]
    for row, keys in zip(rows, contents, strict=True):
        row["messages"][0]["content"] = [{"type": "image", **keys}, {"type": "text", "text": "what?"}]
    read = read_rows(Messages().write(folder / "keys", rows))
    assert len(read) == len(contents) and all(content(row) == content(read[0]) for row in read)


def test_items_without_media_take_those_of_the_columns_in_order(folder):
    row = Messages().row("a", QUESTION)
    row["messages"][0]["content"] = [{"type": "image"}, {"type": "audio"}, {"type": "image"}]
    values = {**row, "images": ["good.png", "good.jpg"], "audio": "good.wav"}
    ((_, items), _) = one(folder, values)
    files = [(folder / name).read_bytes() for name in ("good.png", "good.wav", "good.jpg")]
    assert items == list(zip(["image", "audio", "image"], files, strict=True))


@pytest.mark.parametrize(("items", "files"), [(2, 1), (1, 2)])
def test_items_and_files_of_columns_must_be_as_many(folder, items, files):
    row = Messages().row("a", QUESTION)
    row["messages"][0]["content"] = [{"type": "image"}] * items
    with pytest.raises(DataError, match=rf"images: {items} <image> tag\(s\) but {files} image file\(s\)"):
        one(folder, {**row, "images": ["good.png"] * files})


def test_a_tag_in_a_typed_text_or_of_another_kind_is_text(folder):
    row = Messages().row("a", QUESTION)
    row["messages"][0]["content"] = [{"type": "text", "text": "what does <image> do?"}]
    assert one(folder, row)[0][1] == [("text", "what does <image> do?")]
    row["messages"][0]["content"] = "<img>, <voice> and <div>"
    assert one(folder, row)[0][1] == [("text", "<img>, <voice> and <div>")]


def test_voice_stands_before_the_text_without_a_tag_and_in_the_place_of_audio_tags(folder):
    sound, picture = ((folder / name).read_bytes() for name in ("good.wav", "good.png"))
    values = Llava().row("a", [("system", "be brief"), *SEEN], image=["good.png"])
    for voice, times in (("good.wav", 1), (["good.wav"], 1), (["good.wav", "good.wav"], 2)):
        _, (_, items), _ = one(folder, {**values, "voice": voice})
        assert items == [("speech", sound)] * times + [("image", picture), ("text", "what is this?")]
    tagged = [("user", "<image>\n<audio> or <audio>?"), ("assistant", "yes")]
    values = Llava().row("a", tagged, image=["good.png"])
    (_, items), _ = one(folder, {**values, "voice": ["good.wav", "good.wav"]})
    assert items == [("image", picture), ("speech", sound), ("text", "or"), ("speech", sound), ("text", "?")]
    both = Llava().row("a", [("user", "<audio><voice> same?"), ("assistant", "no")], audio=["good.wav"])
    (_, items), _ = one(folder, {**both, "voice": ["good.wav"]})
    assert [kind for kind, _ in items] == ["audio", "speech", "text"]
    heard = Llava().row("a", HEARD, audio=["good.wav"])
    (_, items), _ = one(folder, {**heard, "voice": ["good.wav"]})
    assert [kind for kind, _ in items] == ["speech", "audio", "text"]
    with pytest.raises(DataError, match=r"voice: 1 <speech> tag\(s\) but 2 speech file\(s\)"):
        one(folder, {**Llava().row("a", [("user", "<voice>?"), ("assistant", "no")]), "voice": ["good.wav"] * 2})


@pytest.mark.parametrize("key", ["video", "videos"])
def test_a_list_of_pictures_is_one_clip_and_a_list_of_films_several(folder, key):
    frames = ["good.png", "good.jpg"]
    row = {**Llava().row("a", SHOWN), key: frames if key == "video" else [frames]}
    (_, items), _ = one(folder, row)
    assert items[0] == ("video", [(folder / name).read_bytes() for name in frames])
    two = [("user", "<video><video> same?"), ("assistant", "no")]
    (_, items), _ = one(folder, {**Llava().row("a", two), key: ["good.mp4", "good.gif"]})
    assert [kind for kind, _ in items] == ["video", "video", "text"]


def test_columns_may_be_given_a_meaning(folder):
    pair = {"name": 3, "question": "what?", "picture": "good.png", "reply": "a thing", "rule": None}
    columns = {"question": "user", "reply": "assistant", "picture": "image", "name": "id", "rule": "system"}
    path = folder / "pair.jsonl"
    path.write_text(json.dumps(pair) + "\n" + json.dumps({**pair, "name": 4, "question": "so <image>?", "rule": "be"}))
    first, second = open_source(source(path, columns=columns))
    assert (first.id, second.id) == ("3", "4")
    assert [kind for kind, _ in content(first)[0][1]] == ["image", "text"]
    assert [role for role, _ in content(second)] == ["system", "user", "assistant"]
    assert [kind for kind, _ in content(second)[1][1]] == ["text", "image", "text"]
    text = {"text": "once upon a time"}
    assert one(folder, text, columns={"text": "assistant"})[1] == ("assistant", [("text", "once upon a time")])
    spoken = Columns().row("a", HEARD, audio=["good.wav"])
    spoken["messages"][0]["content"] = "<speech> what?"
    assert one(folder, spoken, columns={"audios": "speech"})[0][1][0][0] == "speech"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": "usr"}, "columns: a: unknown meaning 'usr'. Did you mean 'user'"),
        ({"a": "user"}, "Say which column is the assistant"),
        ({"a": "assistant", "b": "assistant"}, "a: another column is the assistant too"),
    ],
)
def test_a_wrong_meaning_is_refused_when_the_configuration_is_read(columns, message):
    with pytest.raises(ConfigError, match=message):
        validate(SourceConfig, {"path": "a", "columns": columns}, source="stage.yaml")


def test_columns_and_formats_that_no_row_has_are_refused(folder):
    path = Columns().write(folder / "sure", [Columns().row("a", SEEN, image=["good.png"])])
    with pytest.raises(DataError, match=r"columns.imags: no row has the column 'imags'. Did you mean 'images'"):
        open_source(source(path, columns={"imags": "image"}))
    with pytest.raises(DataError, match="the row is in the format columns, the source says llava"):
        open_source(source(path, format="llava"))
    assert len(open_source(source(path, format="columns"))) == 1


# Kinds of files


@pytest.fixture
def table(folder):
    """A parquet file, and its rows as they were."""
    rows = good_rows(Parquet())
    return Parquet().write(folder / "table", rows), rows


def test_tables_are_parquet_files_folders_patterns_and_saved_data_sets(table, folder, tmp_path):
    from datasets import DatasetDict, load_dataset

    path, rows = table
    loaded = load_dataset("parquet", data_files=str(path), split="train")
    loaded.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": loaded, "test": loaded.select([0])}).save_to_disk(tmp_path / "splits")
    (tmp_path / "shards").mkdir()
    loaded.select(range(5)).to_parquet(tmp_path / "shards/0.parquet")
    loaded.select(range(5, len(rows))).to_parquet(tmp_path / "shards/1.parquet")
    expected = [content(row) for row in open_source(source(path))]
    for other, keys in [
        ("saved", {}),
        ("splits", {"split": "train"}),
        ("shards", {}),
        ("shards/*.parquet", {}),
    ]:
        assert [content(row) for row in open_source(source(tmp_path / other, **keys))] == expected, other
    assert len(open_source(source(tmp_path / "splits", split="test"))) == 1
    with pytest.raises(DataError, match=r"split: there are 2 splits. Choose one with `split`: train, test"):
        open_source(source(tmp_path / "splits"))
    with pytest.raises(DataError, match=r"there is no split 'tset'. Did you mean 'test'"):
        open_source(source(tmp_path / "splits", split="tset"))


def test_typed_items_in_a_table_have_the_keys_of_all_others_with_none(folder, tmp_path):
    from datasets import Dataset

    picture, sound = ((folder / name).read_bytes() for name in ("good.png", "good.wav"))
    items = [
        {"type": "image", "image": {"bytes": picture, "path": "a.png"}},
        {"type": "audio", "audio": {"bytes": sound, "path": None}},
        {"type": "text", "text": "what?"},
        {"type": "video", "video": [{"bytes": picture, "path": None}] * 2},
    ]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "a thing"}]}
    Dataset.from_list([{"messages": [{"role": "user", "content": items}, answer]}]).to_parquet(tmp_path / "a.parquet")
    (row,) = read_rows(tmp_path / "a.parquet")
    expected = [("image", picture), ("audio", sound), ("text", "what?"), ("video", [picture, picture])]
    assert content(row) == [("user", expected), ("assistant", [("text", "a thing")])]


def test_frames_in_a_column_of_a_table_are_one_clip(folder, tmp_path):
    from datasets import Dataset, Features, Image, Json, List

    frames = [str(folder / name) for name in ("good.png", "good.jpg")]
    features = Features({"conversations": Json(), "video": List(Image())})
    rows = [{**Llava().row("a", SHOWN), "video": frames}]
    Dataset.from_list([{k: v for k, v in row.items() if k != "id"} for row in rows], features=features).to_parquet(
        tmp_path / "a.parquet"
    )
    (row,) = read_rows(tmp_path / "a.parquet")
    assert content(row)[0][1][0] == ("video", [(folder / name).read_bytes() for name in ("good.png", "good.jpg")])


@pytest.mark.parametrize("stream", [False, True])
def test_a_data_set_of_the_hub_is_asked_for_by_id_subset_and_split(monkeypatch, stream):
    import datasets

    asked = []
    split = datasets.Dataset.from_list([Messages().row("a", QUESTION)] * 2)
    splits = {"train": split, "test": split.select([0])}

    def load_dataset(*arguments, **keys):
        asked.append((*arguments, keys))
        if keys["streaming"]:
            return datasets.IterableDatasetDict({name: part.to_iterable_dataset() for name, part in splits.items()})
        return datasets.DatasetDict(splits)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = source("owner/name", subset="small", split="test", stream=stream)
    (row,) = open_stream(config) if stream else open_source(config)
    assert asked == [("owner/name", "small", {"streaming": stream})] and row.where == "owner/name: row 0"


def test_sources_that_are_not_there_are_refused(tmp_path):
    for path, message in [
        ("nobody/nothing", "nobody/nothing: cannot be loaded .* load it once where the Hub can be reached"),
        (tmp_path, "neither parquet files nor what `save_to_disk` writes"),
        (tmp_path / "no.parquet", "There is no data file"),
        (tmp_path / "no.jsonl", "There is no data file"),
    ]:
        with pytest.raises(DataError, match=message):
            open_source(source(path))


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_stream_gives_the_rows_of_the_file_in_order_again_and_again(form, folder):
    path = form.write(folder / f"stream_{form.name}", good_rows(form))
    stream = open_stream(source(path, stream=True))
    expected = [(row.id, row.where, content(row)) for row in open_source(source(path))]
    for _ in range(2):
        assert [(row.id, row.where, content(row)) for row in stream] == expected


def test_a_stream_says_what_is_wrong_when_it_comes_to_it(folder):
    rows = [Messages().row("good", QUESTION), Messages().row("bad", QUESTION[:1])]
    stream = iter(open_stream(source(Messages().write(folder / "late", rows), stream=True)))
    assert next(stream).id == "good"
    with pytest.raises(DataError, match=r"late\.jsonl:2: messages: no message of the assistant"):
        next(stream)


def test_rows_travel_to_other_processes(table, folder):
    for path in (table[0], Messages().write(folder / "travel", good_rows(Messages()))):
        rows = open_source(source(path))
        again = pickle.loads(pickle.dumps(rows))
        assert [content(row) for row in again] == [content(row) for row in rows]


def test_what_is_kept_of_a_file_are_the_places_of_its_rows(tmp_path):
    rows = 20_000
    line = json.dumps(Messages().row("x", [("user", "what? " * 20), ("assistant", "that " * 20)]))
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join([line] * rows))
    JsonFile(str(path))
    tracemalloc.start()
    file = JsonFile(str(path))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(file) == rows and kept < 40 * rows  # bytes; a parsed row has thousands


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(values, max_size=6), st.sampled_from([None, 0, 2]), st.booleans(), st.booleans())
def test_any_json_list_is_cut_into_its_rows(tmp_path_factory, rows, indent, ascii_only, mark):
    path = tmp_path_factory.mktemp("list") / "rows.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode("utf-8", "surrogatepass"))
    file = JsonFile(str(path))
    assert file.broken is None
    assert [file.values(number, Faults("")) for number in range(len(file))] == rows


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=3), values, max_size=3), max_size=6), st.booleans())
def test_any_json_lines_are_cut_into_their_rows(tmp_path_factory, rows, mark):
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + "\r\n\n".join(lines).encode("utf-8", "surrogatepass"))
    file = JsonFile(str(path))
    assert [file.values(number, Faults("")) for number in range(len(file))] == rows


def test_a_stage_trains_on_a_table_a_stream_and_uni_moe_rows_alike(make_stage, folder, table):
    spoken = UniMoE().write(folder / "train_uni_moe", [UniMoE().row("a", HEARD, audio=["good.wav"])] * 4)
    mixture = [{"path": str(table[0])}, {"path": str(spoken), "stream": True}]
    trainer = {"max_steps": 2, "per_device_train_batch_size": 4}
    stage = make_stage(data={"mixture": mixture, "num_workers": 1}, trainer=trainer)
    assert (run_stage(stage) / "model.safetensors").is_file()
