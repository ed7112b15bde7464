"""What a reader finds in many entries of a data set: faults become one error, changes become notes, both with a count."""

from __future__ import annotations

from collections import defaultdict

from detrkit.errors import DataError

_PLACES_SHOWN = 3


class Faults:
    """What cannot be used, gathered by kind, so that one message names the first places and says how many there are."""

    def __init__(self) -> None:
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
        raise DataError(f"{where} {sentence}{more}")


class Changes:
    """What a reader changed by itself, as the places of each kind."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, where: str) -> None:
        """One change of this kind, in this file and line."""
        self._places[kind].append(where)

    def notes(self, sentences: dict[str, str]) -> list[str]:
        """One sentence for each kind that occurred.

        Args:
            sentences: for each kind, the sentence with `{count}` and `{first}` in it.
        """
        return [
            # Not `format`: names of files in a sentence may contain braces.
            sentence.replace("{count}", str(len(self._places[kind]))).replace("{first}", self._places[kind][0])
            for kind, sentence in sentences.items()
            if self._places.get(kind)
        ]
