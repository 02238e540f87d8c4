"""Sources that are spoilt in place and mended again."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.line import mend, run
from tests.faults.sources import PUBLISH

KEYS = ["a", "b", "c"]


@dataclass(frozen=True)
class Sound:
    """A source of three images, and what ingest makes of it."""

    root: Path
    format: str
    hash: str

    @contextmanager
    def spoilt(self) -> Iterator[Path]:
        """Its root, for as long as it may be spoilt."""
        try:
            yield self.root
        finally:
            mend(self.root, self.root.with_name("copy"))

    def again(self, out: Path) -> str:
        """The hash of its dataset now: what was not touched is not read again."""
        done = run(self.root, out, format=self.format, state=self.root.with_name("state"), stratify=False)
        assert done.manifest is not None
        return done.manifest.hash


@pytest.fixture(scope="package")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Sound]:
    made: dict[str, Sound] = {}

    def of(format: str) -> Sound:
        if format not in made:
            root = tmp_path_factory.mktemp(format) / "source"
            PUBLISH[format](root, format, KEYS)
            shutil.copytree(root, root.with_name("copy"))
            made[format] = Sound(root, format, Sound(root, format, "").again(root.with_name("out")))
        return made[format]

    return of
