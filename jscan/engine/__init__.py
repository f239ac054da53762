"""Engines: where the work of a run is done. They know nothing of images."""
