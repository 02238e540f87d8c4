"""The teacher that a student's parameters name, brought here before anything is trained."""

from pathlib import Path
from typing import Any

from pipelines.config import get, merge

NAME = "train.distill.teacher"


def with_teacher(raw: dict[str, Any], root: Path) -> dict[str, Any]:
    """Its folder in place of `models:/...`: workers ask no registry, and an alias may move meanwhile."""
    named = get(raw, NAME)
    if named is None:
        return raw
    from pipelines.registry.fetch import fetch  # MLflow, which nobody waits for who has no teacher

    return merge(raw, {NAME: str(fetch(named, root).folder.resolve())})
