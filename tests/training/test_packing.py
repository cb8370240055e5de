"""Packing, grouping, sharing out and cutting as pure functions: nothing is split, lost, doubled or too long."""

from collections import Counter
from itertools import chain, count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.batching.packing import chunk, first_fit_decreasing, groups, packs, share_out
from training.data.mixture.augment import sample_generator
from training.data.mixture.fitting import Cut, LengthReport, cuts, keep, longest_cut

CAPACITY = 50
LENGTHS = st.lists(st.integers(1, CAPACITY), max_size=120)


def seeds():
    return (sample_generator(0, number) for number in count())


@given(LENGTHS)
def test_bins_hold_everything_once_and_never_too_much(lengths):
    bins = first_fit_decreasing(lengths, CAPACITY)
    assert sorted(chain.from_iterable(bins)) == list(range(len(lengths)))
    assert all(held and sum(lengths[index] for index in held) <= CAPACITY for held in bins)


@given(LENGTHS)
def test_any_two_bins_hold_more_than_one_could(lengths):
    """Or the second would never have been opened; so there are less than twice as many as are needed."""
    bins = first_fit_decreasing(lengths, CAPACITY)
    least = -(-sum(lengths) // CAPACITY)
    assert len(bins) <= max(2 * least - 1, 0) or not lengths
    held = sorted(sum(lengths[index] for index in bin) for bin in bins)
    assert len(held) < 2 or held[0] + held[1] > CAPACITY


def test_first_fit_decreasing_is_the_textbook_one():
    assert first_fit_decreasing([4, 8, 1, 4, 2, 1], 10) == [[1, 4], [0, 2, 3, 5]]
    assert first_fit_decreasing([], 3) == []
    with pytest.raises(ValueError, match="A length of 11 does not fit into 10"):
        first_fit_decreasing([3, 11], 10)


@given(LENGTHS, st.integers(1, 40))
def test_packs_are_whole_rows_within_capacity_and_lose_none(lengths, buffer):
    rows = list(enumerate(lengths))
    found = list(packs(iter(rows), capacity=CAPACITY, buffer=buffer, seeds=seeds()))
    assert Counter(chain.from_iterable(found)) == Counter(range(len(lengths)))
    assert all(sum(lengths[row] for row in pack) <= CAPACITY for pack in found)
    again = list(packs(iter(rows), capacity=CAPACITY, buffer=buffer, seeds=seeds()))
    assert found == again
    for pack in found:  # of one buffer
        assert len({row // buffer for row in pack}) == 1


@given(LENGTHS, st.integers(1, 7), st.integers(1, 40))
def test_groups_lose_no_row_and_pad_no_more_than_in_order(lengths, size, buffer):
    found = list(groups(enumerate(lengths), size=size, buffer=buffer, seeds=seeds()))
    assert Counter(chain.from_iterable(found)) == Counter(range(len(lengths)))
    assert sum(len(group) < size for group in found) <= 1, "only the last group may be short"

    def padded(batches):
        return sum(len(rows) * max(lengths[row] for row in rows) for rows in batches)

    if buffer >= len(lengths) and len(lengths) % size == 0:  # no group is short
        assert padded(found) <= padded(chunk(range(len(lengths)), size))


@given(st.lists(st.integers(), max_size=30), st.integers(1, 6))
def test_chunks_are_the_flow_in_order_and_with_a_key_of_one_kind_each(things, size):
    assert list(chain.from_iterable(chunk(things, size))) == things
    assert all(len(held) == size for held in list(chunk(things, size))[:-1])
    by_key = list(chunk(things, size, key=lambda thing: thing % 3))
    assert Counter(chain.from_iterable(by_key)) == Counter(things)
    assert all(len({thing % 3 for thing in held}) == 1 for held in by_key)


@given(st.lists(st.integers(), min_size=1, max_size=20, unique=True), st.integers(1, 6))
def test_every_process_gets_its_even_share_and_none_goes_without(things, processes):
    shares = share_out(things, processes)
    assert len(shares) == processes and all(shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    shown = Counter(chain.from_iterable(shares))
    assert set(shown) == set(things)
    if len(things) >= processes:
        assert set(shown.values()) == {1}


ITEM = st.sampled_from(["text", "text", "image", "speech"])
MESSAGES = st.lists(
    st.tuples(st.sampled_from(["user", "assistant", "assistant"]), st.lists(ITEM, min_size=1, max_size=4)),
    min_size=1,
    max_size=6,
)
TOKENS = {"text": 3, "image": 7, "speech": 4}


def conversation(shape, words):
    def item(kind, number):
        return {"type": kind, "text": words[number % len(words)]} if kind == "text" else {"type": kind, "path": "x"}

    return [
        {"role": role, "content": [item(kind, turn + number) for number, kind in enumerate(kinds)]}
        for turn, (role, kinds) in enumerate(shape)
    ]


def tokens(messages):
    return sum(2 + sum(TOKENS[item["type"]] for item in message["content"]) for message in messages)


def oracle(messages, limit):
    """All prefixes by items, tried one by one."""
    best = None
    for turn, message in enumerate(messages):
        for items in range(1, len(message["content"]) + 1):
            prefix = [*messages[:turn], {**message, "content": message["content"][:items]}]
            said = [item.get("text", "") for m in prefix if m["role"] == "assistant" for item in m["content"]]
            is_whole = items == len(message["content"])
            may_end = message["role"] == "assistant" and (is_whole or message["content"][items - 1]["type"] != "text")
            if may_end and any(map(str.strip, said)) and tokens(prefix) <= limit and prefix != messages:
                best = prefix
    return best


@settings(max_examples=300)
@given(MESSAGES, st.lists(st.sampled_from(["word", "", " "]), min_size=1, max_size=3), st.integers(0, 60))
def test_a_cut_is_the_longest_prefix_that_ends_with_a_turn_or_a_medium_and_teaches(shape, words, limit):
    messages = conversation(shape, words)
    found = longest_cut(messages, limit, tokens)
    expected = oracle(messages, limit)
    assert (found is None) == (expected is None)
    if found is not None:
        cut, length = found
        assert keep(messages, cut) == expected and tokens(expected) == length <= limit
        assert cut.is_inside == (cut.items > 0)


def test_where_a_row_may_end():
    messages = conversation(
        [("user", ["image", "text"]), ("assistant", ["text", "image", "text"]), ("user", ["text"])], ["word"]
    )
    assert cuts(messages) == [Cut(2), Cut(1, 2)]
    assert keep(messages, None) == messages and keep(messages, Cut(2)) == messages[:2]
    assert cuts(conversation([("user", ["text"]), ("assistant", ["text"])], ["word"])) == []


def test_a_report_names_the_first_rows_and_counts_all():
    report = LengthReport(dropped={f"a.jsonl:{row} (r{row})": 100 + row for row in range(120)}, cut={"b": 7})
    history = report.as_history()
    assert history["dropped"]["rows"] == 120 and len(history["dropped"]["tokens"]) == 100
    assert history["cut"] == {"rows": 1, "tokens": {"b": 7}}
    assert next(report.lines(64)) == (
        "120 row(s) longer than data.max_length 64 were dropped: a.jsonl:0 (r0): 100 tokens, a.jsonl:1 (r1): 101 "
        "tokens, a.jsonl:2 (r2): 102 tokens, a.jsonl:3 (r3): 103 tokens, a.jsonl:4 (r4): 104 tokens and 115 more"
    )
    assert LengthReport().as_history() == {} and not list(LengthReport().lines(64))
