"""The table of published weights, `published.csv`: the authors of HySpecNet-11k trained and published them.

Rate and PSNR are the publishers' figures on the HySpecNet-11k test set, easy split.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class Published:
    """A row of the table.

    Attributes:
        model: name in `models.models`.
        method: name of the method in the literature.
        file: name of the file; without `.pth.tar` it is an alias of the model.
        bpppc: rate in bits per pixel per channel.
        psnr: mean PSNR in dB on the test set, easy split.
        url: address of the file.
        reference: the paper of the method.
        verified: whether the architecture in `models/` is known to be the one of these weights.
    """

    model: str
    method: str
    file: str
    bpppc: float
    psnr: float
    url: str
    reference: str
    verified: bool

    @property
    def stem(self) -> str:
        """The name of the file without `.pth.tar`."""
        return self.file.removesuffix(".pth.tar")


def read_published() -> list[Published]:
    """Read the rows of the table that have weights. The others are published figures alone."""
    with open(TABLE, encoding="utf-8", newline="") as file:
        return [
            Published(
                model=row["model"],
                method=row["method"],
                file=row["file"],
                bpppc=float(row["bpppc"]),
                psnr=float(row["psnr"]),
                url=row["url"],
                reference=row["reference"],
                verified=row["verified"] == "yes",
            )
            for row in csv.DictReader(file)
            if row["file"]
        ]
