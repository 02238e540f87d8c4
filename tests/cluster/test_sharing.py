"""What is not shared is said, of each node, before anything starts."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster import sharing
from pipelines.data.formats.source import Item
from pipelines.data.ingest import shared as ingested
from pipelines.data.tree import Tree
from pipelines.errors import DataError, RunError
from pipelines.training.workers import shared

EXPECTED = {"Python": "3.11.7", "torch": "2.15.0", "the code in /here": "sha256 1", "the folder /runs": "sha256 2"}


def test_one_that_sees_the_same_has_no_fault(tmp_path):
    (tmp_path / "answer").touch()
    assert sharing._differences(dict(EXPECTED), EXPECTED, tmp_path / "answer") == []


def test_each_difference_is_told(tmp_path):
    found = {**EXPECTED, "torch": "2.9.0", "the code in /here": "nothing"}
    assert sharing._differences(found, EXPECTED, tmp_path / "answer") == [
        "torch: 2.9.0, here 2.15.0",
        "the code in /here: nothing, here sha256 1",
    ]


def test_what_cannot_be_written_is_told(tmp_path):
    """The same files to read, on a mount that is read-only, or a copy."""
    assert sharing._differences(dict(EXPECTED), EXPECTED, tmp_path / "a" / "b" / "answer") == [
        f"what it writes in {tmp_path / 'a'} is not seen here"
    ]


def test_a_look_sees_what_changes_a_result(tmp_path):
    code, token = tmp_path / "code", tmp_path / "runs" / "shared"
    (code / "pipelines").mkdir(parents=True)
    token.mkdir(parents=True)
    (code / "pipelines" / "a.py").write_text("1")
    (token / sharing.TOKEN).write_text("x")
    (tmp_path / "dataset.json").write_text("{}")
    (tmp_path / "shard").write_bytes(b"12")

    def look() -> dict[str, str]:
        return sharing._look((tmp_path / "dataset.json",), (tmp_path / "shard",), code, token, "node")

    first = look()
    assert (token / "node").exists()
    assert look() == first
    changed = {
        f"the code in {code}": lambda: (code / "pipelines" / "a.py").write_text("2"),
        str(tmp_path / "dataset.json"): lambda: (tmp_path / "dataset.json").write_text("{ }"),
        str(tmp_path / "shard"): lambda: (tmp_path / "shard").unlink(),
        f"the folder {tmp_path / 'runs'}": lambda: (token / sharing.TOKEN).unlink(),
    }
    for name, change in changed.items():
        change()
        now = look()
        assert {n for n in first if first[n] != now[n]} == {name}
        first = now


def test_an_ingest_shares_its_sources_and_where_it_works(tmp_path):
    (tmp_path / "data").mkdir()
    for i in range(20):
        (tmp_path / "data" / f"{i:02}.png").write_bytes(b"x")
    items = [Item(id=str(i), split=None, files=(f"{i:02}.png",)) for i in range(20)]
    found = ingested.of(Tree(str(tmp_path / "data")), items, tmp_path / "state")
    assert found.state == tmp_path / "state"
    assert [path.name for path in found.sizes] == ["00.png", "03.png", "06.png", "09.png", "12.png", "15.png", "18.png"]
    assert all(path.is_file() for path in found.sizes)
    assert ingested.of(None, items, tmp_path) == sharing.Shared(state=tmp_path), "what is drawn is read from nowhere"


def test_a_ray_of_our_own_is_not_asked(ray, tmp_path):
    nothing = sharing.Shared(state=tmp_path, same=(tmp_path / "none",))
    assert sharing.check(nothing) == frozenset()


def looked_at(data: Path, state: Path, **changes: Any) -> tuple[int, float]:
    """In a driver: how many nodes see the same, and the seconds that it took to ask them again."""
    wanted = dataclasses.replace(shared.of(data, state), **changes)
    seen = sharing.check(wanted)
    start = time.monotonic()
    assert sharing.check(wanted, seen) == seen
    return len(seen), time.monotonic() - start


def unreachable() -> None:
    raise DataError("s3://none cannot be reached: nothing answers")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_nodes_are_looked_at(cluster_of: Callable[..., Any], dataset: Path, tmp_path: Path):
    from tests.cluster.nodes import drive

    cluster = cluster_of(1, 1)
    count, again = drive(cluster.address, looked_at, dataset, tmp_path)
    assert count == 2
    assert again < 0.5, "nodes that are known are not asked again"
    assert list(tmp_path.iterdir()) == [], "and nothing is left behind"
    with pytest.raises(RunError) as raised:
        drive(cluster.address, looked_at_with_faults, dataset, tmp_path)
    lines = str(raised.value).splitlines()
    assert lines[0] == "the nodes of the cluster do not share what this needs:"
    assert [line.split(": ", 1)[1] for line in lines[1:3]] == ["s3://none cannot be reached: nothing answers"] * 2
    assert lines[-1].startswith("do: ")


def looked_at_with_faults(data: Path, state: Path) -> Any:
    return looked_at(data, state, reach=unreachable)
