"""Running expectations over the tables with Great Expectations, and saying what came of it in plain words.

Three of its ways need care. An expectation about values holds for an empty table and for a column of nulls, so every
table gets a row count, and a column that names what is null in a row, expected to be empty. And an expectation that
cannot be computed counts as failed like any other, though nothing was learned of the data: that is an error here.
And Data Docs print values as they are, markup included: all text is escaped on the way in, and back on the way out.
"""

import html
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import ProgressBarsConfig

from pipelines.data.schema import SPLITS
from pipelines.errors import RunError
from pipelines.validation.checks import Tables

Severity = Literal["critical", "warning"]
TASKS = ("semantic", "instance", "panoptic")
INGEST_BUG = "run `dvc repro --force ingest`; if this comes back it is a fault of ingest, not of your data"
KEYS = {  # table -> the columns that name a row
    "images": ["id", "split"],
    "segments": ["id", "segment", "category"],
    "coverage": ["split", "class"],
    "splits": ["split", "images"],
    "dataset": ["name"],
}
EXAMPLES = {
    "images": "{id}",
    "segments": "{id} segment {segment}",
    "coverage": "{class} in {split}",
    "splits": "{split}",
    "dataset": "",
}
UNITS = {
    "images": "image",
    "segments": "segment",
    "coverage": "class|classes",
    "splits": "split",
    "dataset": "dataset",
}
SHOWN = 20  # examples of each check; more would not be read


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What this run asks of a dataset."""

    task: str
    min_images: Mapping[str, int]  # per split
    max_ignored: float
    min_class_pixels: int
    max_class_drift: float
    max_size_drift: float


class Count(int):
    """f"{Count(2):image}" is "2 images"; f"{Count(2):class|classes}" is "2 classes"."""

    def __format__(self, noun: str) -> str:
        if not noun:
            return str(int(self))
        one, _, more = noun.partition("|")
        return f"{int(self)} {one if self == 1 else more or f'{one}s'}"


def _speakable(values: Any) -> Any:
    """Plain values, with every whole number a Count."""
    if isinstance(values, Mapping):
        return {name: _speakable(value) for name, value in values.items()}
    return Count(values) if type(values) is int else values


def _nothing(_: Any) -> Any:
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One expectation over one table.

    Words may name a limit; `fault` also {n:image} (how many rows break it, as "1 image"), {observed} and what
    `detail` gives. `example` says one such row by its key and the columns that are looked at.
    """

    name: str
    table: str
    type: type[gxe.Expectation]
    arguments: Mapping[str, Any]
    limit: Callable[[Limits], Mapping[str, Any]] = _nothing  # the arguments that params.yaml gives
    severity: Severity = "critical"
    tasks: tuple[str, ...] = TASKS
    expected: str
    fault: str
    detail: Callable[[Tables], Mapping[str, str]] = _nothing
    example: str | None = None  # the table's, where none is given
    do: str

    def expectation(self, limits: Limits) -> gxe.Expectation:
        return self.type(
            **self.arguments,
            **self.limit(limits),
            severity=self.severity,
            description=f"{self.name}: {self.expected.format(**_speakable(asdict(limits)))}",
            meta={"check": self.name},
        )

    def columns(self) -> list[str]:
        """Those that must not be null for the expectation to mean anything."""
        if self.type is gxe.ExpectColumnValuesToBeNull:
            return []
        return [self.arguments[a] for a in ("column", "column_A", "column_B") if a in self.arguments]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one check."""

    name: str
    table: str
    severity: Severity
    success: bool
    expected: str
    found: str
    examples: tuple[Mapping[str, Any], ...]  # rows that break it, by key and the columns that were looked at
    said: tuple[str, ...]  # the same in words
    do: str

    @property
    def line(self) -> str:
        """One line: what was found, where, what to do."""
        shown = [s for s in self.said[:3] if s]
        where = f" ({'; '.join(shown)}{'; ...' if len(self.said) > len(shown) else ''})" if shown else ""
        return f"{self.name}: {self.found}{where}: {self.do}"


def guards(tables: Tables) -> Iterator[Check]:
    """What keeps the checks from holding of nothing."""
    manifest = tables.manifest
    rows = {
        "images": max(sum(manifest.images.values()), 1),
        "segments": sum(manifest.instances.values()),
        "coverage": len(SPLITS) * len(manifest.classes),
        "splits": len(SPLITS),
        "dataset": 1,
    }
    for table, least in rows.items():
        yield Check(
            name=f"rows.{table}",
            table=table,
            type=gxe.ExpectTableRowCountToBeBetween,
            arguments={"min_value": least},
            expected=f"the table of {table} has at least {least} rows",
            fault=f"the table of {table} has {{observed:row}}, expected at least {least}",
            do=INGEST_BUG,
        )
        yield Check(
            name=f"known.{table}",
            table=table,
            type=gxe.ExpectColumnValuesToBeNull,
            arguments={"column": "unknown"},
            expected=f"nothing that is looked at is missing in the table of {table}",
            fault=f"{{n:row}} of the table of {table} without a value that is looked at",
            example="{unknown}",
            do=INGEST_BUG,
        )


def _with_unknown(frame: pd.DataFrame, checks: Sequence[Check]) -> pd.DataFrame:
    """The table and a column that names what is null in a row, of the columns that a check looks at."""
    looked_at = frame[sorted({column for check in checks for column in [*KEYS[check.table], *check.columns()]})]
    null = looked_at.isna()
    unknown = pd.Series(None, index=frame.index, dtype="object")
    for row in null.index[null.any(axis=1)]:
        unknown[row] = ", ".join(null.columns[null.loc[row]])
    return frame.assign(unknown=unknown)


def judge(tables: Tables, limits: Limits, checks: Sequence[Check], *, docs: Path | None = None) -> list[Outcome]:
    """Every check that this task asks for, and the guards; Data Docs go to `docs`."""
    wanted = [check for check in checks if limits.task in check.tasks]
    guarding = list(guards(tables))
    context = _context(docs)
    source = context.data_sources.add_pandas("dataset")
    outcomes: dict[str, Outcome] = {}
    for table in KEYS:
        mine = [check for check in wanted if check.table == table]
        frame = _with_unknown(getattr(tables, table), mine)
        mine += [check for check in guarding if check.table == table]
        results = _run(context, source, table, frame, [check.expectation(limits) for check in mine])
        outcomes |= {check.name: _outcome(check, results[check.name], tables, limits) for check in mine}
    if docs is not None:
        context.build_data_docs(site_names=["validate"])
    return [outcomes[check.name] for check in [*wanted, *guarding]]


def _context(docs: Path | None) -> Any:
    """In memory. Its loggers stay silent: all that they know comes back in the results."""
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    if docs is not None:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        context.add_data_docs_site(
            "validate", {"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": index}
        )
    return context


def _run(context: Any, source: Any, table: str, frame: pd.DataFrame, expectations: list[gxe.Expectation]) -> dict:
    """One suite over one table -> check's name -> Great Expectations' result."""
    whole = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(table, expectations=expectations))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=table, data=whole, suite=suite))
    text = [column for column in frame if not pd.api.types.is_numeric_dtype(frame[column])]
    result = definition.run(
        batch_parameters={"dataframe": frame.assign(**{column: frame[column].map(_escaped) for column in text})},
        result_format={
            "result_format": "SUMMARY",
            "unexpected_index_column_names": KEYS[table],
            "partial_unexpected_count": SHOWN,
        },
        run_id=RunIdentifier(run_name="validate"),
    )
    return {r.expectation_config.meta["check"]: r for r in result.results}


def _outcome(check: Check, result: Any, tables: Tables, limits: Limits) -> Outcome:
    found = result.to_json_dict()["result"]
    if not found:
        raise RunError(f"the check {check.name} could not be computed: {_reason(result.exception_info)}")
    examples = tuple(map(_unescaped, found.get("partial_unexpected_index_list") or ())) if not result.success else ()
    words = _speakable(asdict(limits) | {"n": found.get("unexpected_count"), "observed": found.get("observed_value")})
    example = EXAMPLES[check.table] if check.example is None else check.example
    return Outcome(
        name=check.name,
        table=check.table,
        severity=check.severity,
        success=bool(result.success),
        expected=check.expected.format(**words),
        found=_held(check.table, found) if result.success else check.fault.format(**words, **check.detail(tables)),
        examples=examples,
        said=tuple(example.format(**words, **_speakable(row)) for row in examples),
        do=check.do.format(**words),
    )


def _escaped(value: Any) -> Any:
    return html.escape(value) if isinstance(value, str) else value


def _unescaped(row: Mapping[str, Any]) -> dict[str, Any]:
    """Sorted: Great Expectations' order of columns differs from run to run."""
    return {name: html.unescape(value) if isinstance(value, str) else value for name, value in sorted(row.items())}


def _held(table: str, found: Mapping[str, Any]) -> str:
    """What is said of a check that holds: of how much, and how much less is let pass."""
    if "observed_value" in found:
        return f"{found['observed_value']} rows"
    passed = found["element_count"] - found["unexpected_count"]
    return f"{passed} of {Count(found['element_count']):{UNITS[table]}}"


def _reason(info: Mapping[str, Any]) -> str:
    """Great Expectations tells of one exception, or of one for each metric."""
    each = [info] if "exception_message" in info else info.values()
    return "; ".join(sorted({str(e["exception_message"]) for e in each}))
