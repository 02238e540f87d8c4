"""What formats that annotate objects alone share: their classes are things, and class 0 is background."""

from collections.abc import Sequence

from pipelines.data import classes as tables
from pipelines.data.faults import FaultError
from pipelines.data.schema import ClassInfo
from pipelines.data.tree import Tree

BACKGROUND = ClassInfo(name="background", color=(0, 0, 0), isthing=False)
CLASS_FILES = ("classes.yaml", "classes.yml", "classes.json")


def with_background(names: Sequence[str], colors: Sequence[tuple[int, int, int]] = ()) -> tuple[ClassInfo, ...]:
    """Background, and a thing class for each name; colours are made where none are given."""
    if twice := tables.duplicates([BACKGROUND.name, *names]):
        hint = ": class 0 has this name, use another" if BACKGROUND.name in twice else ""
        raise FaultError("class-table", f"class {twice[0]!r} is there twice{hint}")
    tables.check_count(len(names) + 1)
    made = colors or [tables.color(k) for k in range(len(names))]
    things = (ClassInfo(name=name, color=color, isthing=True) for name, color in zip(names, made, strict=True))
    return BACKGROUND, *things


def class_file(tree: Tree) -> str | None:
    return next((name for name in CLASS_FILES if name in tree), None)


def from_file(tree: Tree, name: str) -> tuple[ClassInfo, ...]:
    """Background, and the classes of a classes.yaml, which are things whatever it says."""
    table = tables.parse(tree.files.read(name, limit=1 << 20).decode(errors="replace"), name)
    return with_background([c.name for c in table.classes], [c.color for c in table.classes])
