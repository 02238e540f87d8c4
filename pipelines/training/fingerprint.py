"""What a training run is known by, so that no other is resumed in its place."""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines import files
from pipelines.config import HEADLINE, merge
from pipelines.errors import ConfigError
from pipelines.training.balance import Balance
from pipelines.training.teacher import identified

CODE = Path(__file__).resolve().parents[1]
# What in it a model follows from.
ROOMS = (
    "data", "evaluation", "inference", "loading", "losses", "metrics", "models", "pixels.py", "targets.py", "training",
)  # fmt: skip
ONLOOKERS = (("training", "watching"), ("training", "search"))  # which change no weight
LIBRARIES = ("numpy", "opencv-python-headless", "timm", "torch", "torchvision")
# Of the section train, what a result does not follow from.
FREE = (
    "max_failures", "loader_workers", "workers", "min_workers", "accumulate", "checkpoint_minutes", "guards",
)  # fmt: skip


def fingerprint(raw: dict[str, Any], dataset: str, balance: Balance | None = None) -> str:
    """Of everything that training follows from: parameters, data and how it is balanced, code. What was begun under
    another fingerprint is never resumed."""
    sections = {name: raw[name] for name in ("task", "seed", "model", "loss", "train")}
    # Who does the work, and how often it is tried again, changes no weight: an interrupted run may be given others.
    train = {k: v for k, v in identified(raw)["train"].items() if k not in FREE}
    guards = {k: v for k, v in raw["train"]["guards"].items() if k != "hang_seconds"}
    passes = raw["train"]["workers"] * raw["train"]["accumulate"]
    shared = raw["train"]["workers"] if raw["train"]["sync_batch_norm"] else None
    sections["train"] = {**train, "guards": guards, "passes": passes, "statistics": shared}
    weights = Path(raw["model"]["weights"])
    initial = files.sha256(weights) if weights.is_file() else ""
    paths = [path.relative_to(CODE) for path in CODE.rglob("*.py")]
    code = {
        str(path): files.sha256(CODE / path)
        for path in paths
        if path.parts[0] in ROOMS and path.parts[:2] not in ONLOOKERS
    }
    libraries = {name: version(name) for name in LIBRARIES}
    return files.digest(sections, dataset, code, libraries, initial, HEADLINE[raw["task"]], balance and asdict(balance))


def with_absolute_weights(raw: dict[str, Any], root: Path) -> dict[str, Any]:
    """`model.weights` as workers find it, which run in folders of their own; a file that is missing is refused here."""
    weights = raw["model"]["weights"]
    if weights in ("none", "imagenet"):
        return raw
    path = (root / weights).resolve()
    if not path.is_file():
        raise ConfigError(f"model.weights: there is no file {path}", do="name one, or say none or imagenet")
    return merge(raw, {"model.weights": str(path)})
