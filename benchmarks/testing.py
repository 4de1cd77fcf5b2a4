"""The test of one checkpoint on one split: set it up, code and measure every image, write the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from datasets import HySpecNet11k
from datasets.hyspecnet11k import read_split, refuse_overlap
from datasets.loading import ThreadLoader, batches_in_order
from models import models
from models.base import HSICompressionModel
from training.run_folder import read_settings
from utils.checkpoint import load_state_dict, load_weights
from utils.devices import autocast, check_precision, use_device
from utils.environment import configure_backends, provenance, seed_everything
from utils.errors import DatasetError, UsageError
from utils.evaluation import average, evaluate
from utils.files import atomic_write
from utils.plots import comparison_figure
from utils.results import format_table, result_content, write_csv, write_json

__all__ = ["Test", "average", "format_table", "set_up"]

NUM_PATCHES = 11_483
"""Patches of HySpecNet-11k, over all splits of a mode."""


@dataclass
class Test:
    """A test that is ready to run.

    Attributes:
        args: arguments of test.py.
        device: of the model.
        model: in evaluation mode, with the weights of the checkpoint.
        dataset: the images.
    """

    args: argparse.Namespace
    device: torch.device
    model: HSICompressionModel
    dataset: HySpecNet11k

    def run(self) -> list[dict]:
        """Code every image to bytes and back and return its metrics, see `utils.evaluation.evaluate`."""
        args = self.args
        batches = batches_in_order(self.dataset, args.batch_size)
        loader = ThreadLoader(self.dataset, batches, self.device, args.num_workers)
        return evaluate(self.model, _with_bar(loader, len(self.dataset)), self.device, args.precision)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Code an image (C, H, W) to bytes and back, to float32 on the CPU."""
        dtype = next(self.model.parameters()).dtype
        with autocast(self.args.precision, self.device):
            coded = self.model.compress(x[None].to(self.device, dtype))
            return self.model.decompress(**coded)["x_hat"][0].float().cpu()

    def is_published_split(self) -> bool:
        """Return whether the images are those of the published results: the whole test split of mode easy."""
        if (self.args.mode, self.args.split, self.args.num_channels) != ("easy", "test", 202):
            return False
        splits = Path(self.args.dataset) / "splits" / "easy"
        others = [splits / f"{split}.csv" for split in ("train", "val")]
        if not all(path.is_file() for path in others):
            return False
        return len(self.dataset) + sum(len(read_split(path)) for path in others) == NUM_PATCHES

    def write(self, results: Sequence[Mapping], metrics: Mapping[str, float]) -> list[Path]:
        """Write the results of `run` and their means `metrics`, and return the paths of the files."""
        name, save_dir = result_name(self.args.checkpoint), Path(self.args.save_dir)
        paths = [save_dir / f"{name}.{ending}" for ending in ("json", "csv", "png")]
        description = f"{self.args.model}, test"
        write_json(paths[0], result_content(name, description, metrics, self.args.num_channels, self._settings()))
        write_csv(paths[1], [{"image": image, **row} for image, row in zip(self.dataset.names, results, strict=True)])
        self._write_picture(paths[2], [row["psnr"] for row in results])
        return paths

    def _settings(self) -> dict:
        """Return what the result depends on, with the data set by name and without paths of this machine."""
        arguments = {**vars(self.args), "checkpoint": Path(self.args.checkpoint).name}
        del arguments["dataset"], arguments["save_dir"]
        return {
            "dataset": self.dataset.root_dir.resolve().name,
            "images": len(self.dataset),
            "split_sha256": self.dataset.fingerprint(),
            "arguments": arguments,
            **provenance(self.device),
        }

    def _write_picture(self, path: Path, psnr: Sequence[float]) -> None:
        """Draw the worst, the median and the best image by PSNR; each once if there are fewer than three."""
        order = sorted(range(len(psnr)), key=psnr.__getitem__)
        ranks = {"worst": order[0], "median": order[(len(order) - 1) // 2], "best": order[-1]}
        cases = []
        for index in dict.fromkeys(ranks.values()):
            rank = ", ".join(name for name, other in ranks.items() if other == index)
            x = self.dataset[index]
            title = f"{rank}: {self.dataset.names[index]}, {psnr[index]:.2f} dB"
            cases.append((title, x.numpy(), self.reconstruct(x).numpy()))
        with atomic_write(path) as file:
            comparison_figure(cases).savefig(file, dpi=100, format="png")


def set_up(args: argparse.Namespace) -> Test:
    """Prepare a test.

    Args:
        args: arguments of test.py, with a checkpoint that exists.

    Raises:
        UsageError: flags that cannot work.
        CheckpointError: no checkpoint, or weights of another model.
        DatasetError: no such data set, images that the model cannot take, or that are in train without
            `--allow-overlap`.
    """
    trained = read_settings(Path(args.checkpoint).resolve().parent).get("model", args.model)
    if trained != args.model:
        raise UsageError(f"{args.checkpoint} was trained as {trained}: give -m {trained}")
    configure_backends(deterministic=False, tf32=False)  # the published results are in float32, not TF32
    device = use_device(args.device, "--device")
    check_precision(args.precision, device)
    seed_everything(args.seed)
    state_dict = load_state_dict(args.checkpoint)
    model = models[args.model](src_channels=args.num_channels)
    load_weights(model, state_dict, args.checkpoint)
    if model.has_entropy_model:
        if args.half:
            raise UsageError(f"--half: entropy models need float32: test {args.model} with --precision fp16")
        model.update(update_quantiles=True)  # no effect on tables in the checkpoint
    model = model.eval().to(device, torch.float16 if args.half else torch.float32)

    dataset = HySpecNet11k(args.dataset, args.mode, args.split, num_channels=args.num_channels)
    if not args.allow_overlap:
        refuse_overlap(Path(args.dataset) / "splits" / args.mode, ("train", args.split))
    try:
        model.check_size(torch.empty(1, *dataset.image_shape, device="meta"))
    except ValueError as error:
        raise DatasetError(f"{args.split} images of {args.dataset}: {error}") from None
    return Test(args, device, model, dataset)


def result_name(checkpoint: str) -> str:
    """Return the name of a checkpoint's result files, without their suffix."""
    path = Path(checkpoint).resolve()
    stem = path.name.removesuffix(".tar").removesuffix(".pth")
    return f"{path.parent.name}-{stem}" if stem in ("last", "best", "final") else stem


def _with_bar(loader: Iterable[Tensor], num_images: int) -> Iterator[Tensor]:
    """Yield the batches of `loader`, with a progress bar over its images on a terminal."""
    with tqdm(total=num_images, unit="image", leave=False, disable=not sys.stdout.isatty()) as bar:
        for x in loader:
            yield x
            bar.update(len(x))
