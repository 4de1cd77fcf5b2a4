"""Models of the registry as codecs."""
