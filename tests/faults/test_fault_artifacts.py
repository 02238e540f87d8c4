"""What ingest has written, damaged afterwards or while it is read, and ingests that are killed while they write."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from pipelines import files
from pipelines.data import shards
from pipelines.data.schema import SPLITS
from pipelines.errors import DataError
from tests.faults import matter, processes
from tests.faults.line import content, records, run
from tests.faults.sources import folder

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "out"
    processes.draw(out, out.with_name("state"))
    return out


@pytest.fixture
def copy(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "copy")


def shard_of(out: Path, split: str = "train") -> Path:
    return sorted((out / "shards").glob(f"{split}-*"))[0]


def caught(out: Path) -> str:
    """What reading the training split says."""
    with pytest.raises(DataError) as error:
        list(shards.ShardReader(out, "train"))
    said = str(error.value)
    assert "\ndo: dvc repro" in said
    return said


def damage_shards(out: Path, times: int, change: Callable[[bytes], bytes]) -> None:
    path = shard_of(out)
    whole = path.read_bytes()
    for _ in range(times):
        path.write_bytes(change(whole))
        said = caught(out)
        assert f"sha256 mismatch: shard {path}" in said
    path.write_bytes(whole)
    assert len(list(shards.ShardReader(out, "train"))) == 6


def one_bit(data: bytes) -> bytes:
    return matter.flipped(data, int(RNG.integers(0, 8 * len(data))))


def test_a01_every_flipped_bit_of_a_shard_is_caught(copy):
    damage_shards(copy, 1000, one_bit)


def test_a01_every_flipped_bit_of_a_manifest_is_caught(copy):
    """Or says the same: 1e-05 is 1E-05."""
    path, sound = copy / "dataset.json", shards.read_manifest(copy)
    whole, same = path.read_bytes(), 0
    for _ in range(1000):
        path.write_bytes(one_bit(whole))
        try:
            assert shards.read_manifest(copy) == sound
            same += 1
        except DataError as error:
            assert "dataset.json" in str(error)  # noqa: PT017 - nearly all are refused
            assert "\ndo: dvc repro" in str(error)  # noqa: PT017
    assert same < 10


def zeroed(data: bytes) -> bytes:
    at = int(RNG.integers(0, len(data) - 512))
    return data[:at] + bytes(512) + data[at + 512 :] if any(data[at : at + 512]) else zeroed(data)


@pytest.mark.parametrize(
    "change", [lambda data: data[: int(RNG.integers(0, len(data)))], zeroed], ids=["cut", "zeroed"]
)
def test_a02_cut_and_zeroed_shards_are_caught(copy, change):
    damage_shards(copy, 60, change)


def test_a02_cut_manifests_are_caught(copy):
    path = copy / "dataset.json"
    whole = path.read_bytes()
    for end in RNG.integers(0, len(whole) - 1, 60).tolist():
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"dataset\.json is damaged: .*\ndo: dvc repro --force ingest"):
            shards.read_manifest(copy)


def killed_at(changes: Iterable[int], drawn: Path, folder: Path) -> bool:
    """Ingests that are killed at the k-th change of a file, each followed by one that goes on; whether the last had
    ended before it could be killed."""
    want = content(drawn)
    for k in changes:
        out, state = folder / f"{k}/out", folder / f"{k}/state"
        out.parent.mkdir()
        process = processes.start(processes.draw_until, k, out, state)
        process.join(60)
        if (out / "dataset.json").exists():  # then it is whole, and so is all that it names
            assert len(records(out)) == 10
        if process.exitcode == 0:
            return True
        assert process.exitcode == -signal.SIGKILL
        shutil.rmtree(out, ignore_errors=True)  # as the stage does when it begins
        processes.draw(out, state)
        assert content(out) == want
        assert not list(out.parent.rglob("*.tmp"))
    return False


def test_a03_an_ingest_that_is_killed_goes_on_to_the_same_bytes(drawn, tmp_path):
    assert not killed_at([0, 1, 2, 3, 7, 12, 18, 25, 33, 39, 90], drawn, tmp_path)


@pytest.mark.slow
def test_a03_an_ingest_that_is_killed_at_any_change_goes_on_to_the_same_bytes(drawn, tmp_path):
    assert killed_at(range(500), drawn, tmp_path)


@pytest.mark.slow
def test_a03_an_ingest_that_is_killed_at_any_moment_leaves_nothing_behind(tmp_path):
    root = tmp_path / "source"
    folder(root, "folder", [f"{i:03}" for i in range(60)])
    run(root, tmp_path / "want")
    want = content(tmp_path / "want")
    for k in range(40):
        out, state = tmp_path / f"{k}/out", tmp_path / f"{k}/state"
        process = processes.start(_take, root, out, state)
        time.sleep(float(RNG.uniform(0.1, 1.5)))
        children = psutil.Process(process.pid).children(recursive=True) if process.is_alive() else []
        process.kill()
        process.join()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
        run(root, out, state=state)
        assert content(out) == want


def _take(root: Path, out: Path, state: Path) -> None:
    run(root, out, state=state)


def test_a05_a_shard_that_is_cut_while_it_is_read_is_no_signal(copy):
    reader = shards.ShardReader(copy, "train")
    assert reader[0].image
    path = shard_of(copy)
    with path.open("r+b") as file:
        file.truncate(64)
    with pytest.raises(DataError, match=r"shard .* was cut while it was read\ndo: dvc repro --force ingest"):
        reader[0]


def test_a05_a_shard_that_is_replaced_while_it_is_read_stays_readable(copy):
    reader = shards.ShardReader(copy, "train")
    image = bytes(reader[0].image)
    path = shard_of(copy)
    (copy / "other").write_bytes(b"short")
    (copy / "other").replace(path)
    assert bytes(reader[0].image) == image
    path.unlink()
    assert bytes(reader[0].image) == image


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_a06_manifests_of_other_versions_are_refused(copy, version):
    raw = json.loads((copy / "dataset.json").read_text())
    files.write_json(copy / "dataset.json", raw | {"version": version})
    with pytest.raises(DataError, match=rf"has version {version}, this build reads 2\ndo: dvc repro --force ingest"):
        shards.read_manifest(copy)


@pytest.mark.parametrize("change", ["column", "metadata", "type"])
def test_a06_shards_of_another_schema_are_refused(copy, change):
    """Whose hash the manifest says, as an older build would."""
    path, manifest = shard_of(copy), shards.read_manifest(copy)
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    changed = {
        "column": lambda: table.drop_columns(["sums"]),
        "metadata": lambda: table.replace_schema_metadata({**table.schema.metadata, b"maskline": b"1"}),
        "type": lambda: table.set_column(4, "height", table["height"].cast(pa.int64())),
    }[change]()
    path.unlink()
    with pa.ipc.new_file(str(path), changed.schema) as sink:
        sink.write_table(changed)
    name = str(path.relative_to(copy))
    now = {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
    raw = asdict(replace(manifest, shards=tuple(replace(s, **now) if s.path == name else s for s in manifest.shards)))
    raw = json.loads(json.dumps(raw))
    files.write_json(copy / "dataset.json", {**raw, "checksum": files.digest(raw)})
    assert f"shard {path} has another schema or other rows than the manifest says" in caught(copy)


def test_a06_a_missing_shard_is_named(copy):
    path = shard_of(copy)
    path.unlink()
    assert f"shard {path} cannot be read: " in caught(copy)
    assert all(len(list(shards.ShardReader(copy, split))) == 2 for split in SPLITS if split != "train")


def test_a01_a_state_that_was_damaged_is_not_believed(drawn, tmp_path):
    """Shards and their notes that an earlier ingest has left: those that are not what they were are made again."""
    state = tmp_path / "state"
    processes.draw(tmp_path / "first", state)
    for path in sorted(state.iterdir()):
        data = one_bit(path.read_bytes())
        path.unlink()  # the outputs are links to the same file
        path.write_bytes(data)
    processes.draw(tmp_path / "second", state)
    assert content(tmp_path / "second") == content(tmp_path / "first") == content(drawn)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A source of which reading one image takes some hundred megabytes."""
    folder(tmp_path / "source", "folder", ["a", "b", "c"])
    for kind in ("images", "masks"):
        (tmp_path / f"source/{kind}/b.png").write_bytes(matter.bomb(8000, 8000))
    return tmp_path / "source"


def test_d02_a_reading_process_that_dies_costs_one_image(large, tmp_path):
    """Killed from outside as the kernel does it where memory is short."""
    killed: list[int] = []

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for child in psutil.Process().children(recursive=True):
                try:
                    if child.memory_info().rss > 300 << 20 and "spawn_main" in " ".join(child.cmdline()):
                        child.kill()
                        killed.append(child.pid)
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = run(large, tmp_path / "out", max_rejected=0.5, stratify=False)
    watcher.join()
    assert [(f.kind, f.item, f.file) for f in done.report.faults] == [("crashed", "b", "images/b.png")]
    assert done.report.faults[0].reason == "the process that read it was killed by SIGKILL"
    assert set(records(tmp_path / "out")) == {"a", "c"}


def test_d05_bombs_cost_neither_memory_nor_time(tmp_path):
    """Less than a gigabyte; and five seconds on a machine that does nothing else."""
    root = tmp_path / "source"
    folder(root, "folder", ["a", "b", "c", "d"])
    for key, data in {
        "a": matter.bomb(10_000, 10_000),
        "b": matter.bomb(20_000, 10_000),
        "c": matter.header_alone(60_000, 60_000),
        "d": matter.text_bomb(100),
    }.items():
        (root / f"images/{key}.png").write_bytes(data)
    here, there = processes.CONTEXT.Pipe()
    process = processes.start(processes.measured, root, tmp_path / "out", there)
    there.close()
    peak, seconds = here.recv()
    process.join(60)
    assert peak < 1 << 30
    assert seconds < 30
