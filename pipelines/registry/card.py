"""The model card: what the model is, what it was measured to do, what it was made from. Markdown.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019 (arXiv 1810.03993), as far as a machine can fill one
in: what the model is for, and for whom it fails, are for a person to add.
"""

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from pipelines.config import CLASSICAL

DESCRIPTION_LENGTH = 5000  # of a version's description in MLflow's database


def write(*, name: str, description: Mapping[str, Any], metrics: Mapping[str, Any], commit: str, weights: str) -> str:
    """The whole card, from model.json and metrics.json."""
    return "\n".join(_sections(name, description, metrics, commit, weights))


def shorten(card: str, limit: int = DESCRIPTION_LENGTH) -> str:
    """The sections that fit, from the first on; the whole card is among the model's files."""
    tail = "\n*Cut: the whole card is README.md among the model's files.*\n"
    if len(card) <= limit:
        return card
    kept = ""
    for section in re.split(r"(?m)^(?=## )", card):
        if len(kept) + len(section) + len(tail) > limit:
            break
        kept += section
    return kept + tail


def _sections(
    name: str, description: Mapping[str, Any], metrics: Mapping[str, Any], commit: str, weights: str
) -> Iterator[str]:
    model, trained, measured = description["model"], description["dataset"], metrics["dataset"]
    scores = {family: values for family, values in metrics.items() if family in ("semantic", "instance", "panoptic")}
    encoder = "" if model["name"] in CLASSICAL else f" on a {_safe(model['encoder'])} encoder"
    yield f"# {_safe(name)}\n"
    yield (
        f"A {description['task']} segmentation model: {_safe(model['name'])}{encoder}, "
        f"{len(description['classes'])} classes, trained on the dataset {_safe(trained['name'])}.\n"
    )
    yield "## Use\n"
    yield f'```python\nmodel = mlflow.pyfunc.load_model("models:/{name}@champion")'
    yield 'model.predict(pandas.DataFrame({"image": [png_or_jpeg_bytes]}))\n```\n'
    yield "Takes RGB images of any size, not resized. Answers with one row of masks and segments per image.\n"
    yield "## Measured\n"
    yield f"On {measured['images']} images of the {measured['split']} split of dataset `{measured['hash'][:16]}`.\n"
    intervals = {name: values["intervals"] for name, values in scores.items() if "intervals" in values}
    yield from _table(("metric", "value", *(["95 % interval"] if intervals else [])), _scalars(scores, intervals))
    for family, columns in _per_class(scores).items():
        yield f"## {family.capitalize()}, per class\n"
        names = [c["name"] for c in description["classes"] if any(c["name"] in column for column in columns.values())]
        yield from _table(("class", *columns), ((n, *(_value(c.get(n)) for c in columns.values())) for n in names))
    yield "## Classes\n"
    rows = enumerate(description["classes"])
    kinds = {True: "thing", False: "stuff"}
    yield from _table(
        ("id", "name", "kind", "colour"),
        ((str(i), c["name"], kinds[c["isthing"]], "#{:02x}{:02x}{:02x}".format(*c["color"])) for i, c in rows),
    )
    yield "## Made from\n"
    made = {
        "code": f"git commit {commit}",
        "dataset": f"{trained['name']}, sha256 {trained['hash']}",
        "weights": f"sha256 {weights}",
        "epoch": str(description["epoch"]),
    }
    yield from _table(("what", "which"), made.items())
    yield "## Parameters\n"
    yield f"```yaml\n{yaml.safe_dump(description['parameters'], sort_keys=False).replace('```', '')}```\n"


def _scalars(scores: Mapping[str, Any], intervals: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for family, values in scores.items():
        for name, value in values.items():
            if not isinstance(value, Mapping):
                ends = intervals.get(family, {}).get(name)
                said = [" to ".join(_value(end) for end in ends) if ends else ""] if intervals else []
                yield (f"{family}.{name}", _value(value), *said)


def _per_class(scores: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """family -> {column: {class: value}}"""
    columns = {
        family: {
            name: values
            for name, values in family_scores.items()
            if isinstance(values, Mapping) and name not in ("box", "intervals")
        }
        for family, family_scores in scores.items()
    }
    return {family: named for family, named in columns.items() if named}


def _table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(head)} |\n|{' --- |' * len(head)}"
    yield from (f"| {' | '.join(_safe(cell) for cell in row)} |" for row in rows)
    yield ""


def _value(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _safe(text: str) -> str:
    """Names come with datasets: no markup of theirs, no cell that ends early."""
    return re.sub(r"([|\\*_\[\]<>#])", r"\\\1", html.escape(str(text), quote=False).replace("\n", " "))
