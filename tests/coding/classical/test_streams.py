"""Several streams of a library in one block of bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coding.base import DamagedError
from coding.classical.streams import join_streams, split_streams


@settings(max_examples=200, deadline=None)
@given(start=st.binary(max_size=300), ends=st.lists(st.binary(max_size=300), min_size=1, max_size=9))
def test_streams_are_restored(start, ends):
    streams = [start + end for end in ends]
    assert split_streams(join_streams(streams), len(streams)) == streams


def test_a_common_header_is_stored_once():
    streams = [bytes(100) + bytes([band]) * 10 for band in range(1, 21)]
    assert len(join_streams(streams)) == 21 + 100 + 20 * 10


@pytest.mark.parametrize("length", [0, 127, 128, 16383, 16384, 3_000_000])
def test_streams_of_any_length_are_restored(length):
    assert split_streams(join_streams([b"a" * length, b"b"]), 2) == [b"a" * length, b"b"]


@pytest.mark.parametrize("count", [1, 3, 2**32 - 1])
def test_another_number_of_streams_is_refused(count):
    with pytest.raises(DamagedError):
        split_streams(join_streams([b"first", b"second"]), count)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60), count=st.integers(1, 8))
def test_any_bytes_are_streams_or_damaged(data, count):
    try:
        assert len(split_streams(data, count)) == count
    except DamagedError as error:
        assert "\n" not in str(error)


def test_a_length_without_an_end_is_refused():
    with pytest.raises(DamagedError, match="no end"):
        split_streams(b"\xff" * 100, 1)
