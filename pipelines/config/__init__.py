"""params.yaml as frozen pydantic models: complete (no defaults), strict, and read before anything heavy is imported."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, ValidationError

from pipelines.config import space as spaces
from pipelines.config.export import Export
from pipelines.config.fields import Section, Task, short
from pipelines.config.loss import Loss, Terms
from pipelines.config.model import CLASSICAL, MODEL_TASKS, SOFT_TARGETS, WITHOUT_SCORES, Model
from pipelines.config.sections import Dataset, Evaluate, Ingest, Predict, Register, Serve, Train, Validate
from pipelines.config.tune import Tune
from pipelines.config.values import flatten, get, merge, nest, read, with_overrides
from pipelines.config.video import Video
from pipelines.errors import ConfigError, bounded, did_you_mean

__all__ = [
    "CLASSICAL", "HEADLINE", "MODEL_TASKS", "SOFT_TARGETS", "Loss", "Params", "Task", "Terms",
    "flatten", "get", "load", "merge", "nest", "parse", "read", "with_overrides",
]  # fmt: skip

# The metric that sums up each task: training monitors it, promotion compares it.
HEADLINE: dict[str, str] = {"semantic": "miou", "instance": "ap", "panoptic": "pq"}
# A trial runs for tune.epochs, in one process: a search over these would change nothing.
SET_BY_TUNE = ("train.epochs", "train.workers")


class Params(Section):
    """The whole file."""

    task: Task
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    dataset: Dataset
    model: Model
    loss: Loss
    ingest: Ingest
    validate_: Annotated[Validate, Field(alias="validate")]  # the bare names belong to pydantic
    tune: Tune
    train: Train
    evaluate: Evaluate
    register_: Annotated[Register, Field(alias="register")]
    predict: Predict
    serve: Serve
    export: Export
    video: Video


def parse(raw: Mapping[str, Any], source: str = "params.yaml") -> Params:
    """Plain values -> parameters, or one ConfigError that lists every fault."""
    faults, params = _field_faults(raw)
    faults += _disagreements(raw)
    if params is not None and not faults:
        faults = list(_unsearchable(raw, params))
    if faults or params is None:
        raise ConfigError(f"{source}: {len(faults)} fault{'s' * (len(faults) > 1)}", bounded(faults), f"mend {source}")
    return params


def load(path: Path) -> Params:
    return parse(read(path), path.name)


def _field_faults(raw: Mapping[str, Any]) -> tuple[list[str], Params | None]:
    try:
        return [], Params.model_validate(dict(raw))
    except ValidationError as error:
        return [_say(raw, fault) for fault in error.errors()], None


def _say(raw: Mapping[str, Any], fault: Any) -> str:
    """pydantic's fault in our words: where, what was found, what is allowed."""
    path = [str(p) for p in fault["loc"] if p != "[key]"]
    where, kind, got, context = ".".join(path), fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = _keys_at(path[:-1])
        return f"{where}: unknown key{did_you_mean(path[-1], allowed)} (allowed: {', '.join(allowed)})"
    if kind == "missing":
        return f"{where}: missing"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        hint = did_you_mean(got, allowed) if isinstance(got, str) else ""
        return f"{where}: got {short.repr(got)}, allowed: {', '.join(allowed)}{hint}"
    if kind == "value_error":
        return f"{where}: {context['error']}"
    said = fault["msg"].replace("Input should be", "must be").replace("Input should", "must")
    return f"{where}: {said[0].lower() + said[1:]}, got {short.repr(got)}"


def _keys_at(path: list[str]) -> list[str]:
    """The keys that params.yaml may have at `path`."""
    model: Any = Params
    for key in path:
        field = {f.alias or name: f for name, f in model.model_fields.items()}[key]
        options = [field.annotation, *get_args(field.annotation)]
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return [field.alias or name for name, field in model.model_fields.items()]


def _disagreements(raw: Mapping[str, Any]) -> list[str]:
    """Faults between sections, found on the plain values so that a fault elsewhere does not hide them."""
    name, task = _at(raw, "model.name"), raw.get("task")
    can = MODEL_TASKS.get(name) if isinstance(name, str) else None
    if can is None or task not in get_args(Task):
        return []
    if task != can:
        able = ", ".join(n for n, t in MODEL_TASKS.items() if t == task)
        return [f"model.name: {name} does the {can} task and task is {task}: set task: {can}, or model.name: {able}"]
    faults = []
    if _at(raw, "model.crf.iterations") and (can != "semantic" or name in WITHOUT_SCORES):
        faults.append(
            f"model.crf.iterations: a CRF is trained behind scores of pixels, and {name} gives none: set it to 0"
        )
    if _at(raw, "model.quantize") is True and (name in CLASSICAL or _at(raw, "model.crf.iterations")):
        what = "a CRF has no form in 8 bits" if name not in CLASSICAL else f"{name} has no weights"
        faults.append(f"model.quantize: {what}: set it to false")
    if _at(raw, "train.distill.teacher") and name not in SOFT_TARGETS:
        able = ", ".join(n for n in SOFT_TARGETS if MODEL_TASKS[n] == task) or f"none of task {task}"
        faults.append(
            f"train.distill.teacher: a student learns a teacher's scores of pixels, and {name} gives none (those that "
            f"do: {able}): set it to null"
        )
    unlike = {"tile": None, "scales": [1.0], "flip": False, "crf.iterations": 0}
    asked = [n for n, plain in unlike.items() if _at(raw, f"evaluate.inference.{n}") not in (plain, None)]
    if asked and can != "semantic":
        names = ", ".join(f"evaluate.inference.{n}" for n in asked)
        faults.append(
            f"{names}: for task semantic only, and task is {task}: set the values of the file as it was shipped"
        )
    return faults


def _at(raw: Mapping[str, Any], name: str) -> Any:
    """What stands under a dotted name, if anything does."""
    try:
        return get(raw, name)
    except (KeyError, TypeError):
        return None


def _unsearchable(raw: Mapping[str, Any], params: Params) -> Iterator[str]:
    """Names in tune.space that do not exist, and values there that params.yaml would not accept."""
    names = [n for n in flatten({s: raw[s] for s in ("model", "loss", "train")}) if n not in SET_BY_TUNE]
    for name in params.tune.space:
        if name not in names:
            hint = did_you_mean(name, names)
            yield f"tune.space.{name}: no such parameter{hint} (model, loss and train are searched)"
            continue
        for value in _to_try(spaces.read(params.tune.space)[name]):
            trial = merge(raw, _where_it_matters(params.tune.space, name) | {name: value})
            faults = _field_faults(trial)[0] + _disagreements(trial)
            yield from (f"tune.space.{name}: {fault}" for fault in faults)


def _to_try(space: spaces.Range) -> list[Any]:
    """Each value of a choice, and of whole numbers that are not many; else the ends of the range."""
    if space.kind == "choice" or (space.kind in spaces.WHOLE and len(space.points() or ()) in range(1, 65)):
        return space.points() or []
    return [value if space.kind in spaces.WHOLE else float(value) for value in space.values]


def _where_it_matters(space: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Values of others with which `name` is drawn."""
    found: dict[str, Any] = {}
    for other, wanted in space[name].get("when", {}).items():
        found |= _where_it_matters(space, other) | {other: wanted[0] if isinstance(wanted, list) else wanted}
    return found
