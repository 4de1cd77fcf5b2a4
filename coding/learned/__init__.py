"""The codec `learned`: models of the registry with their weights."""
