"""params.yaml as frozen pydantic models: complete (no defaults), strict, and read before anything heavy is imported."""

import re
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from pipelines.errors import ConfigError, bounded, did_you_mean

Task = Literal["semantic", "instance", "panoptic"]
# Names of the tables that live beside torch, here so that a wrong one is refused without importing it; a test holds
# both sides equal.
ModelName = Literal["unet", "deeplabv3plus", "mask_rcnn", "panoptic_deeplab"]
MODEL_TASKS: dict[ModelName, Task] = {
    "unet": "semantic",
    "deeplabv3plus": "semantic",
    "mask_rcnn": "instance",
    "panoptic_deeplab": "panoptic",
}
# The metric that sums up each task: training monitors it, promotion compares it.
HEADLINE: dict[str, str] = {"semantic": "miou", "instance": "ap", "panoptic": "pq"}
# A trial runs for tune.epochs, in one process: a search over these would change nothing.
SET_BY_TUNE = ("train.epochs", "train.workers")
FormatName = Literal[
    "shapes", "folder", "instance-folder", "labelme", "voc", "pascal-context", "coco", "coco-stuff", "coco-panoptic",
    "cityscapes", "kitti", "mapillary-vistas", "camvid", "ade20k", "ade20k-full",
]  # fmt: skip

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PerSplit = Annotated[float, Field(ge=0, allow_inf_nan=False)]


_short = reprlib.Repr()  # of a value in a message: a YAML of ten lines can hold a list of a billion
_short.maxlevel, _short.maxstring, _short.maxother = 2, 80, 80


class Section(BaseModel):
    """Unknown keys are refused, values are not coerced ("4" is no number), nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Shapes(Section):
    height: Annotated[int, Field(ge=32, le=4096)]
    width: Annotated[int, Field(ge=32, le=4096)]
    difficulty: Fraction


class Splits(Section):
    train: PerSplit
    val: PerSplit
    test: PerSplit


class Dataset(Section):
    format: FormatName
    root: Annotated[str, Field(min_length=1)]
    splits: Splits
    stratify: bool
    group: str | None
    max_rejected: Fraction
    depth: Annotated[int, Field(ge=8, le=16)]
    storage: Literal["encoded", "decoded"]
    shapes: Shapes

    @field_validator("splits")
    @classmethod
    def _in_the_format_s_unit(cls, splits: Splits, info: ValidationInfo) -> Splits:
        values = splits.model_dump()
        if info.data.get("format") == "shapes" and not all(float(v).is_integer() for v in values.values()):
            raise ValueError(f"must be whole numbers of images for format 'shapes', got {values}")
        if not sum(values.values()):
            raise ValueError(f"must not all be 0, got {values}")
        return splits

    @field_validator("group")
    @classmethod
    def _a_pattern(cls, group: str | None) -> str | None:
        try:
            groups = re.compile(group or "").groups
        except re.error as error:
            raise ValueError(f"is no regular expression ({error}), got {group!r}") from None
        if groups > 1:
            raise ValueError(f"must have one pair of parentheses at most, got {group!r}")
        return group


class Model(Section):
    name: ModelName
    encoder: Annotated[str, Field(min_length=1)]
    weights: Annotated[str, Field(min_length=1)]
    channels: Annotated[int, Field(ge=8, le=2048)]


class CrossEntropy(Section):
    weight: Weight
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]


class Dice(Section):
    weight: Weight


class Focal(Section):
    weight: Weight
    gamma: Weight


class SemanticLoss(Section):
    """A loss that is not named is not used."""

    cross_entropy: CrossEntropy | None = None
    dice: Dice | None = None
    focal: Focal | None = None

    def weighted(self) -> dict[str, dict[str, float]]:
        """name -> weight and options, of those in use."""
        return {name: loss.model_dump() for name, loss in self if loss is not None and loss.weight > 0}


class Terms(Section):
    semantic: Weight
    center: Weight
    offset: Weight
    rpn_objectness: Weight
    rpn_box: Weight
    classifier: Weight
    box: Weight
    mask: Weight


class Loss(Section):
    semantic: SemanticLoss
    terms: Terms

    @field_validator("semantic")
    @classmethod
    def _not_all_zero(cls, semantic: SemanticLoss) -> SemanticLoss:
        if not semantic.weighted():
            raise ValueError("all weights are 0: give at least one loss a weight above 0")
        return semantic


class Ingest(Section):
    workers: Positive
    rows_per_shard: Positive
    store: Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://.")] | None


class MinImages(Section):
    train: Count
    val: Count
    test: Count


class Validate(Section):
    min_images: MinImages
    max_ignored: Fraction
    min_class_pixels: Count
    max_class_drift: Fraction
    max_size_drift: Fraction
    repeat_threshold: Fraction
    effective_beta: Annotated[float, Field(gt=0, lt=1)]
    workers: Positive


class Tune(Section):
    trials: Count
    epochs: Positive
    concurrent: Positive
    grace_epochs: Positive
    space: dict[str, dict[Literal["choice", "uniform", "loguniform"], list[Any]]]
    reduction_factor: Annotated[int, Field(ge=2)]

    @field_validator("grace_epochs")
    @classmethod
    def _within_the_epochs(cls, grace: int, info: ValidationInfo) -> int:
        if grace > info.data.get("epochs", grace):
            raise ValueError(f"{grace} is more than tune.epochs {info.data['epochs']}: change one of them")
        return grace

    @field_validator("space")
    @classmethod
    def _one_range_each(
        cls, spaces: dict[str, dict[str, list[Any]]], info: ValidationInfo
    ) -> dict[str, dict[str, list[Any]]]:
        if not spaces and info.data.get("trials"):
            raise ValueError("is empty: name what is searched, or set tune.trials to 0")
        for name, space in spaces.items():
            if len(space) != 1:
                raise ValueError(f"{name} must have exactly one of choice, uniform, loguniform, got {sorted(space)}")
            kind, values = next(iter(space.items()))
            if kind == "choice":
                if not values:
                    raise ValueError(f"{name}.choice must not be empty")
                continue
            numbers = len(values) == 2 and all(type(v) in (int, float) for v in values)
            if not numbers or not values[0] < values[1] or (kind == "loguniform" and values[0] <= 0):
                positive = " above 0" if kind == "loguniform" else ""
                raise ValueError(
                    f"{name}.{kind} must be [low, high] with low < high{positive}, got {_short.repr(values)}"
                )
        return spaces


class Augment(Section):
    crop: Annotated[list[Annotated[int, Field(ge=16)]], Field(min_length=2, max_length=2)]
    scale: Annotated[list[Annotated[float, Field(gt=0, le=8)]], Field(min_length=2, max_length=2)]
    flip: Fraction
    color: Fraction

    @field_validator("scale")
    @classmethod
    def _low_high(cls, scale: list[float]) -> list[float]:
        if scale[0] > scale[1]:
            raise ValueError(f"must be [smallest, largest], got {scale}")
        return scale


class Train(Section):
    epochs: Positive
    batch_size: Positive
    workers: Positive
    loader_workers: Count
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["float32", "bfloat16"]
    optimizer: Literal["adamw", "sgd"]
    learning_rate: Annotated[float, Field(gt=0, le=100)]
    weight_decay: Weight
    schedule: Literal["poly", "cosine", "constant"]
    warmup: Fraction
    clip_norm: Weight
    max_failures: Count
    augment: Augment

    @field_validator("workers")
    @classmethod
    def _divides_the_batch(cls, workers: int, info: ValidationInfo) -> int:
        batch = info.data.get("batch_size", 0)
        if batch % workers:
            raise ValueError(f"train.batch_size {batch} is not a multiple of {workers} workers: change one of them")
        return workers


class Evaluate(Section):
    split: Literal["train", "val", "test"]
    batch_size: Positive
    cases: Count


class Register(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)]
    min_gain: Weight
    floors: dict[str, Annotated[float, Field(allow_inf_nan=False)]]


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


class _Loader(yaml.SafeLoader):
    """YAML as DVC reads it: `1e-4` is a number (PyYAML's YAML 1.1 makes it a string), a repeated key is a fault."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' is there twice", key.start_mark)
            seen.add(name)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read(path: Path) -> dict[str, Any]:
    """The file as plain values, not yet checked."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        stage = path.parent.name
        do = f"dvc repro {stage}" if path.parent.parent.name == "results" else "run from the folder that holds it"
        raise ConfigError(f"{path} is missing", do=do) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:  # `!!int x` is PyYAML's ValueError
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold sections, got {type(raw).__name__}")
    return raw


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


def with_overrides(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`raw` with the values of a file such as results/tune/best.yaml over it."""
    return merge(raw, flatten(read(path)))


def merge(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with the dotted names in `overrides` set: {"train.learning_rate": 0.1}."""
    merged: dict[str, Any] = _copy(raw)
    for name, value in overrides.items():
        *path, last = name.split(".")
        at = merged
        for key in path:
            if not isinstance(at.get(key), dict):
                at[key] = {}  # a section that is not there: `parse` says so, in its words
            at = at[key]
        at[last] = value
    return merged


def get(raw: Mapping[str, Any], name: str) -> Any:
    """The value under a dotted name."""
    value: Any = raw
    for key in name.split("."):
        value = value[key]
    return value


def flatten(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"learning_rate": 0.1}} -> {"train.learning_rate": 0.1}"""
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"train.learning_rate": 0.1} -> {"train": {"learning_rate": 0.1}}"""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        at = nested
        for key in path:
            at = at.setdefault(key, {})
        at[last] = value
    return nested


def _copy(raw: Any) -> Any:
    return {k: _copy(v) for k, v in raw.items()} if isinstance(raw, Mapping) else raw


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
        return f"{where}: got {_short.repr(got)}, allowed: {', '.join(allowed)}{hint}"
    if kind == "value_error":
        return f"{where}: {context['error']}"
    said = fault["msg"].replace("Input should be", "must be").replace("Input should", "must")
    return f"{where}: {said[0].lower() + said[1:]}, got {_short.repr(got)}"


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
    model, task = raw.get("model"), raw.get("task")
    name = model.get("name") if isinstance(model, Mapping) else None
    can = MODEL_TASKS.get(name) if isinstance(name, str) else None  # type: ignore[call-overload]
    if can is None or task == can or task not in get_args(Task):
        return []
    able = ", ".join(n for n, t in MODEL_TASKS.items() if t == task)
    return [f"model.name: {name} does the {can} task and task is {task}: set task: {can}, or model.name: {able}"]


def _unsearchable(raw: Mapping[str, Any], params: Params) -> Iterator[str]:
    """Names in tune.space that do not exist, and values there that params.yaml would not accept."""
    names = [n for n in flatten({s: raw[s] for s in ("model", "loss", "train")}) if n not in SET_BY_TUNE]
    for name, space in params.tune.space.items():
        if name not in names:
            hint = did_you_mean(name, names)
            yield f"tune.space.{name}: no such parameter{hint} (model, loss and train are searched)"
            continue
        kind, values = next(iter(space.items()))
        for value in values:
            trial = merge(raw, {name: value if kind == "choice" else float(value)})  # what is drawn is never whole
            faults = _field_faults(trial)[0] + _disagreements(trial)
            yield from (f"tune.space.{name}: {fault}" for fault in faults)
