"""Devices that a user names and this machine may lack."""

from __future__ import annotations

import torch

from detrkit.errors import ConfigurationError


def check_device(device: torch.device | str) -> torch.device | str:
    """Refuses a GPU that this machine does not have; any other device is left to PyTorch.

    Raises:
        ConfigurationError: there is no such GPU.
    """
    kind, _, index = str(device).partition(":")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, True):
        offered = ", ".join(name for name, present in available.items() if present)
        raise ConfigurationError(f"the device '{device}' is not available: choose {offered}")
    if kind == "cuda" and index.isdigit() and int(index) >= torch.cuda.device_count():
        raise ConfigurationError(f"there is no '{device}': this machine has {torch.cuda.device_count()} CUDA devices")
    return device
