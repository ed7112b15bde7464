"""Devices that a user names and this machine may lack."""

from __future__ import annotations

import torch

from detrkit.errors import ConfigurationError


def choose_device(device: str) -> str:
    """The device that "auto" stands for; any other device unchanged.

    Raises:
        ConfigurationError: this machine does not have the device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    kind, _, index = device.partition(":")
    if not available.get(kind, False) or (index and (kind != "cuda" or not index.isdigit())):
        offered = ", ".join(name for name, present in available.items() if present)
        raise ConfigurationError(f"the device '{device}' is not available: choose auto or {offered}")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise ConfigurationError(f"there is no '{device}': this machine has {torch.cuda.device_count()} CUDA devices")
    return device
