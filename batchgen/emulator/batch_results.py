"""The file of a batch's results, written as its lines are answered."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from batchgen.emulator.batch_lines import Line


class Writer:
    """The results as they grow. Holds one line back, so that a line may swap its key with the one before it."""

    def __init__(self, path: Path, *, inline: bool) -> None:
        self.path = path
        self.size_bytes = 0
        self.digest = hashlib.sha256()
        self._inline = inline
        self._name = b'"metadata"' if inline else b'"key"'
        self._held: tuple[Any, Line] | None = None
        self._file = path.open("wb")

    def put(self, line: Line) -> None:
        if line.fault == "line_missing":
            return
        key = line.key
        if self._held is not None:
            held_key, held = self._held
            if "line_crossed" in (line.fault, held.fault) and held_key == held.key:
                key, held_key = held_key, key
            self._write(held_key, held)
        self._held = (key, line)

    def close(self) -> None:
        if self._held is not None:
            self._write(*self._held)
            self._held = None
        self._file.close()

    def _write(self, key: Any, line: Line) -> None:
        """Which member of a line comes first is not documented: both are met."""
        if line.fault == "line_unknown_key":
            key = f"unknown-{key}"
        if key is None or line.fault == "line_keyless":
            whole = b"{" + line.body + b"}"
        else:
            named = self._name + b":" + json.dumps(key, ensure_ascii=False).encode("utf-8", "replace")
            first, second = (named, line.body) if line.n % 2 else (line.body, named)
            whole = b"{" + first + b"," + second + b"}"
        if line.fault == "line_cut" and not self._inline:  # an operation is always whole
            whole = whole[: len(whole) * 3 // 5]
        for _ in range(2 if line.fault == "line_doubled" else 1):
            self._file.write(whole + b"\n")
            self.digest.update(whole + b"\n")
            self.size_bytes += len(whole) + 1
