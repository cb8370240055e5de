"""YAML is bounded before anything is built of it, nothing of it is lost, and every refusal is one line."""

import os
import time
import tracemalloc

import pytest

from unimoe.errors import ConfigError
from unimoe.errors.suggest import did_you_mean
from unimoe.files.settings import apply_override, read_yaml
from unimoe.files.strict_yaml import parse_yaml
from unimoe.media.limits import Limits


def chain(links: int, *, width: int) -> str:
    """Anchors of which each holds the one before `width` times."""
    lines = ["a0: &a0 [x, x]"]
    return "\n".join([*lines, *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, links))])


BOMBS = {
    "keys": ("\n".join(f"key{n}: {n}" for n in range(100_000)), "yaml_keys"),
    "entries": ("a: [" + "1, " * 100_000 + "1]", "yaml_keys"),
    "entries of one letter in blocks": ("a:\n" + "- \n" * 200_000, "yaml_keys"),
    "aliases that double": (chain(40, width=2), "yaml_keys"),
    "aliases that grow ninefold": (chain(10, width=9), "yaml_keys"),
    "aliases of mappings": (
        "a: &a {k: 1}\n" + "\n".join(f"a{n}: &a{n} {{k: *a{n - 1 or ''}, l: *a{n - 1 or ''}}}" for n in range(1, 40)),
        "yaml_keys",
    ),
    "aliases that go deep": (chain(200, width=1), "json_depth"),
    "lists within lists": ("a: " + "[" * 100_000, "json_depth"),
    "mappings within mappings": ("{a: " * 100_000, "json_depth"),
    "blocks within blocks": ("- " * 100_000 + "x", "json_depth"),
    "complex keys": ("? " * 50_000 + "x", "json_depth"),
    "a long whole number": ("a: " + "9" * 100_000, "number_digits"),
    "a long number of base 60": ("a: 1" + ":1" * 100_000, "number_digits"),
    "a long text": ("a: " + "x" * 20_000_000, "yaml_bytes"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once_by_the_name_of_its_limit(tmp_path, name):
    text, limit = BOMBS[name]
    (tmp_path / "bomb.yaml").write_text(text)
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(ConfigError, match=rf"bomb\.yaml: .*limit {limit} .*UNIMOE_LIMIT_{limit.upper()}") as caught:
        read_yaml(tmp_path / "bomb.yaml")
    seconds, (_, peak) = time.monotonic() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 5 and peak < 100e6 and len(str(caught.value)) < 600  # tracing makes it several times as slow


@pytest.mark.parametrize("name", ["keys", "aliases that double", "lists within lists", "a long number of base 60"])
def test_a_bomb_in_an_override_is_refused_too(name):
    text, limit = BOMBS[name]
    with pytest.raises(ConfigError, match=rf"override .*limit {limit}") as caught:
        apply_override({}, f"data={text}")
    assert len(str(caught.value)) < 600


def test_the_depth_of_an_override_counts_where_it_stands():
    values: dict = {}
    apply_override(values, ".".join("abcde") + "=[[1]]")
    assert values == {"a": {"b": {"c": {"d": {"e": [[1]]}}}}}
    with pytest.raises(ConfigError, match="limit json_depth"):
        apply_override({}, ".".join(["k"] * 95) + "=" + "[" * 10 + "]" * 10)
    with pytest.raises(ConfigError, match="limit json_depth"):
        apply_override({}, ".".join(["k"] * 100_000) + "=1")


def test_many_overrides_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match=r"100,000 overrides, and the limit call_options is 1000.*CALL_OPTIONS"):
        read_yaml(tmp_path / "a.yaml", [f"k{n}=1" for n in range(100_000)])


def test_a_limit_can_be_raised(monkeypatch, tmp_path):
    (tmp_path / "a.yaml").write_text("a: [1, 2, 3]")
    monkeypatch.setenv("UNIMOE_LIMIT_YAML_KEYS", "5")
    with pytest.raises(ConfigError, match="yaml_keys is 5"):
        read_yaml(tmp_path / "a.yaml")
    monkeypatch.setenv("UNIMOE_LIMIT_YAML_KEYS", "6")
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1, 2, 3]}
    assert parse_yaml("[1]", where="x", limits=Limits(yaml_keys=2)) == [1]


def test_a_file_of_as_many_keys_as_are_allowed_is_read_fast():
    began = time.monotonic()
    values = parse_yaml("\n".join(f"key{n}: {n}" for n in range(24_000)), where="x")
    assert len(values) == 24_000 and time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "the key 'a' is given twice"),
        ("a: {b: 1, b: 1}", "the key 'b' is given twice"),
        ("1: x\n1.0: y", "given twice"),
        ("[a]: 1", "a key must be a text or a number"),
        ("{a: 1}: 1", "a key must be a text or a number"),
        ("a: &a {b: 1}\nc:\n  <<: *a", "<< is not read: write the keys out"),
        ("a: 2024-13-45", "cannot be read"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: !!int x", "cannot be read"),
        ("a: &a [*a]", "&a holds itself"),
        ("a: *b", "undefined alias"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("a: [", "not valid YAML"),
    ],
)
def test_what_would_be_lost_or_guessed_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


def test_aliases_are_copies():
    values = parse_yaml("a: &x {rate: 1}\nb: *x", where="x")
    apply_override(values, "a.rate=2")
    assert values == {"a": {"rate": 2}, "b": {"rate": 1}}


def test_only_ordinary_files_of_utf8_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    for name, message in {"pipe.yaml": "no ordinary file", "latin.yaml": "not UTF-8", ".": "no ordinary file"}.items():
        with pytest.raises(ConfigError, match=message):
            read_yaml(tmp_path / name)


@pytest.mark.parametrize("override", ["a.²=1", "a.99999999999999999999999999=1", "a.-1=1", "a.x=1", "a.0.b=1", "=1"])
def test_an_override_that_leads_nowhere_is_refused(override):
    with pytest.raises(ConfigError, match="override"):
        apply_override({"a": [1]}, override)


def test_suggestions_stay_short_and_fast():
    began = time.monotonic()
    hint = did_you_mean("x" * 1_000_000, [f"name{n}" for n in range(100_000)])
    assert hint.endswith("and 99,960 more.") and len(hint) < 1000 and time.monotonic() - began < 2
    assert did_you_mean("lerning_rate", ["learning_rate", "seed"]) == " Did you mean 'learning_rate'?"
