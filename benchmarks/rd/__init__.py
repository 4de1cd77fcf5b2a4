"""Rate and distortion of learned and classical codecs on the same images."""
