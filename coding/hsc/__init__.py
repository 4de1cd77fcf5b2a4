"""The file `.hsc`: container, header, records of tiles."""
