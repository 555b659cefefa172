"""The scanner against the json module: whatever the text and however it is cut, the same values come out."""

from __future__ import annotations

import base64
import json
import math
import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.uploads import json_scanner
from server.uploads.json_scanner import JsonScanner
from wire.errors import InvalidRequest, TooLarge

NUMBERS = st.integers(-(2**31), 2**31 - 1) | st.floats(allow_nan=True, allow_infinity=True, width=32)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text() | st.sampled_from(['["', "[1,2]", '\\"[', "\\", '"'])
VALUES = st.recursive(
    LEAVES | st.lists(NUMBERS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def scan(text: bytes, cuts=(), max_tokens=10**9) -> JsonScanner:
    scanner = JsonScanner(max_tokens)
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        scanner.feed(text[start:end])
    return scanner


def restored(value, arrays):
    """The parsed JSON with every placeholder replaced by the list it stands for."""
    if isinstance(value, str) and value in arrays:
        return arrays[value].tolist()
    if isinstance(value, list):
        return [restored(item, arrays) for item in value]
    if isinstance(value, dict):
        return {key: restored(item, arrays) for key, item in value.items()}
    return value


def same(a, b) -> bool:
    if isinstance(a, float) and isinstance(b, (int, float)):
        with np.errstate(over="ignore"):  # lists of numbers are float32
            return (math.isnan(a) and math.isnan(b)) or a in (b, float(np.float32(b)))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


@settings(max_examples=300, deadline=None)
@given(value=VALUES, data=st.data(), indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
@example(value={"a": "[1,2", "b": [1, 2]}, data=None, indent=None, ascii_only=True)
def test_what_is_cut_out_and_what_remains_make_up_the_document(value, data, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5))) if data else range(1, len(text))
    scanner = scan(text, cuts)
    assert same(restored(json.loads(scanner.finish()), scanner.arrays), json.loads(text))


@settings(max_examples=300, deadline=None)
@given(text=st.text('[]{}",:\\0123.-eEN a', max_size=40), cut=st.integers(0, 40))
def test_malformed_text_stays_malformed(text, cut):
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    scanner = JsonScanner(10**9)
    try:
        scanner.feed(text[:cut].encode())
        scanner.feed(text[cut:].encode())
        found = json.loads(scanner.finish())
    except (InvalidRequest, ValueError):
        assert expected is None
        return
    assert same(restored(found, scanner.arrays), expected) or expected is None is found


@pytest.mark.parametrize(
    ("text", "dtype"),
    [("[1,2]", np.int32), ("[1, -2147483649]", np.int64), ("[1.0,2]", np.float32), (f"[{10**30}]", np.float32)],
)
def test_lists_take_the_narrowest_type_that_holds_them(text, dtype):
    [array] = scan(text.encode()).arrays.values()
    assert array.dtype == dtype


def test_a_long_list_is_parsed_in_slices():
    numbers = list(range(200_000))
    [array] = scan(json.dumps(numbers).encode()).arrays.values()
    assert array.tolist() == numbers
    for broken in ("[" + "1," * 300_000 + "]", "[" + "1," * 200_000 + ",1]"):
        with pytest.raises(InvalidRequest):
            scan(broken.encode())


def test_a_number_of_a_thousand_digits_is_infinite():
    [array] = scan(b"[1.5, 1" + b"0" * 1000 + b"]").arrays.values()
    assert array.tolist() == [1.5, math.inf]


def test_only_integers_count_as_tokens_and_the_limit_is_exact():
    text = json.dumps({"ids": [1] * 10, "logprobs": [-0.5] * 9, "text": "1,2,3" * 10}).encode()
    assert scan(text, max_tokens=10).num_tokens == 10
    with pytest.raises(TooLarge):
        scan(text, max_tokens=9)


def test_other_numbers_have_the_same_limit():
    text = json.dumps({"weights": [[-0.5] * 5, [-0.5] * 5], "ids": [1] * 10}).encode()
    assert scan(text, max_tokens=10).num_floats == 10
    with pytest.raises(TooLarge, match="more than 9 logprobs or weights"):
        scan(json.dumps([[-0.5] * 5] * 2).encode(), max_tokens=9)


@pytest.mark.parametrize("number", [b"1", b"0.1"])
def test_a_list_without_end_is_refused_before_it_ends(number):
    endless = b"[" + number + (b"," + number) * 5000
    with pytest.raises(TooLarge):
        scan(endless, range(1000, 10_000, 1000), max_tokens=1000)


@pytest.mark.parametrize(("start", "more"), [(b'{"a": "', b"x"), (b"[1", b" "), (b"[", b" "), (b"[0.", b"1")])
def test_what_never_ends_is_refused_before_it_is_large(start, more, monkeypatch):
    monkeypatch.setattr(json_scanner, "_REST_BYTES", 10_000)
    scanner = JsonScanner(10**9)
    scanner.feed(start)

    def feed_on() -> None:
        for _ in range(30):
            scanner.feed(more * 1000)

    with pytest.raises(TooLarge):
        feed_on()


def with_pictures(*, most: int = 10**6) -> JsonScanner:
    return JsonScanner(10**9, most)


def put_back(value, blobs):
    if isinstance(value, str) and value in blobs:
        return base64.b64encode(blobs[value]).decode()
    if isinstance(value, list):
        return [put_back(item, blobs) for item in value]
    return {key: put_back(item, blobs) for key, item in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("step", [1, 7, 5000, 10**6])
def test_pictures_are_cut_out_once_however_they_come(step):
    one, other = random.Random(0).randbytes(9000), random.Random(1).randbytes(4001)
    texts = [base64.b64encode(data).decode() for data in (one, other, one)]
    document = [{"data": text, "tokens": [1, 2]} for text in texts] + ["a" * 5000 + "!", "b" * 100, 'c"' * 3000]
    text, scanner = json.dumps(document).encode(), with_pictures()
    for start in range(0, len(text), step if step > 1 else 997):
        scanner.feed(text[start : start + (step if step > 1 else 997)])
    rest = scanner.finish()
    assert len(rest) < 16_000
    assert sorted(scanner.blobs.values(), key=len) == [other, one]
    assert same(restored(put_back(json.loads(rest), scanner.blobs), scanner.arrays), document)


def test_distinct_pictures_are_bounded_and_repeated_ones_are_not():
    one, other = (base64.b64encode(random.Random(seed).randbytes(6000)).decode() for seed in range(2))
    scanner = with_pictures(most=8000)
    scanner.feed(json.dumps([one] * 50).encode())
    assert len(scanner.finish()) < 10_000
    scanner = with_pictures(most=8000)
    with pytest.raises(TooLarge, match="8,000 bytes of pictures"):
        scanner.feed(json.dumps([one, other]).encode())


def test_base64_stays_where_nobody_asks_for_pictures():
    text = json.dumps(["A" * 8000]).encode()
    scanner = JsonScanner(10**9)
    scanner.feed(text)
    assert scanner.finish() == text
