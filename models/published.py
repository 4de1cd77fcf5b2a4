"""The table `published.csv` of the weights that the authors of HySpecNet-11k trained and published.

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
        verified: whether the architecture in `models/` was confirmed against published code.
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
    """Return the rows of the table that have weights. The other rows only hold published figures."""
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
