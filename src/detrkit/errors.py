"""What can go wrong because of what a user gave, as one tree of exceptions.

DetrkitError
├── ConfigurationError   an option, a variant or a combination of settings that cannot work
├── DataError            an image or an annotation that cannot be used
├── CheckpointError      a weight file that cannot be read or does not fit the model
├── OutputError          a place that cannot be written
└── NonFiniteError       training left the finite numbers

Every message is one sentence (or two) that names the file or value, says what is wrong with it and what to do. The command line prints it
and ends with exit code 2. A mistake inside detrkit itself is never a `DetrkitError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DetrkitError(Exception):
    """Base of every error that a user can mend.

    Args:
        message: one sentence. A data loader's worker hands its error over as a printed traceback; then its last line is the sentence.
    """

    def __init__(self, message: str) -> None:
        if "Original Traceback" in message:
            message = message.strip().splitlines()[-1].partition(": ")[2]
        super().__init__(message)


class ConfigurationError(DetrkitError, ValueError):
    """An option, a variant name or a combination of settings that cannot work."""


class DataError(DetrkitError, ValueError):
    """An image, an annotation or a data set that cannot be used."""


class CheckpointError(DetrkitError, ValueError):
    """A weight file that cannot be read, or whose tensors do not fit the model."""


class OutputError(DetrkitError, OSError):
    """A file or folder that cannot be written."""


class NonFiniteError(DetrkitError, ArithmeticError):
    """A model or its loss produced NaN or infinity; the message names the image and the term that it began in.

    Args:
        message: what happened.
        image: position of the image in its batch, where one is to blame.
    """

    def __init__(self, message: str, image: int | None = None) -> None:
        super().__init__(message)
        self.image = image


def closest(name: str, allowed: Iterable[str]) -> str:
    """A sentence part that helps after a wrong name: the nearest allowed one, or all of them.

    Args:
        name: what was given.
        allowed: the names that would have been right.

    Returns:
        "did you mean 'x'?" where one is near, else "choose one of 'x', 'y'".
    """
    names = list(allowed)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return "choose one of " + ", ".join(f"'{candidate}'" for candidate in names)
