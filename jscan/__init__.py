"""jscan: which parts of an image have another JPEG history than the rest."""

__version__ = "0.1.0"
