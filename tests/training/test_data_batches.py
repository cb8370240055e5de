"""Batches of every process follow from the seed: even, complete, and the same after a stop."""

import io
import json
import logging
from collections import Counter
from itertools import chain, islice

import pytest
import torch
from accelerate.data_loader import SkipBatchSampler
from rich.console import Console
from torch.utils.data import DataLoader

from training.config.data import DataConfig
from training.config.stage import StageConfig
from training.data import Collator, DataError, MixtureBatches, MixtureDataset, MixtureSampler, schedule_batches
from training.data.batching.measure import LENGTHS_FILE, longest_sound
from training.data.mixture.dataset import read_mixture
from training.data.readers.sources import RowStream
from training.stage.run import run_stage
from unimoe import UniMoEProcessor

FLOWS = {
    "plain": {},
    "packed": {"packing": True, "max_length": 90, "packing_buffer": 16},
    "grouped": {"group_by_length": True, "packing_buffer": 16},
    "dropped": {"too_long": "drop", "max_length": 40},
    "cut and packed": {"too_long": "cut", "max_length": 40, "packing": True, "packing_buffer": 16},
}


@pytest.fixture(scope="module")
def processor(workspace):
    return UniMoEProcessor.from_pretrained(workspace / "start")


def text_row(name, turns, words):
    messages = []
    for turn in range(turns):
        messages.append({"role": "user", "content": "q" * (1 + turn % 3)})
        messages.append({"role": "assistant", "content": " ".join(["yes"] * words)})
    return {"id": name, "messages": messages}


@pytest.fixture(scope="module")
def files(workspace, tmp_path_factory):
    """Two files of text with rows of many lengths, and one with media."""
    folder = tmp_path_factory.mktemp("rows")
    for name, number in (("a", 23), ("b", 14)):
        rows = [text_row(f"{name}{row}", 1 + row % 3, 1 + (7 * row) % 9) for row in range(number)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"a": folder / "a.jsonl", "b": folder / "b.jsonl", "media": workspace / "data" / "sound_kind_train.jsonl"}


@pytest.fixture
def make(files, processor):
    def make(flow="plain", *, mixture=({"path": "a", "weight": 1.5}, {"path": "b"}), sized=True, seed=0, **sampler):
        sources = [{**source, "path": str(files[source["path"]])} for source in mixture]
        config = DataConfig.model_validate({"mixture": sources, **(FLOWS[flow] if isinstance(flow, str) else flow)})
        dataset = MixtureDataset(read_mixture(config), seed=seed, shuffle_buffer=config.shuffle_buffer)
        plan = schedule_batches(config, dataset, processor, sized=sized)
        return MixtureBatches(dataset, plan, **{"batch_size": 3, **sampler})

    return make


def rows_of(batches, sampler):
    return [[sampler.dataset.row(place)[0].id for place in batch] for batch in batches]


@pytest.mark.parametrize("flow", ["plain", "packed", "grouped"])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_epoch_shows_each_row_as_often_as_its_weight_says(make, flow, processes):
    own = [make(flow, process=process, processes=processes) for process in range(processes)]
    shown = [list(sampler) for sampler in own]
    assert {len(batches) for batches in shown} == {len(own[0])}, "processes must agree on the number of steps"
    counted = Counter(chain.from_iterable(rows_of(chain.from_iterable(shown), own[0])))
    places = [place.position for batches in shown for batch in batches for place in batch]
    extra = len(places) - len(set(places))  # only where the last step has fewer rows than processes
    assert extra < processes and all(batch for batches in shown for batch in batches)
    assert sum(counted.values()) - extra == 23 + round(23 / 2) + 14
    assert {f"b{row}" for row in range(14)} | {f"a{row}" for row in range(23)} == set(counted)


@pytest.mark.parametrize("flow", FLOWS)
def test_processes_together_see_what_one_process_sees(make, flow):
    one = make(flow, batch_size=4)
    two = [make(flow, batch_size=2, process=process, processes=2) for process in range(2)]
    for together, *apart in zip(one, *two, strict=True):
        assert {place.position for place in together} == {place.position for batch in apart for place in batch}


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("sized", [True, False])
def test_what_comes_after_a_stop_is_what_would_have_come(make, flow, sized):
    sampler, again = make(flow, sized=sized), make(flow, sized=sized)
    if sampler.is_endless:
        expected = list(islice(sampler, 40))
        assert list(islice(SkipBatchSampler(again, 17), 23)) == expected[17:]
        return
    for epoch in (0, 3):
        sampler.set_epoch(epoch)
        expected = list(sampler)
        again.set_epoch(epoch)  # the first thing that it is asked for
        assert list(SkipBatchSampler(again, 2)) == expected[2:] and len(again) == len(expected)


@pytest.mark.parametrize("flow", ["packed", "cut and packed"])
def test_epochs_of_packs_follow_each_other_without_losing_a_row(make, flow):
    """Passes differ in their number of packs; epochs have as many as the first, and nothing is lost between them."""
    sampler = make(flow, batch_size=1)
    shown = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        shown += batches
    endless = make(flow, batch_size=1, sized=False)
    assert shown == list(islice(endless, len(shown)))
    assert len({sum(1 for _ in sampler.one_pass(number)) for number in range(6)}) > 1, "or the test shows nothing"


def test_packs_are_full_and_within_the_limit(make, processor):
    sampler = make("packed", batch_size=1)
    lengths = [sum(sampler.schedule.lengths(place) for place in batch) for batch in sampler]
    assert max(lengths) <= 90 and sum(lengths) / (90 * len(lengths)) > 0.8
    collate = Collator(processor, max_length=90, packing=True)
    for length, batch in zip(lengths, sampler, strict=True):
        assert collate([sampler.dataset[place] for place in batch])["input_ids"].shape == (1, length)


def test_rows_of_a_batch_are_alike_in_length_when_grouped(make):
    def padding(flow):
        sampler = make(flow, batch_size=4)
        measured = make("grouped").schedule.lengths
        batches = [[measured(place) for place in batch] for batch in sampler]
        return sum(len(batch) * max(batch) - sum(batch) for batch in batches)

    assert padding("grouped") < 0.5 * padding("plain")


def test_what_is_measured_is_what_is_made_also_of_media(make, processor):
    sampler = make({"packing": True, "max_length": 500}, mixture=({"path": "media"}, {"path": "a"}))
    for place in sampler.dataset.indices(0):
        batch = Collator(processor)([sampler.dataset[place]])
        assert sampler.schedule.lengths(place) == batch["input_ids"].shape[1]


def test_a_sound_that_augmentation_may_lengthen_is_measured_at_its_longest(make, processor):
    augment = {"audio": {"speed": 0.3, "shift": 0.5}}
    flow = {"packing": True, "max_length": 500, "augment": augment}
    sampler = make(flow, mixture=({"path": "media"},))
    for epoch in range(3):
        for place in sampler.dataset.indices(epoch):
            sample = sampler.dataset[place]
            plain = sampler.dataset.row(place)[0]
            assert Collator(processor)([sample])["input_ids"].shape[1] <= sampler.schedule.lengths(place), plain.id
    config = sampler.schedule.config.augment.audio
    assert longest_sound(16_000, config) >= 16_000 / 0.7 + 8_000
    assert longest_sound(16_000, None) == 16_000


def test_long_rows_are_cut_dropped_or_refused_and_reported(make, processor, caplog):
    whole = make({}, mixture=({"path": "a"},))
    long = {row.id for row in whole.dataset.sources[0].rows if processor.count_tokens(row.messages) > 40}
    assert 3 < len(long) < 23
    with caplog.at_level(logging.INFO, "training.data.batching.batches"):
        dropped = make("dropped", mixture=({"path": "a"},))
        kept = set(chain.from_iterable(rows_of(dropped, dropped)))
    assert kept == {f"a{row}" for row in range(23)} - long
    assert len(dropped.schedule.report.dropped) == len(long) and not dropped.schedule.report.cut
    assert all(f"({name})" in caplog.text for name in long)
    cut = make("cut and packed", mixture=({"path": "a"},), batch_size=1)
    places = list(chain.from_iterable(cut))
    assert {cut.dataset.row(place)[0].id for place in places if place.cut} == {
        name.partition("(")[2][:-1] for name in cut.schedule.report.cut
    }
    assert set(cut.schedule.report.cut) | set(cut.schedule.report.dropped) == set(dropped.schedule.report.dropped)
    for place in places:
        sample = cut.dataset[place]
        assert processor.count_tokens(sample.messages) <= 40 and sample.messages[-1]["role"] == "assistant"
    with pytest.raises(DataError, match=r"a\.jsonl:\d+ \(a\d+\): \d+ tokens at most, but data\.max_length is 40\."):
        list(make({"packing": True, "max_length": 40}))
    with pytest.raises(DataError, match=r"No row of the mixture fits into data\.max_length 3"):
        len(make({"too_long": "drop", "max_length": 3}))
    with pytest.raises(DataError, match=r"No row of the mixture fits into data\.max_length 3"):
        list(islice(make({"too_long": "drop", "max_length": 3}, sized=False), 1))


def test_behind_a_cut_within_an_answer_nothing_is_learned(workspace, processor, tmp_path):
    rows = map(json.loads, (workspace / "data" / "image_kind_train.jsonl").read_text().splitlines())
    picture = workspace / "data" / next(rows)["messages"][0]["content"][0]["path"]
    image = {"type": "image", "path": str(picture)}
    answer = [{"type": "text", "text": "first"}, image, {"type": "text", "text": " and so on" * 9}]
    messages = [{"role": "user", "content": "draw"}, {"role": "assistant", "content": answer}]
    (tmp_path / "long.jsonl").write_text(json.dumps({"id": "long", "messages": messages}))
    config = DataConfig(mixture=[str(tmp_path / "long.jsonl")], max_length=45, too_long="cut")
    dataset = MixtureDataset(read_mixture(config), seed=0)
    sampler = MixtureBatches(dataset, schedule_batches(config, dataset, processor, sized=True), batch_size=1)
    ((place,),) = list(sampler)
    assert place.cut == (1, 2)
    batch = Collator(processor, max_length=45)([dataset[place]])
    learned = batch["labels"][0] != -100
    assert processor.tokenizer.decode(batch["labels"][0][learned]) == "first"
    uncut = Collator(processor)([dataset[place._replace(cut=None)]])
    assert processor.tokenizer.decode(uncut["labels"][0][uncut["labels"][0] != -100]).endswith("<|im_end|>")


STREAM = ({"path": "a", "weight": 3, "stream": True}, {"path": "b", "weight": 1})


def test_shares_of_a_mixture_with_a_stream_are_its_weights_and_the_stream_begins_anew(make):
    sampler = make({"shuffle_buffer": 8}, mixture=STREAM, batch_size=10)
    with pytest.raises(TypeError):
        len(sampler)
    rows = list(chain.from_iterable(rows_of(islice(sampler, 100), sampler)))
    from_stream = [row for row in rows if row[0] == "a"]
    assert 0.7 < len(from_stream) / len(rows) < 0.8
    laps = [from_stream[start : start + 23] for start in range(0, 23 * 20, 23)]
    assert all(set(lap) == {f"a{row}" for row in range(23)} for lap in laps), "every row once in each lap"
    assert len({tuple(lap) for lap in laps}) == 20, "each lap in another order"
    other = [row for row in rows if row[0] == "b"]
    assert set(other[:14]) == set(other[14:28]) == {f"b{row}" for row in range(14)}


def test_a_stream_is_read_only_as_far_as_it_is_needed(make, monkeypatch):
    read, iterate = [], RowStream.__iter__

    def counted(self):
        for row in iterate(self):
            read.append(row.id)
            yield row

    monkeypatch.setattr(RowStream, "__iter__", counted)
    list(islice(make({"shuffle_buffer": 4}, mixture=STREAM), 2))
    assert 1 <= len(read) <= 2 * 3 + 4 + 1


def test_a_buffer_of_one_row_keeps_the_order_of_the_stream(make):
    sampler = make({"shuffle_buffer": 1}, mixture=(STREAM[0],))
    rows = list(chain.from_iterable(rows_of(islice(sampler, 10), sampler)))
    assert rows == [f"a{row % 23}" for row in range(30)]


def test_a_stream_is_packed_and_cut_as_a_file_is(make):
    sampler = make({**FLOWS["cut and packed"], "shuffle_buffer": 8}, mixture=STREAM, batch_size=1)
    for batch in islice(sampler, 30):
        assert sum(sampler.schedule.lengths(p) if p.cut is None else 0 for p in batch) <= 40
    assert sampler.schedule.report.cut


def test_workers_get_streamed_rows_with_their_places(make, processor):
    def load(workers):
        sampler = make({"shuffle_buffer": 4}, mixture=(STREAM[0], {"path": "media", "weight": 2}))
        loader = DataLoader(
            sampler.dataset, batch_sampler=sampler, collate_fn=Collator(processor), num_workers=workers
        )
        return list(islice(loader, 6))

    for one, two in zip(load(0), load(2), strict=True):
        assert one["row_ids"] == two["row_ids"]
        assert all(torch.equal(one[name], two[name]) for name in ("input_ids", "labels"))


def test_an_empty_stream_and_a_stream_without_steps_are_refused(make, files, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    config = DataConfig(mixture=[{"path": str(tmp_path / "empty.jsonl"), "stream": True}])
    with pytest.raises(DataError, match="has no rows"):
        next(iter(MixtureSampler(MixtureDataset(read_mixture(config), seed=0))))
    stage = {"start": "a", "train": {"parts": ["router"]}, "output": "b"}
    with pytest.raises(ValueError, match=r"a stream has no last row\. Set trainer\.max_steps"):
        StageConfig.model_validate({**stage, "data": {"mixture": [{"path": str(files["a"]), "stream": True}]}})


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"packing": True}, "packing: rows are fitted to max_length. Set it."),
        ({"too_long": "cut"}, "too_long: rows are fitted to max_length. Set it."),
        ({"packing": True, "group_by_length": True, "max_length": 9}, "packs need no grouping"),
        ({"packing_buffer": 0}, "greater than or equal to 1"),
        ({"too_long": "truncate", "max_length": 9}, "'refuse', 'drop' or 'cut'"),
    ],
)
def test_what_does_not_go_together_is_refused_when_it_is_read(values, problem):
    with pytest.raises(ValueError, match=problem):
        DataConfig(mixture=["a.jsonl"], **values)


def test_a_row_that_cannot_be_measured_is_named(make, tmp_path, processor):
    (tmp_path / "broken.png").write_text("no picture")
    row = {"id": "x", "messages": [{"role": "user", "content": [{"type": "image", "path": "broken.png"}]}]}
    row["messages"].append({"role": "assistant", "content": "ok"})
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    config = DataConfig(mixture=[str(tmp_path / "rows.jsonl")], packing=True, max_length=50)
    dataset = MixtureDataset(read_mixture(config), seed=0)
    with pytest.raises(DataError, match=r"rows\.jsonl:1 \(x\): image 0: .*broken\.png' cannot be read as a picture"):
        len(MixtureBatches(dataset, schedule_batches(config, dataset, processor, sized=True), batch_size=1))
    with pytest.raises(DataError, match=r"rows\.jsonl:1 \(x\)"):
        schedule_batches(config, dataset, processor, sized=True).lengths.measure_all()


def test_a_stage_says_and_writes_down_which_rows_it_dropped_and_cut(make_stage, workspace, tmp_path):
    rows = [text_row(f"r{row}", 2, 1 + row % 4 * 6) for row in range(12)]
    rows.append({"id": "hopeless", "messages": text_row("", 1, 90)["messages"]})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stage = make_stage(
        train={"parts": ["norms"]},
        data={"mixture": [str(tmp_path / "rows.jsonl")], "max_length": 40, "too_long": "cut"},
        trainer={"max_steps": -1, "num_train_epochs": 2},
    )
    console = Console(file=io.StringIO(), width=300)
    folder = run_stage(stage, console=console)
    entry = json.loads((folder / "history.json").read_text())[-1]
    count = UniMoEProcessor.from_pretrained(workspace / "start").count_tokens
    long = {row["id"]: tokens for row in rows if (tokens := count(row["messages"])) > 40}
    named = {
        what: {name.partition("(")[2][:-1]: tokens for name, tokens in entry[what]["tokens"].items()}
        for what in ("dropped", "cut")
    }
    assert named["dropped"] | named["cut"] == long
    assert set(named["dropped"]) == {row["id"] for row in rows if count(row["messages"][:2]) > 40} >= {"hopeless"}
    assert entry["samples"] == 2 * (13 - entry["dropped"]["rows"])
    said = console.file.getvalue()
    assert f"{entry['dropped']['rows']} row(s) longer than data.max_length 40 were dropped: " in said
    assert f"{entry['cut']['rows']} row(s) longer than data.max_length 40 were cut: " in said and "hopeless" in said


@pytest.mark.parametrize("mixture", [STREAM, ({"path": "a"}, {"path": "b", "weight": 0.5})], ids=["stream", "files"])
def test_lengths_in_a_checkpoint_save_measuring_what_was_seen(make, mixture, tmp_path, monkeypatch):
    flow = {**FLOWS["cut and packed"], "shuffle_buffer": 8, "packing_buffer": 4}
    sampler, again, other = (make(flow, mixture=mixture, sized=False) for _ in range(3))
    expected = list(islice(sampler, 12))
    assert sampler.schedule.report.cut
    sampler.schedule.lengths.save(tmp_path)
    again.schedule.lengths.load(tmp_path)
    other.schedule.lengths.load(tmp_path / "none")

    def count(self, *args):
        raise AssertionError("a row was measured again")

    monkeypatch.setattr("training.data.batching.measure.RowLengths._count", count)
    assert list(islice(again, 12)) == expected
    with pytest.raises(AssertionError, match="measured again"):
        next(iter(other))


@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04 cut off", b"\x93NUMPY"])
def test_damaged_lengths_are_named(make, tmp_path, raw):
    batches = make("packed")
    (tmp_path / LENGTHS_FILE).write_bytes(raw)
    with pytest.raises(DataError, match=rf"{LENGTHS_FILE}: is damaged .* earlier checkpoint"):
        batches.schedule.lengths.load(tmp_path)
