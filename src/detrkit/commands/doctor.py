"""`detrkit doctor`."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = ("torch", "torchvision", "lightning", "numpy", "numba", "triton", "supervision", "faster-coco-eval")


def doctor() -> None:
    """Show what this installation and this computer can do: versions, devices, precisions, and how deformable attention runs.

    What is wrong with a data set: detrkit inspect.
    """
    import torch

    from detrkit import __version__
    from detrkit.errors import ConfigurationError
    from detrkit.layers.sampling.operator import ENVIRONMENT_VARIABLE, choice, implementations
    from detrkit.terminal import add_texts, narrow_table, terminal

    console = terminal()
    versions = narrow_table("versions")
    add_texts(versions, "package", "version")
    versions.add_row("detrkit", __version__)
    versions.add_row("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in PACKAGES:
        versions.add_row(name, _version(name))
    console.print(versions)

    devices = narrow_table("devices")
    add_texts(devices, "device", "description", "precisions", "deformable attention", "why")
    for device, description, precisions in _devices():
        try:
            chosen = choice(torch.device(device), torch.float32)
            devices.add_row(device, description, precisions, chosen.name, chosen.reason)
        except ConfigurationError as problem:  # the environment requests what cannot run: the tables still help
            devices.add_row(device, description, precisions, "none", str(problem))
    console.print(devices)

    table = narrow_table("implementations of deformable attention")
    add_texts(table, "name", "usable", "runs on", "precisions", "why")
    for each in implementations():
        table.add_row(
            each.name, "yes" if each.usable else "no", ", ".join(each.devices) or "any", each.precisions, each.reason
        )
    console.print(table)
    console.print(f"To choose another implementation, set {ENVIRONMENT_VARIABLE} to its name.")


def _version(package: str) -> str:
    if package == "torch":  # its own version string says what it was built for
        import torch

        return str(torch.__version__)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[tuple[str, str, str]]:
    """Name, description and precisions of every device that training and prediction can use."""
    import torch

    from detrkit.data.wording import counted

    threads = f"{platform.processor() or platform.machine()}, {counted(torch.get_num_threads(), 'thread')}"
    devices = [("cpu", threads, "float32, bf16")]
    for index in range(torch.cuda.device_count()):
        with torch.cuda.device(index):  # the next call asks about the current device
            half = ", bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
        memory = torch.cuda.get_device_properties(index).total_memory / 1024**3
        devices.append((f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {memory:.0f} GB", f"float32{half}"))
    if torch.backends.mps.is_available():
        devices.append(("mps", "Apple GPU", "float32"))
    return devices
