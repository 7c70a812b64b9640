"""Finds images of a job that look alike, with perceptual hashes of 64 bits and a search for those that differ in a few
bits. Pure.

The hash is cut into four bands of 16 bits. Two hashes that differ in at most seven bits differ in at most one bit of
some band, so looking at the 17 nearest values of each band finds all of them (multi-index hashing: Norouzi, Punjani,
Fleet, CVPR 2012). Images with the same composition, such as two mugs on white, have similar hashes; the mean brightness
and colours of some fields tell them apart.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import replace

from batchgen.item import Check
from batchgen.records import Verdict, sample_key
from batchgen.review.check_type import Finding
from batchgen.review.checks import check_type, ruling_of

BANDS = 4
BAND_BITS = 16
FIELDS = 8 * 8 + 3 * 3 * 3  # bytes: the brightness of 8 x 8 fields, the red, green and blue of 3 x 3
TOLERANCE = 12  # of 255, in any of them: caused by compression and scaling
_MASK = (1 << BAND_BITS) - 1
_NEAR = (0, *(1 << bit for bit in range(BAND_BITS)))
_ABANDONED = ""  # owner of an image that was replaced


class _Chains:
    """Slots by a 16-bit key: chains in two arrays, which take four bytes per slot."""

    def __init__(self) -> None:
        self._last = array("i", [-1]) * (1 << BAND_BITS)
        self._before = array("i")

    def append(self, key: int) -> None:
        self._before.append(self._last[key])
        self._last[key] = len(self._before) - 1

    def of(self, key: int) -> Iterator[int]:
        """The slots of a key, the latest first."""
        slot = self._last[key]
        while slot >= 0:
            yield slot
            slot = self._before[slot]


class TwinIndex:
    """The images of one job that have been checked: the latest of each sample. About 200 bytes each."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._fields = bytearray()
        self._owners: list[str] = []
        self._bands = [_Chains() for _ in range(BANDS)]
        self._by_owner = _Chains()

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, verdict: Verdict) -> None:
        """Add an image from an earlier verdict of `twin`. Without a hash, as for a blank image, it has no twin."""
        known, owner = _known_of(verdict), sample_key(verdict.item_id, verdict.n)
        for slot in self._by_owner.of(hash(owner) & _MASK):
            if self._owners[slot] == owner:
                self._owners[slot] = _ABANDONED
        if known is not None:
            self._append(owner, *known)

    def judge(self, verdict: Verdict, check: Check) -> Verdict:
        """Complete the verdict of `twin` by comparing the image with all others in the index, then add it. An image is
        never compared with an earlier one of the same sample, which it replaces."""
        known, owner = _known_of(verdict), sample_key(verdict.item_id, verdict.n)
        distance = check_type(check.name).values(dict(check.options))["distance"]
        found = None if known is None or verdict.reason else self._find(owner, *known, distance)
        self.add(verdict)
        if found is None:
            return verdict
        finding = Finding(reason="twin", message=f"looks like the image of {found[0]}", score=found[1])
        details = {**verdict.details, "twin": found[0]}
        ruling = ruling_of(check, finding)
        return replace(
            verdict, ruling=ruling, reason="twin", message=finding.message, score=finding.score, details=details
        )

    def _append(self, owner: str, hashed: int, fields: bytes) -> None:
        self._hashes.append(hashed)
        self._fields += fields
        self._owners.append(owner)
        self._by_owner.append(hash(owner) & _MASK)
        for number, chains in enumerate(self._bands):
            chains.append(hashed >> number * BAND_BITS & _MASK)

    def _find(self, owner: str, hashed: int, fields: bytes, distance: int) -> tuple[str, int] | None:
        """Any sample whose image is at least this similar, and the distance."""
        for number, chains in enumerate(self._bands):
            band = hashed >> number * BAND_BITS & _MASK
            for bit in _NEAR:
                for slot in chains.of(band ^ bit):
                    away = (self._hashes[slot] ^ hashed).bit_count()
                    if away <= distance and self._owners[slot] not in (owner, _ABANDONED):
                        at = slot * FIELDS
                        if _match(self._fields[at : at + FIELDS], fields):
                            return self._owners[slot], away
        return None


def _match(left: bytes | bytearray, right: bytes) -> bool:
    return all(abs(a - b) <= TOLERANCE for a, b in zip(left, right, strict=True))


def _known_of(verdict: Verdict) -> tuple[int, bytes] | None:
    """The hash and fields in the details of a `twin` verdict."""
    hashed, fields = verdict.details.get("hash"), verdict.details.get("fields")
    return (int(hashed, 16), bytes.fromhex(fields)) if hashed and fields else None
