"""Batches read by threads are those of torch's DataLoader, value for value."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datasets import HySpecNet11k
from datasets.enmap import to_reflectance
from datasets.loading import ThreadLoader, reflectances
from datasets.transforms import get_transform
from training.sampler import EpochBatchSampler
from utils.errors import DatasetError

CPU = torch.device("cpu")
DEVICES = [
    CPU,
    pytest.param(torch.device("cuda"), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


def save_digital_numbers(paths, seed=0):
    for index, path in enumerate(paths):
        np.save(path, np.random.default_rng(seed + index).integers(0, 10001, (202, 12, 10), dtype=np.uint16))


@pytest.mark.parametrize("device", DEVICES)
def test_digital_numbers_become_the_nearest_reflectances(device):
    numbers = np.arange(10001, dtype=np.uint16)
    x = reflectances(torch.from_numpy(numbers).to(device))
    assert x.dtype == torch.float32 and x.device.type == device.type
    np.testing.assert_array_equal(x.cpu().numpy(), to_reflectance(numbers))
    np.testing.assert_array_equal(x.cpu().numpy(), (numbers.astype(np.float64) / 10000).astype(np.float32))


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("transform", ["none", "random_4x4", "randomcrop_8x8"])
@pytest.mark.parametrize("is_uint16", [False, True])
def test_batches_are_those_of_a_data_loader(dataset_root, num_workers, transform, is_uint16):
    dataset = HySpecNet11k(dataset_root, transform=get_transform(transform), seed=3, repeats=2)
    if is_uint16:
        save_digital_numbers(dataset.paths)
    sampler = EpochBatchSampler(len(dataset), 4, shuffle=True, seed=5)
    loader = ThreadLoader(dataset, sampler, CPU, num_workers, prefetch=1)
    for epoch, seen in ((0, 0), (1, 4)):
        sampler.set_position(epoch, seen)
        expected = list(DataLoader(dataset, batch_sampler=sampler))
        found = list(loader)
        assert [len(x) for x in found] == [len(x) for x in expected]
        assert all(torch.equal(own, other) for own, other in zip(found, expected, strict=True))


KINDS = ("<f4", "<u2", ">f4", ">u2", "fortran")


@pytest.mark.parametrize("kinds", [KINDS[start:] + KINDS[:start] for start in range(len(KINDS))])
def test_files_of_both_types_and_all_orders_share_a_batch(dataset_root, kinds):
    """Whichever is the first, which decides how the others are read."""
    for kind, path in zip(kinds, HySpecNet11k(dataset_root).paths, strict=True):
        numbers = np.load(path) * 10000
        cube = np.asfortranarray(numbers / 10000) if kind == "fortran" else numbers / (1 if "u" in kind else 10000)
        np.save(path, cube.astype("<f4" if kind == "fortran" else kind))
    dataset = HySpecNet11k(dataset_root)
    expected = torch.stack([dataset[index] for index in range(5)])
    assert expected.amax((1, 2, 3)).min() > 0.9 and expected.max() <= 1
    for keep_digital_numbers in (False, True):
        batch = dataset.read_batch(range(5), keep_digital_numbers=keep_digital_numbers)
        assert batch.dtype == torch.float32 and torch.equal(batch, expected)


def test_digital_numbers_are_kept_for_a_gpu(dataset_root):
    save_digital_numbers(HySpecNet11k(dataset_root).paths)
    dataset = HySpecNet11k(dataset_root)
    numbers = dataset.read_batch(range(5), keep_digital_numbers=True)
    assert numbers.dtype == torch.uint16
    assert torch.equal(reflectances(numbers), dataset.read_batch(range(5)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("pin_memory", [False, True])
@pytest.mark.parametrize("is_uint16", [False, True])
def test_batches_on_a_gpu_are_those_on_the_cpu(dataset_root, is_uint16, pin_memory):
    dataset = HySpecNet11k(dataset_root)
    if is_uint16:
        save_digital_numbers(dataset.paths)
        dataset = HySpecNet11k(dataset_root)
    keys = [[index % 5, (index + 1) % 5] for index in range(40)]
    found = [x.clone() for x in ThreadLoader(dataset, keys, torch.device("cuda"), 2, pin_memory=pin_memory)]
    for own, other in zip(found, ThreadLoader(dataset, keys, CPU, 2), strict=True):
        assert own.is_cuda and torch.equal(own.cpu(), other)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_any_callable_transforms_each_image(dataset_root, num_workers):
    dataset = HySpecNet11k(dataset_root, transform=lambda x: x.flip(0)[:, :3].double())
    found = list(ThreadLoader(dataset, [[0, 3], [4]], CPU, num_workers))
    assert torch.equal(torch.cat(found), torch.stack([dataset[index] for index in (0, 3, 4)]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_memory_that_is_still_in_use_is_not_written_to(dataset_root, num_workers):
    dataset = HySpecNet11k(dataset_root)
    keys = [[index % 5, (index + 1) % 5] for index in range(20)] + [[2]]
    images = [x[-1].numpy() for x in ThreadLoader(dataset, keys, CPU, num_workers)]
    for (*_, key), image in zip(keys, images, strict=True):
        np.testing.assert_array_equal(image, dataset[key].numpy())


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("cube", "message"),
    [
        (np.full((202, 12, 10), 0.5, np.float32), None),
        (np.linspace(-1e38, 1e38, 24240, dtype=np.float32).reshape(202, 12, 10), None),
        (np.full((202, 12, 10), np.nan, np.float32), "NaN or infinite"),
        (np.full((202, 12, 10), -np.inf, np.float32), "NaN or infinite"),
        (np.full((202, 12, 10), 10001, np.uint16), "above 10000"),
        (np.zeros((202, 12, 11), np.float32), "shape"),
    ],
)
def test_unusable_patches_are_refused(dataset_root, num_workers, cube, message):
    dataset = HySpecNet11k(dataset_root)
    if cube.dtype == np.uint16:
        save_digital_numbers(dataset.paths)
        dataset = HySpecNet11k(dataset_root)
    np.save(dataset.paths[4], cube)
    loader = ThreadLoader(dataset, [[0, 1], [2, 3], [4]], CPU, num_workers)
    if message is None:
        assert len(list(loader)) == 3
        return
    with pytest.raises(DatasetError, match=message):
        list(loader)
    with pytest.raises(DatasetError, match=message):
        dataset[4]


def test_an_abandoned_iteration_leaves_nothing_behind(dataset_root):
    loader = ThreadLoader(HySpecNet11k(dataset_root), [[0], [1], [2], [3], [4]], CPU, 2)
    for _ in range(3):
        iterator = iter(loader)
        next(iterator)
        iterator.close()
    assert len(list(loader)) == 5
