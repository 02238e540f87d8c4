"""Any source to shards: scan it, place its images in splits, read what is new, and account for every one."""

import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from pipelines import files
from pipelines.data import shards, stores
from pipelines.data.faults import Faults
from pipelines.data.formats import FORMATS
from pipelines.data.formats.source import Item, Scan, Source, listed_splits
from pipelines.data.ingest import plan, report, splits
from pipelines.data.ingest.engine import Engine
from pipelines.data.ingest.report import Report
from pipelines.data.ingest.survey import Labels, SurveyTask, surveyed
from pipelines.data.ingest.work import ShardTask
from pipelines.data.rows import Storage
from pipelines.data.schema import SPLITS, Manifest, ShardInfo, Split
from pipelines.data.statistics import Statistics
from pipelines.progress import Progress

SURVEYED = 64  # images whose classes are looked up at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingested:
    """What became of a source; there is no manifest where the line has to stop."""

    report: Report
    manifest: Manifest | None
    read: int  # rows that were made, and not carried over from an earlier ingest
    kept: tuple[tuple[Path, ShardInfo], ...] = ()  # shards in the state folder, and what they are in the dataset

    def settle(self) -> None:
        """To be called when the dataset is in place: from now on its own shards are what is carried over from, and
        nothing is kept twice."""
        for path, info in self.kept:
            if sidecar := plan.Sidecar.read(path.with_suffix(".json")):
                replace(sidecar, info=info).write(path.with_suffix(".json"))
                files.remove(path)


def ingest(
    *,
    format: str,
    source: Source,
    out: Path,
    state: Path,
    workers: int,
    rows_per_shard: int,
    earlier: Path | None = None,
    storage: Storage = "encoded",
    store: str = "",
    max_rejected: float = 0.0,
    stratify: bool = True,
    group: str | None = None,
) -> Ingested:
    """Writes out/shards, out/splits and out/dataset.json, or none of them. `state` keeps what a later ingest need not
    read again, beside the shards of the dataset that it has put at `earlier`; `store` is the URI of a bucket that the
    shards go to instead of out/shards."""
    if store:
        stores.check(store)
    spec = FORMATS[format]
    scan = spec.scan(source)
    tree = source.tree
    found = Faults([*(tree.faults if tree else ()), *scan.faults])
    state.mkdir(parents=True, exist_ok=True)
    for left in state.glob(".*.tmp"):  # of a writer that was killed
        left.unlink()
    context = plan.context(format, storage, scan.classes, scan.read)
    keys = plan.item_keys(scan.items, tree.stamps if tree else {}, context)
    with Engine(workers) as engine:
        known = Labels(state / "labels.json", keys)
        items = _placed(scan, source, engine, known, stratify=stratify, group=group, isolated=spec.isolated)
        jobs = plan.jobs(items, keys=keys, rows_per_shard=rows_per_shard, there=plan.rows_there(state, store))
        task = ShardTask(
            read=scan.read, state=state, earlier=earlier or state, storage=storage, isolated=spec.isolated, store=store
        )
        done = _work(engine, task, jobs, found)
    account = report.account(
        found,
        kept=sum(done.statistics.images.values()),
        max_rejected=max_rejected,
        source_hashes=bool(tree and tree.files.hashes),
        holds=spec.holds,
    )
    if account.outcome == "stopped":
        return Ingested(report=account, manifest=None, read=done.read)
    published = [info for _, info in done.shards] if store else _publish(done.shards, state, earlier or state, out)
    manifest = shards.write_manifest(
        out,
        published,
        done.statistics,
        classes=scan.classes,
        name=tree.name if tree else format,
        format=format,
        store=store,
    )
    _write_splits(out, items)
    _sweep(state, {"labels", *(job.key for job in jobs)})
    kept = () if store else tuple(zip([state / f"{key}.arrow" for key, _ in done.shards], published, strict=True))
    return Ingested(report=replace(account, dataset=manifest.hash), manifest=manifest, read=done.read, kept=kept)


@dataclass(kw_only=True, slots=True)
class _Sums:
    """What came of all jobs."""

    shards: list[tuple[str, ShardInfo]] = field(default_factory=list)  # with the keys of their jobs
    statistics: Statistics = field(default_factory=Statistics)
    read: int = 0


def _work(engine: Engine, task: ShardTask, jobs: Sequence[plan.Job], found: Faults) -> _Sums:
    sums, done = _Sums(), 0
    new = sum(row is None for job in jobs for row in job.carried)
    total = sum(len(job.items) for job in jobs)
    with closing(engine.run(task, jobs, images=new)) as results, Progress("ingest", total, "images") as progress:
        for job, result in zip(jobs, results, strict=True):
            sums.statistics.add(result.statistics)
            sums.read += result.read
            if result.info is not None:
                sums.shards.append((job.key, result.info))
            found += result.faults
            done += len(job.items)
            faulty = sum(not fault.harmless for fault in found)
            progress.update(done, note=f"{faulty} faults" if faulty else "")
    return sums


def _placed(
    scan: Scan, source: Source, engine: Engine, known: Labels, *, stratify: bool, group: str | None, isolated: bool
) -> list[Item]:
    """Every item with a split: that of a list in the dataset, the published one, or one by fraction."""
    listed = listed_splits(source.tree) if source.tree else {}
    items = [replace(item, split=listed.get(item.id, item.split)) for item in scan.items] if listed else scan.items
    unplaced = [item for item in items if item.split is None]
    if not unplaced:
        return list(items)
    labels = None
    if stratify and scan.labels is not None:
        new = known.missing(unplaced)
        chunks = [new[i : i + SURVEYED] for i in range(0, len(new), SURVEYED)]
        task = SurveyTask(labels=scan.labels, isolated=isolated)
        with Progress("survey", len(new), "images") as progress:
            known.add(new, surveyed(engine.run(task, chunks, images=len(new)), progress))
        labels = [known[item] for item in unplaced]
    groups = [group_of(item, group) for item in unplaced]
    placed = splits.assign(groups, labels, source.splits)
    by_id = {item.id: split for item, split in zip(unplaced, placed, strict=True)}
    return [item if item.split else replace(item, split=by_id[item.id]) for item in items]


def group_of(item: Item, pattern: str | None) -> str:
    """What must stay together with the item: what the pattern finds in its id, else what the format says."""
    match = re.search(pattern, item.id) if pattern else None
    if match:
        return match[1] if match.re.groups else match[0]
    return item.group or item.id


def _publish(made: Iterable[tuple[str, ShardInfo]], state: Path, earlier: Path, out: Path) -> list[ShardInfo]:
    """The shards under their names in the dataset: links, which cost nothing."""
    numbers: dict[Split, int] = dict.fromkeys(cast("Sequence[Split]", SPLITS), 0)
    (out / "shards").mkdir(parents=True, exist_ok=True)
    published = []
    for key, info in made:
        name = f"shards/{info.split}-{numbers[info.split]:05}.arrow"
        numbers[info.split] += 1
        folder = state if info.path == f"{key}.arrow" else earlier
        files.link(folder / info.path, out / name)
        published.append(replace(info, path=name))
    return published


def _write_splits(out: Path, items: Sequence[Item]) -> None:
    """The ids of each split: put into the dataset's root, these lists pin it."""
    for split in SPLITS:
        ids = sorted(item.id for item in items if item.split == split)
        files.write_text(out / "splits" / f"{split}.txt", "".join(f"{i}\n" for i in ids))


def _sweep(state: Path, used: set[str]) -> None:
    for path in state.iterdir():
        if path.stem not in used:
            files.remove(path)
