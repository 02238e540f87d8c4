"""Sources and a model in, results out: what is done already is kept, the rest shared among workers, and every image
accounted for at the end."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from pipelines import files
from pipelines.data.ingest.parallel import ordered
from pipelines.data.schema import ClassInfo
from pipelines.data.tree import is_uri
from pipelines.errors import DataError, RunError, bounded
from pipelines.files import digest
from pipelines.inference import package
from pipelines.prediction import engine, reading
from pipelines.prediction.formats import FORMATS
from pipelines.prediction.ledger import Ledger, Place, key
from pipelines.prediction.sources import Listing, Source
from pipelines.prediction.work import Job, Options, Predicting
from pipelines.progress import Progress

REPORT = "report.json"
AGAIN = ("formats", "batch_size", "part", "min_score", "alpha", "max_pixels", "frame_step")  # on which results depend


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What became of all that was asked for."""

    results: int
    carried_over: int  # of them, from an earlier run
    faults: tuple[Mapping[str, str], ...]
    passed_over: tuple[str, ...]


def predict(listing: Listing, options: Options, *, model: str, workers: int) -> Account:
    """`model` names what lies in `options.package`. With `workers` 0 as many work as there is room for."""
    description = package.describe(options.package)
    run = {
        "model": model,
        "weights": description["weights"]["sha256"],
        "inference": package.registered(options.package).to_json(),
        **{name: value for name, value in asdict(options).items() if name in AGAIN},
    }
    ledger = Ledger(options.out)
    ledger.open(_plain(run))
    done = {(*key(row), *row["mark"]) for _, row in ledger.rows() if ledger.is_whole(row)}
    jobs = list(_jobs(listing.sources, done, ledger, options))
    (options.out / REPORT).unlink(missing_ok=True)  # a folder without it is not finished
    _work(jobs, listing, ledger, options, workers)
    return _settle(listing, ledger, options, description, run, carried_over=len(done))


def _plain(run: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(run))
    return plain


def _jobs(sources: Sequence[Source], done: set[tuple[Any, ...]], ledger: Ledger, options: Options) -> Iterator[Job]:
    """What is left to do. The parts are those of all sources, so that one that is done again has the same batches."""
    images = iter([source for source in sources if not source.is_video])
    while part := list(islice(images, options.part)):
        if left := tuple(source for source in part if (source.id, -1, *source.mark) not in done):
            yield Job(_name(left), left)
    for video in (source for source in sources if source.is_video):
        name = _name((video,))
        if not ledger.has_ended(name):
            new = (n for n in count() if (video.id, n * options.frame_step, *video.mark) not in done)
            yield Job(name, (video,), first=next(new))


def _name(sources: Sequence[Source]) -> str:
    return digest([[source.id, source.stem, source.uri, *source.stamp] for source in sources])[:16]


def _work(jobs: Sequence[Job], listing: Listing, ledger: Ledger, options: Options, workers: int) -> None:
    total = len(listing.images) + sum(_lengths(listing.videos, options.frame_step))
    with Progress("predict", total, "images") as progress:

        def show() -> None:
            done = ledger.count()
            progress.update(done, total=max(total, done))

        show()
        left = total - ledger.count()
        engine.run(Predicting(options), jobs, images=left, workers=workers, device=options.device, every=show)
        show()


def _lengths(videos: Sequence[Source], step: int) -> Iterator[int]:
    """As far as they say it themselves; those in buckets are not asked."""
    paths = [str(Path(video.root, video.name)) for video in videos if not is_uri(video.root)]
    for _, found in ordered(reading.length, paths, workers=1) if paths else ():
        yield -(-found // step) if isinstance(found, int) else 0


def _settle(
    listing: Listing,
    ledger: Ledger,
    options: Options,
    description: Mapping[str, Any],
    run: Mapping[str, Any],
    *,
    carried_over: int,
) -> Account:
    """Write what is of all images, and the report last."""
    where, faults = _places(listing, ledger)
    classes = tuple(ClassInfo(**{**c, "color": tuple(c["color"])}) for c in description["classes"])
    for name in options.formats:
        if (listed := FORMATS[name].listing) is not None:
            listed(options.out, classes, description["task"]).write(lambda: map(ledger.read, where))
    said = [{"file": fault.file, "kind": fault.kind, "reason": fault.reason} for fault in listing.faults] + faults
    account = Account(
        results=len(where),
        carried_over=min(carried_over, len(where)),
        faults=tuple(said),
        passed_over=tuple(listing.passed_over),
    )
    files.write_json(options.out / REPORT, {**_plain(run), **_plain(asdict(account))})
    return account


def _places(listing: Listing, ledger: Ledger) -> tuple[list[Place], list[dict[str, str]]]:
    """Where the results lie, in the sources' order; and the faults."""
    at: dict[str, dict[int, tuple[Place, dict[str, str] | None]]] = {}
    marks = {source.id: source.mark for source in listing.sources}
    for place, row in ledger.rows():
        if marks.get(row["image"]) == tuple(row["mark"]):
            fault = {"file": row["source"], "kind": row["fault"], "reason": row["reason"]} if "fault" in row else None
            at.setdefault(row["image"], {})[key(row)[1]] = (place, fault)
    if missing := [source.uri for source in listing.sources if source.id not in at]:
        raise RunError("\n  - ".join([f"{len(missing)} images have no result:", *bounded(missing)]))
    found = [each for source in listing.sources for _, each in sorted(at[source.id].items())]
    return [place for place, fault in found if fault is None], [fault for _, fault in found if fault is not None]


def check(account: Account, out: Path) -> None:
    """Whatever gives no result makes itself heard."""
    if account.faults:
        listed = [f"{fault['file']}: {fault['reason']}" for fault in account.faults]
        raise DataError(
            f"{len(listed)} of {account.results + len(listed)} give no result; the others are in {out}",
            bounded(listed),
            do=f"see {out / REPORT}; mend or leave out what it lists, and run it again: what is done is kept",
        )
