"""What can be wrong with a source, one row per kind, and what becomes of it: the one place that decides.

*Mended*: the image is used, after a change that loses nothing. *Skipped*: it is published without labels, so there is
nothing to use. *Quarantined*: it is left out, whole, since an object without its annotation would be taught as
background. *Stop*: nothing can be trusted, or nothing would be left. All are listed in ingest's report;
`dataset.max_rejected` is the share of quarantined images from which the line stops.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal

from pipelines.errors import DataError

Outcome = Literal["mended", "skipped", "quarantined", "stop"]

KINDS: dict[str, Outcome] = {
    # Images that are used after a change.
    "exif-rotation": "mended",
    "cmyk": "mended",
    "16-bit": "mended",
    "alpha": "mended",
    "greyscale": "mended",
    "palette": "mended",
    "container": "mended",  # BMP, TIFF, WebP and JPEGs that decoders see differently: stored as PNG
    "suffix": "mended",  # a PNG that is called .jpg
    # Annotations that are used after a change.
    "clipped": "mended",  # a part lies outside the image
    "covers-nothing": "mended",  # not one pixel: nothing is lost
    "degenerate-part": "mended",  # one of several polygons has no area
    "no-annotations": "mended",  # an image with none: all background
    "unlisted": "mended",  # pixels of classes that the class table leaves out: ignored
    # Images that nothing is to be learned from.
    "unlabelled": "skipped",  # published without labels, as test splits are
    # Files that cannot be used.
    "empty-file": "quarantined",
    "not-an-image": "quarantined",
    "truncated": "quarantined",
    "corrupt": "quarantined",
    "too-large": "quarantined",  # pixels or bytes over the limit
    "frames": "quarantined",
    "depth": "quarantined",  # float and 32-bit images, without a declared range; values above the declared one
    "unreadable": "quarantined",  # the file system says no
    "crashed": "quarantined",  # took the reading process with it, its memory or its time
    "source-hash": "quarantined",  # not what SHA256SUMS says
    # Pairs that do not fit.
    "missing-file": "quarantined",
    "no-mask": "quarantined",
    "no-image": "quarantined",
    "size-mismatch": "quarantined",
    "orientation-ambiguous": "quarantined",
    # Labels that say something else than the class table.
    "colour-mask": "quarantined",
    "label-value": "quarantined",
    "instance-label": "quarantined",
    # Annotations that cannot be believed.
    "duplicate-id": "quarantined",
    "unknown-image": "quarantined",
    "unknown-category": "quarantined",
    "bad-annotation": "quarantined",
    "bad-polygon": "quarantined",
    "bad-rle": "quarantined",
    "outside-image": "quarantined",
    # Names.
    "name": "quarantined",  # not printable UTF-8, or not what the format calls its files
    "name-clash": "quarantined",  # the same name twice, or but for case
    "suffix-unknown": "quarantined",
    "no-split": "quarantined",
    # The dataset as a whole.
    "dataset-file": "stop",  # an annotation file, a list, a class table: cannot be read, or is not what SHA256SUMS says
    "outside-root": "stop",
    "unreadable-json": "stop",
    "class-table": "stop",
    "layout": "stop",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the report."""

    kind: str
    file: str  # within the dataset's root
    reason: str
    item: str = ""  # the image that is concerned, by its id; the file, where there is none

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no kind of fault '{self.kind}'")

    @property
    def outcome(self) -> Outcome:
        return KINDS[self.kind]

    @property
    def harmless(self) -> bool:
        """Nothing has to be mended in the source."""
        return self.outcome in ("mended", "skipped")

    @property
    def line(self) -> str:
        return f"{self.file}: {self.reason}" if self.file else self.reason

    def to_json(self) -> dict[str, str]:
        return {**asdict(self), "outcome": self.outcome}


class FaultError(DataError):
    """What is wrong with one thing; whoever knows its file catches it, with `Faults.of`."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind, self.reason = kind, reason

    def __reduce__(self) -> tuple[type["FaultError"], tuple[str, str]]:
        return type(self), (self.kind, self.reason)


class FaultsError(DataError):
    """All that is wrong with one item, or with the dataset."""

    def __init__(self, what: str, found: tuple[Fault, ...]):
        super().__init__(what, [fault.line for fault in found])
        self.what, self.found = what, found

    def __reduce__(self) -> tuple[type["FaultsError"], tuple[str, tuple[Fault, ...]]]:
        return type(self), (self.what, self.found)


class Faults(list[Fault]):
    """Collects what is wrong, so that all of it is said at once."""

    def add(self, kind: str, file: str, reason: str, item: str = "") -> None:
        self.append(Fault(kind, file, reason, item))

    @contextmanager
    def of(self, file: str, item: str = "") -> Iterator[None]:
        """Go on after a fault, and remember it as this file's. A file that is no item's is one that the whole dataset
        rests on: without it nobody knows which images are left out."""
        try:
            yield
        except FaultsError as error:
            self += [Fault(f.kind, f.file or file, f.reason, f.item or item) for f in error.found]
        except FaultError as error:
            whole = file and not item and KINDS[error.kind] == "quarantined"
            self.add("dataset-file" if whole else error.kind, file, error.reason, item)

    def check(self, what: str) -> None:
        """Raise what was collected, unless all of it is harmless."""
        if not all(fault.harmless for fault in self):
            raise FaultsError(what, tuple(self))
