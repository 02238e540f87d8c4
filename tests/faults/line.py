"""The whole of ingest over a clean source, over the same with its faults, and over the mended one."""

import filecmp
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pipelines import files
from pipelines.data import rle, shards
from pipelines.data.faults import KINDS, Fault
from pipelines.data.formats.source import Source
from pipelines.data.ingest.run import Ingested, ingest
from pipelines.data.schema import SPLITS
from pipelines.data.statistics import decode
from pipelines.data.tree import Tree

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


@dataclass(frozen=True)
class Case:
    """One way to spoil one image of a source that holds many. The image is called by the case's name, which begins
    with the row that asks for it."""

    name: str
    kind: str  # "" where nothing is to be said
    says: str  # in the reason, or in the file's name before it
    spoil: Callable[..., None]  # (source, the image's name)
    pixels: Callable[[np.ndarray], np.ndarray] | None = None  # of a kept image, from those that were there before
    at: str = "{}"  # the id or file under which it is told
    beside: bool = False  # something else is left out, and the image kept

    @property
    def outcome(self) -> str:
        return KINDS[self.kind] if self.kind else ""


@dataclass(frozen=True)
class Taken:
    """What became of a source, four times."""

    clean: Ingested
    strict: Ingested  # the broken one, with max_rejected 0
    lenient: Ingested  # with 0.5
    mended: Ingested
    folder: Path  # holds the outputs of each, by these names

    def told(self, identity: str) -> list[Fault]:
        return [f for f in self.lenient.report.faults if identity in (f.item, f.file)]


def run(root: Path | str, out: Path, *, format: str = "folder", depth: int = 16, **how) -> Ingested:
    source = Source(tree=Tree(str(root), depth), splits=FRACTIONS)
    kept = {"state": out.with_name(f"{out.name}.state"), "earlier": out.with_name("earlier"), **how}
    return ingest(format=format, source=source, out=out, workers=1, rows_per_shard=16, **kept)


def take(clean: Path, broken: Path, folder: Path, format: str, spoil: Callable[[Path], None], **how) -> Taken:
    """`broken` is made of `clean` by `spoil`, and mended in the end."""
    taken = {"clean": run(clean, folder / "clean", format=format, **how)}
    shutil.copytree(clean, broken)
    spoil(broken)
    taken["strict"] = run(broken, folder / "strict", format=format, **how)
    state = folder / "state"
    taken["lenient"] = run(broken, folder / "lenient", format=format, max_rejected=0.5, state=state, **how)
    mend(broken, clean)
    taken["mended"] = run(broken, folder / "mended", format=format, state=state, **how)
    return Taken(**taken, folder=folder)


def mend(broken: Path, clean: Path) -> None:
    """As one would do it: what was not touched stays, with its dates."""
    for path in sorted(broken.rglob("*"), reverse=True):
        wanted = clean / path.relative_to(broken)
        if path.is_symlink() or (path.is_file() and not wanted.exists()):
            path.unlink()
        elif path.is_dir() and not wanted.exists():
            path.rmdir()
    for wanted in clean.rglob("*"):
        path = broken / wanted.relative_to(clean)
        if wanted.is_file() and not (path.is_file() and filecmp.cmp(path, wanted, shallow=False)):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(wanted, path)


@cache
def records(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, list[tuple[int, bool, bytes]]]]:
    """id -> pixels, semantic map, and category, crowd flag and mask of each segment."""
    found = {}
    for split in SPLITS:
        for record in shards.ShardReader(folder, split):
            masks = [rle.decode(s.counts, record.height, record.width).tobytes() for s in record.segments]
            segments = [(s.category, s.iscrowd, mask) for s, mask in zip(record.segments, masks, strict=True)]
            found[record.id] = (np.array(decode(record)), np.array(record.semantic), segments)
    return found


def content(folder: Path) -> Mapping[str, str]:
    return {str(p.relative_to(folder)): files.sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def refusal(done: Ingested) -> str:
    """The message of a line that stopped, which must be one that a user can act on."""
    assert done.manifest is None
    assert done.report.outcome == "stopped"
    said = str(done.report.refusal("here", "report.json"))
    assert "nothing was written: " in said
    assert "\ndo: " in said
    assert "Traceback" not in said
    assert 'File "' not in said
    return said


def check_case(case: Case, taken: Taken, identity: str) -> None:
    """The fault is told as its kind, of the image or the file, and the image is kept or left out as the kind says."""
    told = [f for f in taken.told(case.at.format(case.name) if case.at != "{}" else identity) if f.kind == case.kind]
    assert bool(told) == bool(case.kind)
    assert not told or re.search(case.says, "\n".join(f.reason for f in told))
    assert all(f.outcome == KINDS[case.kind] for f in told)
    # An image that is out of reach leaves its labels behind, and the other way round.
    assert {f.kind for f in taken.told(identity)} - {case.kind} <= {"no-image", "no-mask"}
    kept = identity in records(taken.folder / "lenient")
    assert kept == (case.outcome != "quarantined" or case.beside)


def check_unharmed(taken: Taken, identities: list[str]) -> None:
    before, after = (records(taken.folder / name) for name in ("clean", "lenient"))
    for identity in identities:
        for was, now in zip(before[identity], after[identity], strict=True):
            np.testing.assert_array_equal(was, now)


def check_accounts(taken: Taken, shown: set[str]) -> None:
    """Every image that is shown is kept or named as left out: nothing vanishes."""
    for done in (taken.clean, taken.strict, taken.lenient, taken.mended):
        report, said = done.report, done.report.to_json()
        left_out = [f["item"] or f["file"] for f in said["findings"] if f["outcome"] == "quarantined"]
        images = dict(said["images"])
        assert images.pop("found") == sum(n for what, n in images.items() if what != "mended")
        assert (images["kept"], images["quarantined"]) == (report.kept, report.quarantined)
        assert report.quarantined == len(set(left_out))
        assert "" not in left_out
        assert sum(said["counts"].values()) == len(said["findings"])
        assert all(f["reason"] and (f["file"] or f["item"]) for f in said["findings"])
    kept = set(records(taken.folder / "lenient"))
    assert len(kept) == taken.lenient.report.kept == sum(taken.lenient.manifest.images.values())
    assert kept | {f.item for f in taken.lenient.report.faults} >= shown
    assert taken.clean.report.quarantined == taken.mended.report.quarantined == 0


def check_nothing_half_written(folder: Path, name: str) -> None:
    assert not (folder / name / "dataset.json").exists()
    assert not (folder / name / "shards").exists()
    assert not list(folder.rglob(".*.tmp"))
