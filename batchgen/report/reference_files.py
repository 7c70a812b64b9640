"""Reference files as they were sent: found below the manifest's folder, and shown only while their content is the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from batchgen.errors import UsageError
from batchgen.references.local import References


@dataclass(frozen=True, slots=True)
class ReferenceFiles:
    """A source for thumbnails. folder: of the manifest, None when it is not known. paths: below it, by SHA-256."""

    folder: Path | None
    paths: Mapping[str, str]

    def open(self, sha256: str) -> IO[bytes]:
        """Raises FileNotFoundError, also when the file has changed since."""
        if self.folder is None or sha256 not in self.paths:
            raise FileNotFoundError(sha256)
        references = References(self.folder)
        path = os.path.join(references.folder, self.paths[sha256])
        references.expect_digest(path, sha256)
        try:
            return references.open_unchanged(path)
        except UsageError as error:
            raise FileNotFoundError(str(error)) from None
