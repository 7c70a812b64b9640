"""The folder of a job on this machine, with its state and the spool for what has just come. It is here wherever the
images are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from batchgen.errors import StoreError
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.store.local_folder import plain_folder
from batchgen.store.spool import FILE_MODE, EmergencySpool, SpoolFile, disk_error, sync_folder

TURNS = "turns"
SPOOL = "spool"


class JobFolder:
    """The folder of a job. The paths it takes are relative to the folder."""

    def __init__(self, folder: Path, spool: str = SPOOL) -> None:
        """spool: the name of its folder; each of several processes has its own."""
        self.folder = folder
        self.root = str(folder)
        self.spool = os.path.join(self.root, STATE_FOLDER, spool)
        self.emergency_spool = EmergencySpool(self.root, os.path.join(self.root, STATE_FOLDER), self.spool)

    def prepare(self) -> None:
        """Create the folders and prove that they can be written to and synced, before anything is paid for. Raises
        StoreError."""
        try:
            created = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            for folder in created:
                sync_folder(str(folder.parent))
            for part in (STATE_FOLDER, os.path.join(STATE_FOLDER, os.path.basename(self.spool))):
                self.plain_folder(part, 0o700)
            name = f"probe-{os.getpid()}"
            Path(self.spooled(name)).unlink(missing_ok=True)  # left by a process with this number that died
            probe = SpoolFile(self.spool, name)
            probe.write(b"batchgen")
            probe.sync()
            sync_folder(self.spool)
            os.unlink(probe.path)
            self.emergency_spool.note_folder_identity()
        except OSError as error:
            raise disk_error(error, self.root) from None

    def plain_folder(self, part: str, mode: int = 0o755) -> str:
        """Create one of batchgen's folders inside the job folder. Raises StoreError."""
        return plain_folder(self.root, part, mode)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def spool_file(self, attempt: int, k: int) -> SpoolFile:
        return SpoolFile(self.spool, f"{attempt}.{k}", self.emergency_spool, mode=FILE_MODE)

    def reserve_space(self) -> None:
        """Set space aside for the answers in flight, should the disk become full. Only behind the lock. Raises
        StoreError."""
        try:
            self.emergency_spool.reserve_space()
        except OSError as error:
            raise disk_error(error, self.root) from None

    def report_trouble(self, error: StoreError | OSError) -> None:
        """Report that a disk refused something although its caller goes on. The run is told the first time."""
        known = error if isinstance(error, StoreError) else disk_error(error, self.root)
        self.emergency_spool.report_trouble(known)

    def recover_stranded(self, attempt: int, since: float) -> list[str]:
        """Copy what an attempt left in the temporary folder into the spool. Returns the original paths, which still
        exist.

        Raises StoreError if there is no room for it.
        """
        came_from = []
        for name, path in self.emergency_spool.stranded_files(attempt, since):
            Path(self.spooled(name)).unlink(missing_ok=True)
            copy = SpoolFile(self.spool, name, mode=FILE_MODE)
            with open(path, "rb") as file:
                while piece := file.read(1 << 20):
                    copy.write(piece)
            copy.sync()
            came_from.append(path)
        return came_from

    def turn_path(self, attempt: int) -> str:
        """The path of the model's own turn of a conversation, kept unchanged because the next turn sends it back."""
        return os.path.join(self.root, STATE_FOLDER, TURNS, f"{attempt}.json")

    def read_turn(self, attempt: int) -> str:
        """Read a turn. Raises OSError if it is gone."""
        return Path(self.turn_path(attempt)).read_text(encoding="utf-8")

    def save_turn(self, attempt: int, text: bytes) -> None:
        """Save a turn, durable on return, and never partly there. Raises StoreError."""
        folder = self.plain_folder(os.path.join(STATE_FOLDER, TURNS), 0o700)
        name = f"turn-{attempt}"
        self.remove_spooled(name)
        file = SpoolFile(self.spool, name)
        file.write(text)
        file.sync()
        try:
            os.replace(file.path, self.turn_path(attempt))
        except OSError as error:
            raise disk_error(error, folder) from error
        sync_folder(folder)

    def spooled(self, name: str) -> str:
        return os.path.join(self.spool, name)

    def remove_spooled(self, name: str) -> None:
        Path(self.spooled(name)).unlink(missing_ok=True)

    def clean_spool(self, keep: set[str]) -> int:
        """Delete spool files that belong to nothing, once everything that could be rescued has been. Returns how
        many."""
        removed = 0
        for entry in os.scandir(self.spool):
            if entry.name not in keep:
                os.unlink(entry.path)
                removed += 1
        return removed
