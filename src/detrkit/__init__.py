"""Object detection with transformers: the DETR family, trained, evaluated and run from one place."""

__version__ = "0.1.0"
