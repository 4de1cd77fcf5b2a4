"""CCSDS 123.0-B-2, the standard for lossless and near-lossless compression on board of spacecraft."""
