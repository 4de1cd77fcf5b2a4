"""Test a checkpoint on one split of HySpecNet-11k, or of patches in its layout.

published weights    python test.py -m cae1d --device 0 --checkpoint results/weights/cae1d_8bpppc.pth.tar
a run of train.py    python test.py -m sscnet --device 0 --checkpoint results/trains/RUN/best.pth.tar
a GPU, in fp16       python test.py -m cae1d --device 0 --half --checkpoint FILE

Every image is coded to bytes and back. Means go to SAVE_DIR/<name>.json (for python -m compressai.utils.plot),
the figures of each image to <name>.csv, pictures of the worst, median and best image to <name>.png.
<name> is the run's folder with -best, -last or -final, or the checkpoint's file name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from models import aliases, models, names_for_help
from utils.errors import CheckpointError, DatasetError, UsageError, run_script
from utils.options import PRECISIONS, HelpFormatter, natural_number, positive_int, seed_number

# torch and what needs it are imported where they are used: --help must not wait for them.

DOWNLOAD_HINT = (
    "give a file of train.py, or published weights: `python -m models.zoo` lists them, "
    "`python -m models.zoo {model}` fetches results/weights/{file}"
)
FULL_DATASET = 11_483  # patches of HySpecNet-11k, over all splits of a mode
PUBLISHED_CAUTION = (
    "published: authors' figures on this split. How they averaged over batches is not known: "
    "a PSNR pooled over batches lies below the mean over images."
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="test.py",
        description=__doc__,
        formatter_class=HelpFormatter,
        epilog=names_for_help(),
    )
    add = parser.add_argument
    add("--device", default="0", help="cpu, or the number of a GPU")
    add(
        "--batch-size",
        type=positive_int,
        default=64,
        help="patches coded at once; no figure but the times depends on it",
    )
    add("-n", "--num-workers", type=natural_number, default=0, help="processes that load data")
    add("-d", "--dataset", default="./datasets/hyspecnet-11k/", help="folder that holds patches/ and splits/")
    add("--mode", default="easy", help="the splits to use: easy, hard, or another folder under splits/")
    add("--checkpoint", default=None, help="weights to test")
    add(
        "--half",
        action="store_true",
        help="run the model in fp16, weights too, for GPUs; measured in float32 all the same",
    )
    add(
        "--precision",
        default="fp32",
        choices=PRECISIONS,
        help="run the model under autocast, its weights in float32; fp16 is for GPUs",
    )
    add("--save-dir", default="./results/tests/", help="folder for the results")
    add("--seed", type=seed_number, default=10587, help="seed of all random generators")
    add("-m", "--model", default="cae1d", choices=[*models, *aliases], metavar="MODEL", help="see the list below")
    add("--num-channels", type=positive_int, default=202, help="bands of the patches")
    add("--split", default="test", help="the split to test on: train, val or test")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    args.model = aliases.get(args.model, args.model)
    from models.zoo import published

    row = next((row for row in published() if row.model == args.model), None)
    hint = DOWNLOAD_HINT.format(model=args.model, file=row.file) if row else "give a file of train.py"
    if args.checkpoint is None:
        raise UsageError(f"no --checkpoint: {hint}")
    if not Path(args.checkpoint).exists():
        raise CheckpointError(f"{args.checkpoint}: no such checkpoint: {hint}")
    if args.half and args.precision != "fp32":
        raise UsageError(f"--half is fp16 without autocast, --precision {args.precision} is autocast: give one of them")

    import torch
    from torch.utils.data import DataLoader

    from datasets import HySpecNet11k
    from training.run_folder import read_settings
    from utils.checkpoint import load_state_dict, load_weights
    from utils.devices import check_precision, use_device
    from utils.environment import configure_backends, seed_everything
    from utils.evaluation import average, evaluate
    from utils.results import format_table, result_content, write_csv, write_json

    trained = read_settings(Path(args.checkpoint).resolve().parent).get("model", args.model)
    if trained != args.model:
        raise UsageError(f"{args.checkpoint} is of a run of {trained}: give -m {trained}")
    # float32 means float32 here: the published figures know no TF32.
    configure_backends(deterministic=False, tf32=False)
    device = use_device(args.device, "--device")
    check_precision(args.precision, device)
    seed_everything(args.seed)
    state_dict = load_state_dict(args.checkpoint)
    model = models[args.model](src_channels=args.num_channels)
    load_weights(model, state_dict, args.checkpoint)
    model = model.eval().to(device, torch.float16 if args.half else torch.float32)

    dataset = HySpecNet11k(args.dataset, args.mode, args.split, num_channels=args.num_channels)
    try:
        model.check_size(torch.empty(1, *dataset.image_shape, device="meta"))
    except ValueError as error:
        raise DatasetError(f"{args.split} images of {args.dataset}: {error}") from None
    loader = DataLoader(dataset, args.batch_size, num_workers=args.num_workers, pin_memory=device.type == "cuda")
    print(f"testing {args.checkpoint} as {args.model} on {len(dataset)} images", flush=True)
    results = evaluate(model, progress_bar(loader), device, args.precision)
    metrics = average(results)

    name = result_name(args.checkpoint)
    save_dir = Path(args.save_dir)
    paths = [save_dir / f"{name}.{ending}" for ending in ("json", "csv", "png")]
    content = result_content(
        name, f"{args.model}, test", metrics, args.num_channels, settings_of(args, dataset, device)
    )
    write_json(paths[0], content)
    write_csv(paths[1], [{"image": image, **row} for image, row in zip(dataset.names, results, strict=True)])
    write_picture(paths[2], model, dataset, results, device, args.precision)

    is_published_split = row is not None and is_full_easy_test(args, len(dataset))
    print(format_table(metrics, {"bpppc": row.bpppc, "psnr": row.psnr} if is_published_split else None))
    if is_published_split:
        print(PUBLISHED_CAUTION)
    if "ssim" not in metrics:
        print("SSIM is left out: it needs images of at least 11 pixels a side")
    print("written: " + ", ".join(str(path) for path in paths))
    return 0


def result_name(checkpoint: str) -> str:
    """What the result files of a checkpoint are called, without their ending."""
    path = Path(checkpoint).resolve()
    stem = path.name.removesuffix(".tar").removesuffix(".pth")
    return f"{path.parent.name}-{stem}" if stem in ("last", "best", "final") else stem


def progress_bar(loader):
    """The batches of `loader`, with a bar over its images where someone watches."""
    from tqdm import tqdm

    with tqdm(total=len(loader.dataset), unit="image", leave=False, disable=not sys.stdout.isatty()) as bar:
        for x in loader:
            yield x
            bar.update(len(x))


def is_full_easy_test(args, num_images: int) -> bool:
    """Whether the images are the ones that the published figures are of."""
    from datasets.hyspecnet11k import read_split

    if (args.mode, args.split, args.num_channels) != ("easy", "test", 202):
        return False
    splits = Path(args.dataset) / "splits" / "easy"
    others = [splits / f"{split}.csv" for split in ("train", "val")]
    if not all(path.is_file() for path in others):
        return False
    return num_images + sum(len(read_split(path)) for path in others) == FULL_DATASET


def settings_of(args, dataset, device) -> dict:
    """What the result depends on; the data set by name, no path of this machine."""
    from utils.environment import provenance

    arguments = {**vars(args), "checkpoint": Path(args.checkpoint).name}
    del arguments["dataset"], arguments["save_dir"]
    return {
        "dataset": dataset.root_dir.resolve().name,
        "images": len(dataset),
        "split_sha256": dataset.fingerprint(),
        "arguments": arguments,
        **provenance(device),
    }


def write_picture(path: Path, model, dataset, results: Sequence[Mapping], device, precision: str) -> None:
    """Picture the worst, the median and the best image by PSNR; each once if there are fewer than three."""
    from utils.devices import autocast
    from utils.files import atomic_write
    from utils.plots import test_figure

    order = sorted(range(len(results)), key=lambda index: results[index]["psnr"])
    ranks = {"worst": order[0], "median": order[(len(order) - 1) // 2], "best": order[-1]}
    dtype = next(model.parameters()).dtype
    cases = []
    for index in dict.fromkeys(ranks.values()):
        rank = ", ".join(name for name, other in ranks.items() if other == index)
        x = dataset[index]
        with autocast(precision, device):
            x_hat = model.decompress(**model.compress(x[None].to(device, dtype)))["x_hat"][0].float().cpu()
        cases.append((f"{rank}: {dataset.names[index]}, {results[index]['psnr']:.2f} dB", x.numpy(), x_hat.numpy()))
    with atomic_write(path) as file:
        test_figure(cases).savefig(file, dpi=100, format="png")


if __name__ == "__main__":
    run_script(main)
