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


def write(
    *,
    name: str,
    description: Mapping[str, Any],
    metrics: Mapping[str, Any],
    commit: str,
    weights: str,
    picture: str = "",
    costs: Mapping[str, Any] = {},
) -> str:
    """The whole card, from model.json, metrics.json and what else there is; `picture` lies beside it."""
    return "\n".join(_sections(name, description, metrics, commit, weights, picture, costs))


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


def for_mlflow(card: str, picture: str, room: int) -> str:
    """A version's description on MLflow's pages, below the `room` for what was decided. They show no picture of a
    model's files: it is named instead; and no space between the columns of a table."""
    named = f"*Pictures of held-out images: `{picture}` among the model's files, and in the run's report.*"
    return shorten(spaced(re.sub(r"(?m)^!\[.*$", named, card)), DESCRIPTION_LENGTH - room)


def spaced(markdown: str) -> str:
    """Tables whose cells end in spaces that no browser swallows."""
    return re.sub(r"(?m)^\|(?! ---).*$", lambda row: row[0].replace(" |", "\u00a0\u00a0 |"), markdown)


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 4]} ..."


def _sections(
    name: str,
    description: Mapping[str, Any],
    metrics: Mapping[str, Any],
    commit: str,
    weights: str,
    picture: str,
    costs: Mapping[str, Any],
) -> Iterator[str]:
    model, trained, measured = description["model"], description["dataset"], metrics["dataset"]
    scores = {family: values for family, values in metrics.items() if family in ("semantic", "instance", "panoptic")}
    encoder = "" if model["name"] in CLASSICAL else f" on a {safe(model['encoder'])} encoder"
    yield f"# {safe(name)}\n"
    yield (
        f"A {description['task']} segmentation model: {safe(model['name'])}{encoder}, "
        f"{len(description['classes'])} classes, trained on the dataset {safe(trained['name'])}.\n"
    )
    yield "## Use\n"
    yield f'```python\nmodel = mlflow.pyfunc.load_model("models:/{name}@champion")'
    yield 'model.predict(pandas.DataFrame({"image": [png_or_jpeg_bytes]}))\n```\n'
    yield "Takes RGB images of any size, not resized. Answers with one row of masks and segments per image.\n"
    yield "## Measured\n"
    yield f"On {measured['images']} images of the {measured['split']} split of dataset `{measured['hash'][:16]}`.\n"
    intervals = {name: values["intervals"] for name, values in scores.items() if "intervals" in values}
    yield from table(("metric", "value", *(["95 % interval"] if intervals else [])), _scalars(scores, intervals))
    if picture:
        yield "## Pictures\n"
        yield f"![Held-out images, their truth, the prediction, and its errors]({picture})\n"
    if costs:
        yield "## Costs\n"
        yield from table(("what", "how much"), ((n, _plain(costs[n])) for n in sorted(costs)))
    for family, columns in _per_class(scores).items():
        yield f"## {family.capitalize()}, per class\n"
        names = [c["name"] for c in description["classes"] if any(c["name"] in column for column in columns.values())]
        yield from table(("class", *columns), ((n, *(_value(c.get(n)) for c in columns.values())) for n in names))
    yield "## Classes\n"
    rows = enumerate(description["classes"])
    kinds = {True: "thing", False: "stuff"}
    yield from table(
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
    yield from table(("what", "which"), made.items())
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


def table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    """Markdown, whatever the cells hold."""
    yield f"| {' | '.join(head)} |\n|{' --- |' * len(head)}"
    yield from (f"| {' | '.join(safe(cell) for cell in row)} |" for row in rows)
    yield ""


def _value(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def safe(text: str) -> str:
    """Names come with datasets: no markup of theirs, no cell that ends early."""
    return re.sub(r"([|\\*_\[\]<>#])", r"\\\1", html.escape(str(text), quote=False).replace("\n", " "))
