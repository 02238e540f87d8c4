"""Any source to shards: scan it, place its images in splits, read what is new, and account for every one."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from pipelines import files
from pipelines.data import shards, stores
from pipelines.data.classes import duplicates
from pipelines.data.faults import Faults
from pipelines.data.formats import FORMATS
from pipelines.data.formats.source import FormatSpec, Item, Scan, Source, listed_splits
from pipelines.data.ingest import plan, report, shared, splits
from pipelines.data.ingest.engine import Engine
from pipelines.data.ingest.report import Report
from pipelines.data.ingest.survey import Labels, SurveyTask, surveyed
from pipelines.data.ingest.work import ShardTask
from pipelines.data.rows import Storage
from pipelines.data.schema import SPLITS, Manifest, ShardInfo, Split
from pipelines.data.statistics import Statistics
from pipelines.data.tree import Tree
from pipelines.errors import DataError
from pipelines.progress import Progress

SURVEYED = 64  # images whose classes are looked up at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingested:
    """What became of a source; there is no manifest where the line has to stop."""

    report: Report
    manifest: Manifest | None
    read: int  # rows that were made, and not carried over from an earlier ingest
    kept: tuple[Path, ...] = ()  # the shards as they lie in the state folder

    def settle(self) -> None:
        """To be called when the dataset is in place: from now on its own shards are what is carried over from, and
        nothing is kept twice."""
        for path in self.kept:
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
    usable = _usable(scan.items, found)
    keys = plan.item_keys(usable, plan.stamped(tree) if tree else {}, context)
    with Engine(workers, shared.of(tree, usable, state)) as engine:
        known = Labels(state / "labels.json", keys)
        items = _placed(usable, scan, source, engine, known, found, stratify=stratify, group=group, spec=spec)
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
    kept = () if store else tuple(state / f"{key}.arrow" for key, _ in done.shards)
    return Ingested(report=replace(account, dataset=manifest.hash), manifest=manifest, read=done.read, kept=kept)


@dataclass(kw_only=True, slots=True)
class _Sums:
    """What came of all jobs."""

    shards: list[tuple[str, ShardInfo]] = field(default_factory=list)  # with the keys of their jobs
    statistics: Statistics = field(default_factory=Statistics)
    read: int = 0


def _work(engine: Engine, task: ShardTask, jobs: Sequence[plan.Job], found: Faults) -> _Sums:
    sums, done = _Sums(), 0
    faulty = sum(not fault.harmless for fault in found)
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
            faulty += sum(not fault.harmless for fault in result.faults)
            progress.update(done, note=f"{faulty} faults" if faulty else "")
    return sums


def _usable(items: Sequence[Item], found: Faults) -> list[Item]:
    """Those that a scan has left: not one of which it says that it must be left out, nor several of one id, of which
    nobody could tell which is which."""
    twice = set(duplicates(item.id for item in items))
    for item in items:
        if item.id in twice:
            found.add("duplicate-id", item.name, f"the id '{item.id}' is there twice", item.name)
    out = {fault.item for fault in found if fault.outcome == "quarantined"} | twice
    return [item for item in items if item.id not in out]


def _placed(
    usable: list[Item],
    scan: Scan,
    source: Source,
    engine: Engine,
    known: Labels,
    found: Faults,
    *,
    stratify: bool,
    group: str | None,
    spec: FormatSpec,
) -> list[Item]:
    """Every item with a split: that of a list in the dataset, the published one, that of the rest of its group, or one
    by fraction."""
    items = _pinned(usable, source.tree, found) if source.tree else usable
    unplaced = [item for item in items if item.split is None]
    if not unplaced:
        return items
    group_of = grouping(group, unplaced)
    by_id = _with_their_groups(items, group_of)
    free = [item for item in unplaced if item.id not in by_id]
    labels = None
    if stratify and scan.labels is not None:
        new = known.missing(free)
        chunks = [new[i : i + SURVEYED] for i in range(0, len(new), SURVEYED)]
        task = SurveyTask(labels=scan.labels, isolated=spec.isolated)
        with Progress("survey", len(new), "images") as progress:
            known.add(new, surveyed(engine.run(task, chunks, images=len(new)), progress))
        labels = [known[item] for item in free]
    placed = splits.assign([group_of(item) for item in free], labels, source.splits)
    by_id |= {item.id: split for item, split in zip(free, placed, strict=True)}
    return [item if item.split else replace(item, split=by_id[item.id]) for item in items]


def _pinned(items: list[Item], tree: Tree, found: Faults) -> list[Item]:
    """The items with the splits that lists in the dataset give them."""
    listed: dict[str, Split] = {}
    with found.of("splits"):
        listed = listed_splits(tree)
    there = {item.id for item in items} | {fault.item for fault in found}
    for identity in sorted(listed.keys() - there):
        found.add(
            "missing-file", f"splits/{listed[identity]}.txt", f"'{identity}' is no image of this dataset", identity
        )
    return [replace(item, split=listed.get(item.id, item.split)) for item in items] if listed else items


def _with_their_groups(items: Sequence[Item], group_of: Callable[[Item], str]) -> dict[str, Split]:
    """A split for each item without one whose group has members that are placed: where most of these are."""
    placed: dict[str, Counter[Split]] = {}
    for item in items:
        if item.split:
            placed.setdefault(group_of(item), Counter())[item.split] += 1
    most = {group: max(counts, key=lambda split: (counts[split], split)) for group, counts in placed.items()}
    return {item.id: most[group_of(item)] for item in items if item.split is None and group_of(item) in most}


def grouping(pattern: str | None, items: Sequence[Item]) -> Callable[[Item], str]:
    """What must stay together with an item: what the pattern finds in its id, else what the format says."""

    def group_of(item: Item) -> str:
        match = re.search(pattern, item.id) if pattern else None
        found = (match[1] if match.re.groups else match[0]) if match else None
        return found or item.group or item.id

    if pattern and not any(re.search(pattern, item.id) for item in items):
        raise DataError(
            f"dataset.group: {pattern!r} matches none of {len(items)} ids, as '{items[0].id}'",
            do="mend the pattern, or set dataset.group to null",
        )
    return group_of


def _publish(made: Iterable[tuple[str, ShardInfo]], state: Path, earlier: Path, out: Path) -> list[ShardInfo]:
    """The shards under their names in the dataset: links, which cost nothing."""
    numbers: dict[Split, int] = dict.fromkeys(cast("Sequence[Split]", SPLITS), 0)
    there = plan.shards_at(earlier)
    (out / "shards").mkdir(parents=True, exist_ok=True)
    published = []
    for key, info in made:
        name = f"shards/{info.split}-{numbers[info.split]:05}.arrow"
        numbers[info.split] += 1
        made_now = state / f"{key}.arrow"
        files.link(made_now if made_now.is_file() else earlier / there[info.sha256], out / name)
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
