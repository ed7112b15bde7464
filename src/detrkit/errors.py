"""The errors that a user can cause, as one tree of exceptions.

    DetrkitError
    ├── ConfigurationError   an option, a variant or a combination of settings that cannot work
    │   ├── OptionError      a single option or setting with a value that cannot be
    │   └── MissingPackageError  a package that is needed for what was asked and not installed
    ├── DataError            an image or an annotation that cannot be used
    ├── CheckpointError      a weight file that cannot be read or does not fit the model
    ├── OutputError          a file or folder that cannot be written
    ├── NonFiniteError       a model or its loss that produced NaN or infinity
    ├── WorkerError          a process that reads images and was ended by the system
    └── LostProcessError     one of several processes that train together has ended

Every message is one sentence (or two) that names the file or value and says what is wrong with it and what to do. What is said of data
ends with a period, as findings and notes do, since there may be more to say; what refuses an option, a checkpoint or a file for results
does not. The command line prints it and exits with code 2. A bug in detrkit itself is never a `DetrkitError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DetrkitError(Exception):
    """Base of every error that a user can fix.

    Args:
        message: one sentence. If it is the traceback that a data loader's worker process passes on, its last line becomes the message.
    """

    def __init__(self, message: str) -> None:
        if "Original Traceback" in message:
            message = message.strip().splitlines()[-1].partition(": ")[2]
        super().__init__(message)


class ConfigurationError(DetrkitError, ValueError):
    """An option, a variant name or a combination of settings that cannot work."""


class OptionError(ConfigurationError):
    """Options or settings with values that cannot be.

    Args:
        message: one sentence that names them as Python does, such as `batch_size`.
        options: these names, so that the command line can name them as they are written there.
    """

    def __init__(self, message: str, *options: str) -> None:
        super().__init__(message)
        self.options = options


class MissingPackageError(ConfigurationError):
    """A package that detrkit needs only for what was asked, and that is not installed; the message has the command that installs it."""


class DataError(DetrkitError, ValueError):
    """An image, an annotation or a data set that cannot be used."""


class CheckpointError(DetrkitError, ValueError):
    """A weight file that cannot be read, or whose tensors do not fit the model."""


class OutputError(DetrkitError, OSError):
    """A file or folder that cannot be written."""


class NonFiniteError(DetrkitError, ArithmeticError):
    """A model or its loss produced NaN or infinity; the message names the image and the term where it began.

    Args:
        message: what happened.
        image: index of the image in its batch, if a single one is to blame.
    """

    def __init__(self, message: str, image: int | None = None) -> None:
        super().__init__(message)
        self.image = image


class WorkerError(DetrkitError, RuntimeError):
    """A process that reads images was ended by the system, mostly for lack of memory."""


class LostProcessError(DetrkitError, RuntimeError):
    """One of several processes that train together has ended, so the others cannot go on."""


def closest(name: str, allowed: Iterable[str], *, listing: str | None = None) -> str:
    """The end of a message about an unknown name: suggests the closest valid name, or lists all valid names.

    Args:
        name: the unknown name.
        allowed: the valid names.
        listing: where to find all valid names, if they are too many for a message.

    Returns:
        "did you mean 'x'?" if one is similar, otherwise `listing`, or "choose one of 'x', 'y'".
    """
    names = list(allowed)
    similar = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if similar:
        return f"did you mean '{similar[0]}'?"
    if listing is not None:
        return listing
    return "choose one of " + ", ".join(f"'{candidate}'" for candidate in names)
