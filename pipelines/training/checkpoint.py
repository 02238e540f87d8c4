"""Checkpoints that are whole or absent, verified when read, with the one before to fall back on.

Ray's own would not do: it never falls back to an older checkpoint, loses the last report of a killed worker, and
resumes whatever has the same name.
"""

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines import files

log = logging.getLogger(__name__)
STATE, MANIFEST = "state.pt", "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A committed checkpoint."""

    path: Path
    epoch: int
    score: float
    sha256: str


class Checkpoints:
    """Keeps the best, the last, and the one before the last, in `folder`/epoch-NNNN."""

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, epoch: int, score: float, state: dict[str, Any]) -> None:
        """Written beside, synced, and committed by one rename, the manifest inside."""
        self.folder.mkdir(parents=True, exist_ok=True)
        beside, final = self.folder / f".epoch-{epoch:04d}", self.folder / f"epoch-{epoch:04d}"
        files.remove(beside)
        beside.mkdir()
        with (beside / STATE).open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        manifest = {"epoch": epoch, "score": score, "sha256": files.sha256(beside / STATE)}
        files.write_json(beside / MANIFEST, {**manifest, "checksum": files.digest(manifest)})
        files.remove(final)
        beside.rename(final)
        self._prune()

    def entries(self) -> list[Entry]:
        """The committed ones, oldest first; their states are not verified yet."""
        found = []
        for path in self.folder.glob("epoch-*"):
            try:
                raw = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
                checksum = raw.pop("checksum")
                if files.digest(raw) != checksum:
                    raise ValueError("checksum mismatch")
                found.append(Entry(path=path, **raw))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("checkpoint %s has no readable manifest (%s): left out", path.name, error)
        return sorted(found, key=lambda entry: entry.epoch)

    def last(self) -> dict[str, Any] | None:
        """The newest whole state, or None when there is none to go on from."""
        return self._first_whole(self.entries()[::-1])

    def best(self) -> dict[str, Any] | None:
        """The whole state with the highest score; the earlier one where two are equal."""
        return self._first_whole(sorted(self.entries(), key=lambda e: (-e.score, e.epoch)))

    def _first_whole(self, entries: list[Entry]) -> dict[str, Any] | None:
        for entry in entries:
            state = entry.path / STATE
            if state.is_file() and files.sha256(state) == entry.sha256:
                loaded: dict[str, Any] = torch.load(state, map_location="cpu", weights_only=True)
                return loaded
            log.warning("checkpoint %s is damaged (sha256 mismatch): falling back to the one before", entry.path.name)
        return None

    def _prune(self) -> None:
        entries = self.entries()
        best = max(entries, key=lambda e: (e.score, -e.epoch))
        for entry in entries[:-2]:
            if entry.epoch != best.epoch:
                shutil.rmtree(entry.path)
