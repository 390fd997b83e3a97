"""What was ever put into a store, so that what is not there is known without a query.

Used by ``database`` where nobody else can write.  Most looks of a new volume's creation are
for what is not there (a tombstone, another volume of its name, the volume itself), and a
query costs a dozen times as much as this, most of it for giving the interpreter away.
"""

from __future__ import annotations

from collections.abc import Mapping

_BITS = 24
_MASK = (1 << _BITS) - 1


class Seen:
    """Values that records have or had, in 2 MiB however many they are (a Bloom filter).

    What was never noted is ruled out, but for a few by chance: 1 in 80 beside a million
    values, 1 in 7 beside four million.  Nothing is ever taken out.  One thread notes at a
    time, others may look meanwhile.
    """

    def __init__(self) -> None:
        self._bits = bytearray(1 << _BITS - 3)

    def note(self, kind: str, values: Mapping[str, str]) -> None:
        """A record is put, with these values of its id and of its indexed fields."""
        for field, value in values.items():
            first, second = _places(kind, field, value)
            self._bits[first >> 3] |= 1 << (first & 7)
            self._bits[second >> 3] |= 1 << (second & 7)

    def rules_out(self, kind: str, values: Mapping[str, str]) -> bool:
        """Whether no record has all these values, for certain."""
        for field, value in values.items():
            first, second = _places(kind, field, value)
            if not (self._bits[first >> 3] >> (first & 7) & 1):
                return True
            if not (self._bits[second >> 3] >> (second & 7) & 1):
                return True
        return False


def _places(kind: str, field: str, value: str) -> tuple[int, int]:
    hashed = hash((kind, field, value))
    return hashed & _MASK, hashed >> _BITS & _MASK
