"""Positions in time and space: worked examples, a slow reference, and what the rotation makes of them."""

import sys
from collections.abc import Callable
from types import FrameType

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from unimoe import UniMoETextConfig
from unimoe.modeling.rotary import RotaryEmbedding, default_sections
from unimoe.processing.positions import clip_offsets, omni_position_ids, picture_offsets, sound_offsets, sound_times

PER_SECOND = 2.0


def place(row: str, *offsets: np.ndarray) -> list[list[int]]:
    """Positions of one row: `t` a text token, `m` a token of a medium, `.` padding."""
    tokens = np.array([list(row)])
    return omni_position_ids(tokens == "m", tokens != ".", list(offsets))[:, 0].tolist()


def test_text_counts_on_along_all_axes() -> None:
    assert place("tttt") == [[0, 1, 2, 3]] * 3


def test_a_picture_has_one_time_and_the_text_goes_on_behind_its_longer_side() -> None:
    # Two tokens of text, a picture of 2 x 3 tokens from position 2 on, then text from 2 + 3.
    assert place("ttmmmmmmtt", picture_offsets([2, 3])) == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]


def test_tiles_lie_side_by_side_in_one_plane() -> None:
    # One row of two tiles of 2 x 2 tokens: a plane of 2 x 4.
    assert picture_offsets([2, 2], (1, 2)).tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 1, 1],
        [0, 1, 0, 1, 2, 3, 2, 3],
    ]


def test_a_sound_tells_the_time_on_all_axes() -> None:
    # Two windows of 2 s with 4 tokens each: 0.5 s a token, one position.
    times = sound_times(2, [1, 4], seconds=2.0)
    assert times.tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    assert place("tmmmmmmmmt", sound_offsets(times, PER_SECOND)) == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]] * 3


def test_fine_tokens_of_a_sound_share_positions() -> None:
    # 200 tokens in 30 s, 0.15 s each: 60 positions, the first of 4 tokens (0, 0.15, 0.3, 0.45 s), then of 3.
    offsets = sound_offsets(sound_times(1, [1, 200], seconds=30.0), PER_SECOND)[0]
    assert offsets[:11].tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert offsets[20] == 6 and offsets[199] == 59 and len(set(offsets.tolist())) == 60


@pytest.mark.parametrize(("axis", "times"), [("columns", [0, 1, 2, 0, 1, 2]), ("rows", [0, 0, 0, 1.5, 1.5, 1.5])])
def test_time_runs_along_the_axis_that_the_encoder_names(axis: str, times: list[float]) -> None:
    assert sound_times(1, [2, 3], seconds=3.0, time_axis=axis).tolist() == times


def test_frames_and_sound_of_a_clip_meet_in_time() -> None:
    # Frames of 1 x 2 tokens at 0.5 s and 1.5 s, then 2 s of sound in 4 tokens; all start at position 1.
    clip = np.concatenate(
        [
            clip_offsets(np.array([0.5, 1.5]), [1, 2], PER_SECOND),
            sound_offsets(sound_times(1, [1, 4], seconds=2.0), PER_SECOND),
        ],
        axis=1,
    )
    assert place("tmmmmmmmmt", clip) == [
        [0, 2, 2, 4, 4, 1, 2, 3, 4, 5],
        [0, 1, 1, 1, 1, 1, 2, 3, 4, 5],
        [0, 1, 2, 1, 2, 1, 2, 3, 4, 5],
    ]


def test_media_of_several_turns_follow_each_other() -> None:
    picture, sound = picture_offsets([1, 2]), sound_offsets(np.array([0.0, 0.5]), PER_SECOND)
    assert place("mmtmmtmmt", picture, sound, picture)[2] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert place("mmtmmtmmt", picture, sound, picture)[0] == [0, 0, 2, 3, 4, 5, 6, 6, 8]


def test_two_media_without_text_between_do_not_overlap() -> None:
    assert place("mmmm", picture_offsets([1, 2]), picture_offsets([1, 2])) == [
        [0, 0, 2, 2],
        [0, 0, 2, 2],
        [0, 1, 2, 3],
    ]


@pytest.mark.parametrize("padded", ["..tmmt", "tmmt.."])
def test_padding_takes_no_position(padded: str) -> None:
    offsets = picture_offsets([2, 1])
    found, bare = np.array(place(padded, offsets)), np.array(place("tmmt", offsets))
    real = np.array(list(padded)) != "."
    assert (found[:, real] == bare).all() and (found[:, ~real] == 0).all()


def slow_positions(rows: list[list[object]]) -> list[list[tuple[int, ...]]]:
    """Token after token, as the paper tells it. A row holds "t" for text, or the offsets of a medium."""
    found = []
    for row in rows:
        positions: list[tuple[int, ...]] = []
        start = 0
        for piece in row:
            block = [(0, 0, 0)] if isinstance(piece, str) else [tuple(token) for token in np.asarray(piece).T]
            positions += [tuple(start + int(step) for step in token) for token in block]
            start = max(max(position) for position in positions[-len(block) :]) + 1
        found.append(positions)
    return found


MEDIUM = st.one_of(
    st.builds(picture_offsets, st.tuples(st.integers(1, 3), st.integers(1, 3)), st.sampled_from([(1, 1), (2, 1)])),
    st.builds(
        lambda times: clip_offsets(np.array(sorted(times)), [2, 1], PER_SECOND),
        st.lists(st.floats(0, 9), min_size=1, max_size=3),
    ),
    st.builds(lambda n, tokens: sound_offsets(sound_times(n, [1, tokens], seconds=3.0), PER_SECOND),
              st.integers(1, 2), st.integers(1, 5)),
)  # fmt: skip


@given(st.lists(st.lists(st.one_of(st.just("t"), MEDIUM), min_size=1, max_size=6), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_batches_equal_the_slow_reference(rows: list[list[object]]) -> None:
    lengths = [sum(1 if isinstance(piece, str) else np.shape(piece)[1] for piece in row) for row in rows]
    width = max(lengths)
    is_media, is_real = np.zeros((len(rows), width), dtype=bool), np.zeros((len(rows), width), dtype=bool)
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        media = np.concatenate([[False] if isinstance(p, str) else np.ones(np.shape(p)[1], dtype=bool) for p in row])
        is_media[index, width - length :], is_real[index, width - length :] = media, True
    offsets = [piece for row in rows for piece in row if not isinstance(piece, str)]
    found = omni_position_ids(is_media, is_real, offsets)  # type: ignore[arg-type]
    for index, (positions, length) in enumerate(zip(slow_positions(rows), lengths, strict=True)):
        assert found[:, index, width - length :].T.tolist() == [list(position) for position in positions]


def executed_lines(function: Callable[[], object]) -> int:
    """Lines of `unimoe.processing.positions` that a call runs through."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> object:
        nonlocal count
        if frame.f_globals.get("__name__") != "unimoe.processing.positions":
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        function()
    finally:
        sys.settrace(None)
    return count


def positions_of(size: int) -> np.ndarray:
    """Positions of 2 rows with a picture of `size` tiles of `size` tokens, a clip of `size` units, `size` windows."""
    media = [
        picture_offsets([1, size], (size, 1)),
        clip_offsets(np.arange(size) / 2, [1, size], PER_SECOND),
        sound_offsets(sound_times(size, [1, size], seconds=1.0), PER_SECOND),
    ]
    is_media = np.ones((2, 3 * size**2), dtype=bool)
    return omni_position_ids(is_media, is_media, media * 2)


def test_no_line_runs_once_for_each_token_or_tile() -> None:
    # Generators over the axes of a grid are the same for every size; what grows would grow 16-fold and more.
    assert executed_lines(lambda: positions_of(2)) == executed_lines(lambda: positions_of(32)) > 10


def rotary(**rope: object) -> tuple[RotaryEmbedding, LlamaRotaryEmbedding]:
    config = UniMoETextConfig(
        hidden_size=64, num_attention_heads=2, rope_parameters={"rope_type": "default", "rope_theta": 1e4, **rope}
    )
    return RotaryEmbedding(config), LlamaRotaryEmbedding(config)  # type: ignore[arg-type]


def test_equal_axes_turn_as_plain_positions_do() -> None:
    ours, plain = rotary()
    positions = torch.arange(7).expand(2, -1)
    for found in (ours(torch.zeros(1), positions), ours(torch.zeros(1), positions.expand(3, -1, -1))):
        for values, expected in zip(found, plain(torch.zeros(1), positions), strict=True):
            assert torch.equal(values, expected)


def test_each_axis_turns_its_own_frequencies() -> None:
    ours, plain = rotary(mrope_section=[4, 5, 7])
    axes = torch.randint(0, 50, (3, 2, 6))
    cos, sin = ours(torch.zeros(1), axes)
    for axis, frequencies in enumerate((range(4), range(4, 9), range(9, 16))):
        expected_cos, expected_sin = plain(torch.zeros(1), axes[axis])
        for frequency in frequencies:
            for half in (0, 16):
                assert torch.equal(cos[..., half + frequency], expected_cos[..., half + frequency])
                assert torch.equal(sin[..., half + frequency], expected_sin[..., half + frequency])


def test_the_default_sections_are_those_of_qwen2_vl() -> None:
    assert default_sections(64) == (16, 24, 24)
    assert all(sum(default_sections(half)) == half for half in range(1, 65))


def test_sections_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StrictDataclassError, match=r"mrope_section is .* half of head_dim, 16"):
        rotary(mrope_section=[1, 2, 3])


def test_rows_of_a_fourth_axis_are_plain_positions() -> None:
    ours, _ = rotary()
    axes = torch.randint(0, 50, (3, 2, 6))
    plain = torch.arange(6).expand(1, 2, -1)
    assert torch.equal(ours(torch.zeros(1), torch.cat([plain, axes]))[0], ours(torch.zeros(1), axes)[0])
