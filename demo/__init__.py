"""The evidence of `make demo`."""
