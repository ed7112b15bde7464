"""One thing that an inspection found, and the sentences about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from detrkit.data.dataset import DetectionDataset
from detrkit.data.inspection.kinds import KINDS, Severity
from detrkit.data.wording import first_few


@dataclass(frozen=True)
class Split:
    """A split as the checks get it.

    Attributes:
        name: `train`, `val` or whatever the data set calls it.
        dataset: its images and objects.
        for_training: whether it is the one to learn from; the others are for evaluation.
    """

    name: str
    dataset: DetectionDataset
    for_training: bool = False

    def files(self, indices: Iterable[int]) -> tuple[str, ...]:
        """The names of images, each once, in the order of the indices."""
        return tuple(dict.fromkeys(self.dataset.image_name(int(index)) for index in indices))


@dataclass(frozen=True)
class Finding:
    """One thing that an inspection found.

    Attributes:
        kind: what it is, as a word that stays the same; `KINDS` has them all.
        severity: "error" where training would refuse the data or be spoilt by them, "warning" where results would be worse or figures wrong,
            "note" for what is worth knowing.
        split: the split that it is about; several are joined by ", ".
        message: one sentence with the count and the first places.
        remedy: one sentence.
        files: the names of all files concerned, as the annotations give them.
        count: of whatever the message counts.
    """

    kind: str
    severity: Severity
    split: str
    message: str
    remedy: str
    files: tuple[str, ...] = ()
    count: int = 1

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {**asdict(self), "files": list(self.files)}


def finding(
    kind: str,
    split: str,
    message: str,
    *,
    count: int = 1,
    files: Iterable[str] = (),
    values: Mapping[str, object] | None = None,
) -> Finding:
    """A finding with the severity and the remedy of its kind.

    Args:
        kind: a key of `KINDS`.
        split: the split's name.
        message: what was found.
        count: how many.
        files: names of the files concerned.
        values: what the placeholders in the remedy stand for.
    """
    known = KINDS[kind]
    remedy = known.remedy
    for name, value in (values or {}).items():
        remedy = remedy.replace("{" + name + "}", str(value))
    return Finding(kind, known.severity, split, message, remedy, tuple(files), count)


def places(names: Sequence[str]) -> str:
    """The end of a sentence that names the first few of what was counted."""
    return f"({first_few(names)})"
