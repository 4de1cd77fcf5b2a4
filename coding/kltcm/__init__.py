"""`klt-cm`: spectral prediction or transform, and entropy coding by mixed contexts in whole numbers."""
