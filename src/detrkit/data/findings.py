"""What a reader finds in many entries of a data set: faults become one error, changes become notes, both with a count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from detrkit.errors import DataError

_PLACES_SHOWN = 3


class Faults:
    """What cannot be used, gathered by kind, so that one message names the first places and says how many there are."""

    def __init__(self, source: str = "") -> None:
        """Begins without any.

        Args:
            source: what the message begins with, where all places lie in one file.
        """
        self._source = source and f"{source}: "
        self._found: dict[str, list[tuple[str, str]]] = defaultdict(list)

    def add(self, kind: str, where: str, sentence: str) -> None:
        """One fault.

        Args:
            kind: faults of the same kind are counted together.
            where: the file and line.
            sentence: what is wrong there and the remedy; it continues `where`.
        """
        self._found[kind].append((where, sentence))

    def check(self) -> None:
        """Nothing, if there was no fault.

        Raises:
            DataError: the first fault, how many there are of its kind, and how many of other kinds.
        """
        if not self._found:
            return
        first, *other_kinds = self._found.values()
        where, sentence = first[0]
        others = [place for place in dict.fromkeys(place for place, _ in first) if place != where]
        also = f", also in {' and '.join(others[: _PLACES_SHOWN - 1])}" if others else ""
        more = f" ({len(first)} of this kind{also}.)" if len(first) > 1 else ""
        if other_kinds:
            count = sum(map(len, other_kinds))
            more += f" ({count} of other kinds, the first: {other_kinds[0][0][0].removesuffix(':')}.)"
        raise DataError(f"{self._source}{where} {sentence}{more}")


class Note(str):
    """A sentence about what a reader changed, which also says what it is about; for everybody else it is a text.

    Args:
        text: the sentence.
        kind: a word that stays the same, such as "no area"; empty where nobody asks for it.
        count: number of whatever the sentence counts.
        files: names of the pictures or annotation files concerned.
    """

    __slots__ = ("files", "kind", "number")
    kind: str
    number: int  # not `count`, which is a method of every text
    files: tuple[str, ...]

    def __new__(cls, text: str, kind: str = "", *, count: int = 1, files: Iterable[str] = ()) -> Note:
        note = super().__new__(cls, text)
        note.kind, note.number, note.files = kind, count, tuple(dict.fromkeys(files))
        return note


# A sentence from the number of changes and the first place.
Sentence = Callable[[int, str], str]


class Changes:
    """What a reader changed by itself, as the places of each kind."""

    def __init__(self) -> None:
        self._places: dict[str, list[tuple[str, str]]] = defaultdict(list)

    def add(self, kind: str, where: str, file: str | None = None) -> None:
        """One change of this kind.

        Args:
            kind: changes of the same kind are counted together.
            where: what the note names if it is the first.
            file: that it is in; by default `where` names it.
        """
        self._places[kind].append((where, where if file is None else file))

    def notes(self, sentences: Mapping[str, Sentence]) -> list[str]:
        """One `Note` for each kind that occurred, in the order of the sentences."""
        return [
            Note(
                sentence(len(places), places[0][0]),
                kind,
                count=len(places),
                files=[file for _, file in places],
            )
            for kind, sentence in sentences.items()
            if (places := self._places.get(kind))
        ]
