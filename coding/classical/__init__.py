"""Codecs that learn nothing from other images: `classical[name]` is the family of a name."""

from __future__ import annotations

from coding.base import Family
from coding.classical.aec import Aec
from coding.classical.ccsds123 import Ccsds123
from coding.classical.jpeg2000 import Htj2k, Jpeg2000, Jpeg2000Components
from coding.classical.jpegls import JpegLs
from coding.classical.jpegxl import JpegXlLossless, JpegXlLossy
from coding.classical.klt import KltJpeg2000, KltJpegxl, KltSperr, PcaFloat32
from coding.classical.sperr import SperrBounded, SperrLossy
from coding.classical.sz3 import Sz3Bounded, Sz3Lossy
from coding.classical.zfp import ZfpBounded, ZfpLossy
from coding.kltcm.codec import KltCm

classical: dict[str, Family] = {
    "jpeg2000": Family(lossy=Jpeg2000, lossless=Jpeg2000),
    "jpeg2000-mc": Family(lossy=Jpeg2000Components, lossless=Jpeg2000Components),
    "htj2k": Family(lossy=Htj2k, lossless=Htj2k),
    "jpegls": Family(lossy=JpegLs.of_step, bounded=JpegLs, lossless=JpegLs),
    "jpegxl": Family(lossy=JpegXlLossy, lossless=JpegXlLossless),
    "aec": Family(lossless=Aec),
    "ccsds123": Family(lossy=Ccsds123.of_step, bounded=Ccsds123, lossless=Ccsds123),
    "sperr": Family(lossy=SperrLossy, bounded=SperrBounded),
    "sz3": Family(lossy=Sz3Lossy, bounded=Sz3Bounded),
    "zfp": Family(lossy=ZfpLossy, bounded=ZfpBounded, lossless=ZfpBounded),
    "klt-jpeg2000": Family(lossy=KltJpeg2000),
    "klt-jpegxl": Family(lossy=KltJpegxl),
    "klt-sperr": Family(lossy=KltSperr),
    "klt-cm": Family(lossy=KltCm, bounded=KltCm.of_bound, lossless=KltCm.of_bound),
    "pca-float32": Family(lossy=PcaFloat32),
}
"""Name -> family, by the names of the README."""


def classical_family(name: str, peak: float) -> Family:
    """The family of a name; steps are in units of the samples, so that none of them needs to know the peak."""
    return classical[name]
