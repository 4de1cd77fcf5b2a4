"""The `.hsc` file format: container, header, records of tiles."""
