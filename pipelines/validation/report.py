"""What validation found, for machines (a dictionary without times or paths) and for people (one page, no network)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines import templates
from pipelines.data.schema import IGNORE, SPLITS
from pipelines.validation.checks import Tables
from pipelines.validation.expectations import Outcome
from pipelines.validation.pictures import UNDECLARED, Gallery, Picture

SAMPLES = 4  # pictures of each split
PICTURED = 4  # examples of a failed check that are shown as pictures
TWINS = ("copy_of", "reencoding_of", "resembles", "repeats")
SIZES = 12  # image sizes that are told apart
ITEMS = 1000  # findings of ingest on the page; more is for programs


def faults(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """What stops the line."""
    return [o for o in outcomes if not o.success and o.severity == "critical"]


def warnings(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if not o.success and o.severity == "warning"]


def summarize(tables: Tables, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The report for machines: the same bytes for the same dataset and parameters."""
    return {
        "success": not faults(outcomes),
        "dataset": tables.manifest.hash,
        "ingest": tables.intake.summary(),
        "checks": [
            {
                "name": o.name,
                "severity": o.severity,
                "success": o.success,
                "expected": o.expected,
                "found": o.found,
                "examples": [dict(example) for example in o.examples],
            }
            for o in outcomes
        ],
        "statistics": {
            "splits": _records(tables.splits.drop(columns=["declared_images", "declared_instances"])),
            "classes": _records(tables.coverage.drop(columns=["images"])),
            "image_sizes": dict(image_sizes(tables.images)),
            "object_sides": dict(object_sides(tables.segments)),
        },
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = frame.round(6).to_dict(orient="records")
    return records


def image_sizes(images: pd.DataFrame) -> list[tuple[str, int]]:
    """The most frequent ones, and the rest."""
    counts = images.groupby("size").size().sort_index().sort_values(ascending=False, kind="stable")
    shown = [(str(size), int(count)) for size, count in counts.head(SIZES).items()]
    rest = int(counts.iloc[SIZES:].sum())
    return [*shown, ("other", rest)] if rest else shown


def object_sides(segments: pd.DataFrame) -> list[tuple[str, int]]:
    """Instances by the square root of their area, in bins that double."""
    counts = np.bincount(_side_bins(segments[~segments["iscrowd"]]))
    first = int(np.flatnonzero(counts)[0]) if counts.size else 0
    return [(_side_label(k), int(n)) for k, n in enumerate(counts) if k >= first]


def _side_bins(segments: pd.DataFrame) -> np.ndarray:
    sides = np.sqrt(segments["measured_area"].to_numpy(np.float64))
    bins: np.ndarray = np.floor(np.log2(np.maximum(sides, 1))).astype(int)
    return bins


def _side_label(k: int) -> str:
    return f"{2**k}-{2 ** (k + 1)}"


def page(tables: Tables, outcomes: Sequence[Outcome], balance: Mapping[str, Any], folder: Path) -> str:
    """The report for people; `balance` is balance.json's, the pictures come from the shards in `folder`."""
    template = templates.beside(__file__).get_template("report.html.jinja")
    gallery = Gallery(folder)
    row_of = {id: row for row, id in enumerate(tables.images["id"])}
    return template.render(
        manifest=tables.manifest,
        outcomes=outcomes,
        findings=[(o, list(_pictures(o, gallery, row_of))) for o in [*faults(outcomes), *warnings(outcomes)]],
        faults=len(faults(outcomes)),
        warnings=len(warnings(outcomes)),
        leakage=[o for o in outcomes if o.name.startswith("leakage.")],
        splits=tables.splits.to_dict(orient="records"),
        classes=_shares(tables),
        balance=balance,
        repeated=sum(row["images"] for row in balance["repeats"]["images_by_factor"] if row["factor"] > 1),
        intake=tables.intake,
        items=tables.intake.findings[:ITEMS],
        image_sizes=_images_by_size(tables.images),
        object_sides=_objects_by_side(tables.segments),
        samples=[(split, _samples(tables.images, split, gallery)) for split in SPLITS],
        tiles=_tiles(tables),
        held=tables.splits.loc[tables.splits["images"] > 0, "split"].tolist(),
        undeclared=UNDECLARED if tables.images["undeclared"].notna().any() else None,
    )


def _tiles(tables: Tables) -> dict[str, str]:
    pixels = sum(int(counts.sum()) for counts in tables.pixels.values())
    ignored = sum(int(counts[IGNORE]) for counts in tables.pixels.values())
    numbers = {
        "images": len(tables.images),
        "classes": len(tables.manifest.classes),
        "instances": int(tables.splits["instances"].sum()),
        "crowds": int(tables.segments["iscrowd"].sum()),
        "images left out": tables.intake.quarantined,
    }
    tiles = {name: f"{n:,}" for name, n in numbers.items()}
    return {**tiles, "of the pixels ignored": f"{ignored / max(pixels, 1):.1%}"}


def _pictures(outcome: Outcome, gallery: Gallery, row_of: dict[str, int]) -> Iterator[list[Picture]]:
    """The first examples of a failed check, each with its twin where the check is about twins."""
    shown: dict[tuple[str, ...], None] = {}
    for example in outcome.examples:
        twin = [example[column] for column in TWINS if column in example]
        shown[tuple(id for id in (example.get("id"), *twin) if id in row_of)] = None
    for ids in [ids for ids in shown if ids][:PICTURED]:
        pictures = [gallery[row_of[id]] for id in ids]
        yield [picture for picture in pictures if picture is not None]


def _shares(tables: Tables) -> list[dict[str, Any]]:
    """A row per class: its share of each split's labelled pixels, with the bar's width against the largest share."""
    classes = tables.manifest.classes
    pixels, instances = (
        tables.coverage[column].to_numpy().reshape(len(SPLITS), len(classes)) for column in ("pixels", "instances")
    )
    shares = pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    widths = 100 * shares / max(shares.max(initial=0), 1e-12)
    return [
        {
            "info": info,
            "bars": [
                {"split": split, "share": shares[i, k], "width": widths[i, k], "instances": int(instances[i, k])}
                for i, split in enumerate(SPLITS)
            ],
        }
        for k, info in enumerate(classes)
    ]


def _images_by_size(images: pd.DataFrame) -> list[dict[str, Any]]:
    bins = image_sizes(images)
    return _histogram(bins, images["size"].where(images["size"].isin([label for label, _ in bins]), "other"), images)


def _objects_by_side(segments: pd.DataFrame) -> list[dict[str, Any]]:
    whole = segments[~segments["iscrowd"]]
    return _histogram(object_sides(segments), pd.Series(_side_bins(whole), index=whole.index).map(_side_label), whole)


def _histogram(bins: list[tuple[str, int]], labels: pd.Series, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A row per bin: its count, and its share of each split with the bar's width against the largest share."""
    counts = {split: labels[frame["split"] == split].value_counts() for split in SPLITS}
    shares = np.array([[counts[s].get(label, 0) / max(counts[s].sum(), 1) for s in SPLITS] for label, _ in bins])
    widths = 100 * shares / max(shares.max(initial=0), 1e-12)
    return [
        {
            "label": label,
            "count": n,
            "bars": [{"split": s, "share": shares[k, i], "width": widths[k, i]} for i, s in enumerate(SPLITS)],
        }
        for k, (label, n) in enumerate(bins)
    ]


def _samples(images: pd.DataFrame, split: str, gallery: Gallery) -> list[Picture]:
    """Spread evenly over the split."""
    rows = np.flatnonzero(images["split"] == split)
    at = np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).round().astype(int)
    return [picture for row in rows[at].tolist() if (picture := gallery[row]) is not None]
