"""The codec `klt-cm`: spectral transform or prediction, and entropy coding with mixed contexts."""
