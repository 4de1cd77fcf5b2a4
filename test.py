"""Test a checkpoint on one split of HySpecNet-11k, or of patches in its layout.

published weights    python test.py -m cae1d --device 0 --checkpoint results/weights/cae1d_8bpppc.pth.tar
a run of train.py    python test.py -m sscnet --device 0 --checkpoint results/trains/RUN/best.pth.tar
a GPU, in fp16       python test.py -m cae1d --device 0 --half --checkpoint FILE

Every image is coded to bytes and back. Means go to SAVE_DIR/<name>.json (for python -m compressai.utils.plot),
the metrics of each image to <name>.csv, pictures of the worst, median and best image to <name>.png.
<name> is the run's folder with -best, -last or -final, or the name of the weight file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from models import aliases, models, names_for_help
from models.published import Published, read_published
from utils.errors import CheckpointError, UsageError
from utils.options import PRECISIONS, HelpFormatter, natural_number, positive_int, seed_number
from utils.scripts import lasting_imports, run_script

DOWNLOAD_HINT = (
    "give a file of train.py, or published weights: `python -m models.zoo` lists them, "
    "`python -m models.zoo {model}` fetches results/weights/{file}"
)
PUBLISHED_CAUTION = (
    "published: the authors' figures on this split. How they averaged over batches is not known; "
    "a PSNR pooled over batches is lower than the mean over images."
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
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
        help="patches coded at once; affects the times only",
    )
    add("-n", "--num-workers", type=natural_number, default=0, help="threads that load data")
    add("-d", "--dataset", default="./datasets/hyspecnet-11k/", help="folder that holds patches/ and splits/")
    add("--mode", default="easy", help="the splits to use: easy, hard, or another folder under splits/")
    add("--checkpoint", default=None, help="weights to test: published, or of a run of train.py")
    add(
        "--half",
        action="store_true",
        help="run the model, weights included, in fp16; metrics are in float32",
    )
    add(
        "--precision",
        default="fp32",
        choices=PRECISIONS,
        help="autocast of the model, whose weights stay float32; fp16 is for GPUs only",
    )
    add("--save-dir", default="./results/tests/", help="folder for the results")
    add("--seed", type=seed_number, default=10587, help="seed of all random generators")
    add("-m", "--model", default="cae1d", choices=[*models, *aliases], metavar="MODEL", help="see the list below")
    add("--num-channels", type=positive_int, default=202, help="number of bands")
    add("--split", default="test", help="the split to test on: train, val or test")
    add("--allow-overlap", action="store_true", help="allow patches that are in train, too")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, by default the command line."""
    return build_parser().parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Test with the arguments `argv`, by default the command line; return the exit status."""
    args = parse_args(argv)
    args.model = aliases.get(args.model, args.model)
    row = next((row for row in read_published() if row.model == args.model), None)
    check_flags(args, row)
    # Imported late, as it imports torch and --help must be quick.
    with lasting_imports():
        from benchmarks.testing import average, format_table, set_up

    test = set_up(args)
    count = len(test.dataset)
    print(f"testing {args.checkpoint} as {args.model} on {count} image{'s' * (count != 1)}", flush=True)
    results = test.run()
    metrics = average(results)
    paths = test.write(results, metrics)

    published = row if row and test.is_published_split() else None
    print(format_table(metrics, {"bpppc": published.bpppc, "psnr": published.psnr} if published else None))
    if published:
        print(PUBLISHED_CAUTION)
    if "ssim" not in metrics:
        print("SSIM is left out: it needs images of at least 11 x 11 pixels")
    print("written: " + ", ".join(str(path) for path in paths))
    return 0


def check_flags(args: argparse.Namespace, row: Published | None) -> None:
    """Validate what can be checked without torch.

    Args:
        args: from `parse_args`.
        row: published weights of the model, None if there are none.

    Raises:
        UsageError: no checkpoint is given, or flags contradict each other.
        CheckpointError: the checkpoint does not exist.
    """
    hint = DOWNLOAD_HINT.format(model=args.model, file=row.file) if row else "give a file of train.py"
    if args.checkpoint is None:
        raise UsageError(f"no --checkpoint: {hint}")
    if not Path(args.checkpoint).exists():
        raise CheckpointError(f"{args.checkpoint}: no such checkpoint: {hint}")
    if args.half and args.precision != "fp32":
        raise UsageError(f"--half is fp16 without autocast, --precision {args.precision} is autocast: give one of them")


if __name__ == "__main__":
    run_script(main)
