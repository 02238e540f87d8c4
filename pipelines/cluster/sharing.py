"""What all nodes of a cluster must share, looked at from each of them before work starts: afterwards it would show as
a file that is missing, a model that nobody can find, or weights of which half were trained by other code."""

import hashlib
import platform
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines import files
from pipelines.cluster import CODE, is_ours
from pipelines.cluster.room import Node, nodes, on
from pipelines.errors import RunError, bounded

LIBRARIES = ("torch", "torchvision", "ray", "numpy", "pyarrow", "timm")  # from which results follow
TOKEN = "token"  # noqa: S105 - a file's name
ANSWER = 60.0  # seconds
NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """What workers read and write."""

    state: Path  # a folder in which all of them write
    same: tuple[Path, ...] = ()  # files with the same bytes everywhere
    sizes: tuple[Path, ...] = ()  # large ones, of which the size will do
    reach: Callable[[], None] | None = None  # raises where a bucket cannot be reached


def check(shared: Shared, known: frozenset[str] = frozenset()) -> frozenset[str]:
    """Refuse a cluster whose nodes do not see the same, in one message; returns the ids of those that do. Who is in
    `known` is not asked again; a Ray of our own has nothing to share."""
    new = [] if is_ours() else [node for node in nodes() if node.id not in known]
    if not new:
        return known
    with _folder(shared.state) as folder:
        expected = _look(shared.same, shared.sizes, CODE, folder, "driver")
        looked = _asked(new, lambda node: (_look, shared.same, shared.sizes, CODE, folder, node.id))
        faults = {node: _differences(found, expected, folder / node.id) for node, found in looked.items()}
    if shared.reach:
        reached = _asked([node for node in new if not faults[node]], lambda node: (shared.reach,))
        faults |= {node: [found] for node, found in reached.items() if isinstance(found, str)}
    listed = [f"{node}: {fault}" for node, of_node in faults.items() for fault in of_node]
    if listed:
        raise RunError(
            "\n  - ".join(["the nodes of the cluster do not share what this needs:", *bounded(listed)])
            + f"\ndo: put {CODE} on storage that all nodes mount there, install requirements.lock and the same Python "
            "on each (README, On a cluster), or take the node out of the cluster"
        )
    return known | {node.id for node in new}


@contextmanager
def _folder(state: Path) -> Iterator[Path]:
    """Of its own for each check, with a token in it that no other machine can have by chance."""
    folder = state / f".shared-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        (folder / TOKEN).write_text(uuid.uuid4().hex)
        yield folder
    finally:
        files.remove(folder)


def _look(same: tuple[Path, ...], sizes: tuple[Path, ...], code: Path, folder: Path, name: str) -> dict[str, str]:
    """What there is here, as name -> value. Runs on nodes that may have nothing of ours: needs Python alone."""

    def digest(paths: list[Path]) -> str:
        parts = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()]
        return f"sha256 {hashlib.sha256(''.join(parts).encode()).hexdigest()[:12]}" if parts else NOTHING

    def version(library: str) -> str:
        try:
            return metadata.version(library)
        except metadata.PackageNotFoundError:
            return NOTHING

    found = {"Python": platform.python_version(), **{library: version(library) for library in LIBRARIES}}
    sources = sorted([*(code / "pipelines").rglob("*.py"), *(code / "stages").rglob("*.py")])
    found[f"the code in {code}"] = digest(sources)
    found |= {str(path): digest([path]) for path in same}
    found |= {str(path): f"{path.stat().st_size} bytes" if path.is_file() else NOTHING for path in sizes}
    found[f"the folder {folder.parent}"] = digest([folder / TOKEN])
    if folder.is_dir():
        (folder / name).touch()
    return found


def _asked(at: list[Node], call: Callable[[Node], tuple[Any, ...]]) -> dict[Node, Any]:
    """What each node answers; a line of text where it is an error."""
    import ray

    module = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(module)  # a node without our code can be asked, too
    try:
        asked = {node: on(node, *call(node)) for node in at}
    finally:
        ray.cloudpickle.unregister_pickle_by_value(module)
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER)
    return {node: _answer(reference) for node, reference in asked.items()}


def _answer(reference: Any) -> Any:
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    try:
        return ray.get(reference, timeout=0)
    except GetTimeoutError:
        return f"does not answer within {ANSWER:g} seconds"
    except RayError as error:
        return str(getattr(error, "cause", None) or error).strip().splitlines()[-1]


def _differences(found: dict[str, str] | str, expected: dict[str, str], answer: Path) -> list[str]:
    if isinstance(found, str):
        return [found]
    differ = [f"{name}: {found[name]}, here {value}" for name, value in expected.items() if found[name] != value]
    if not differ and not answer.exists():
        return [f"what it writes in {answer.parent.parent} is not seen here"]
    return differ
