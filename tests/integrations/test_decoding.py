"""Generation arguments of lmms-eval's tasks mean here what they say."""

import pytest
import torch
from tiny_processor import byte_tokenizer

from unimoe.integrations.decoding import StopAtText, read_decoding


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ({}, {"do_sample": False}),
        ({"temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}, {"do_sample": False, "num_beams": 1}),
        ({"temperature": 0.2}, {"do_sample": True, "temperature": 0.2}),
        ({"temperature": 0.0, "do_sample": True, "top_k": 5}, {"do_sample": False}),
        ({"temperature": 0.7, "do_sample": False}, {"do_sample": False}),
        ({"do_sample": True, "top_p": 0.9}, {"do_sample": True, "top_p": 0.9}),
        ({"num_beams": 3, "top_p": None}, {"do_sample": False, "num_beams": 3}),
    ],
)
def test_tokens_are_sampled_only_where_the_task_asks_for_it(arguments: dict, options: dict) -> None:
    assert read_decoding(arguments, max_new_tokens=7).options == {"max_new_tokens": 7, **options}


def test_the_task_decides_how_long_an_answer_may_be() -> None:
    assert read_decoding({"max_new_tokens": 3}, max_new_tokens=7).options["max_new_tokens"] == 3


def test_equal_arguments_share_a_batch_whatever_their_order() -> None:
    one = read_decoding({"num_beams": 2, "max_new_tokens": 4, "until": "\n"}, max_new_tokens=7)
    same = read_decoding({"until": ["\n"], "max_new_tokens": 4, "num_beams": 2, "temperature": 0}, max_new_tokens=9)
    assert one.key == same.key
    for other in ({"num_beams": 2, "max_new_tokens": 4}, {"num_beams": 2, "max_new_tokens": 5, "until": "\n"}):
        assert read_decoding(other, max_new_tokens=7).key != one.key


def test_an_answer_ends_before_the_first_stop_text() -> None:
    decoding = read_decoding({"until": ["\n\n", "Q:", ""]}, max_new_tokens=7)
    assert decoding.cut("red Q: and\n\nblue") == "red "
    assert decoding.cut("red") == "red"
    with pytest.raises(ValueError, match="expected a text or a list of texts"):
        read_decoding({"until": [3]}, max_new_tokens=7)


def test_arguments_that_generate_does_not_know_are_left_out() -> None:
    assert read_decoding({"image_aspect_ratio": "pad"}, max_new_tokens=7).options == {
        "max_new_tokens": 7,
        "do_sample": False,
    }


def test_a_stop_text_ends_its_row_alone_and_is_not_found_in_the_prompt() -> None:
    tokenizer = byte_tokenizer()
    rows = [tokenizer.encode(f"\n\n{answer}") for answer in ("..\n\n", ".\n.\n", "\n\n..", "....")]
    stop = StopAtText(tokenizer, ("\n\n",), prompt_length=2)
    assert stop(torch.tensor(rows), torch.empty(0)).tolist() == [True, False, True, False]
    crossing = torch.tensor([tokenizer.encode("p\n\n")])
    assert StopAtText(tokenizer, ("\n\n",), prompt_length=2)(crossing, torch.empty(0)).tolist() == [False]
