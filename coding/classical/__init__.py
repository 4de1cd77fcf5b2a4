"""Classical codecs, which need no training; `coding.codecs` has their names."""
