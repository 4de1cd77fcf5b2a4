"""Calls of several tiles are computed together, whatever the order in which their threads make them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from coding.groups import Groups, in_batch


def test_batches_follow_the_numbers_of_the_tiles():
    batches = []

    def negative(arrays):
        batches.append(arrays.ravel().tolist())
        return -arrays

    numbers = [3, 4, 5, 7, 8]
    groups = Groups(numbers, 3)

    def code(number):
        with groups.tile(number):
            time.sleep(0.002 * (number % 4))
            first = in_batch(negative, np.array([number]))
            if number == 4:
                return first  # the others do not wait for it
            return in_batch(negative, first * 10)

    with ThreadPoolExecutor(3) as executor:
        found = [result.item() for result in executor.map(code, numbers)]
    assert found == [30, -4, 50, 70, 80]
    assert sorted(batches) == [[-70, -80], [-30, -50], [3, 4, 5], [7, 8]]


def test_nothing_waits_for_a_tile_that_will_not_come():
    groups = Groups([0, 1], 2)
    errors = []

    def code():
        with groups.tile(0):
            try:
                in_batch(np.negative, np.zeros(1))
            except RuntimeError as error:
                errors.append(error)

    thread = threading.Thread(target=code)
    thread.start()
    groups.stop()
    thread.join(timeout=30)
    assert not thread.is_alive() and len(errors) == 1


def test_outside_of_a_tile_a_call_is_computed_at_once():
    assert np.array_equal(in_batch(np.negative, np.arange(3)), [0, -1, -2])
