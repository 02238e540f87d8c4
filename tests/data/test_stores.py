"""A dataset whose images or shards lie in a bucket is the same dataset."""

import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipelines import files
from pipelines.data import shards
from pipelines.data.formats.source import Source
from pipelines.data.ingest import engine
from pipelines.data.ingest.run import Ingested, ingest
from pipelines.data.schema import SPLITS
from pipelines.data.tree import Tree
from pipelines.errors import ConfigError, DataError, RunError

ROOT = Path(__file__).resolve().parents[2]
LISTS = {"train": range(8), "val": range(8, 10), "test": range(10, 12)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve images, whose lists say which is in which split."""
    folder = tmp_path / "scenes"
    for name in ("images", "masks", "splits"):
        (folder / name).mkdir(parents=True)
    (folder / "classes.yaml").write_text("- {name: a}\n- {name: b, isthing: true}\n")
    for split, numbers in LISTS.items():
        (folder / f"splits/{split}.txt").write_text("".join(f"{i:02}\n" for i in numbers))
    for i in range(12):
        _draw(folder, f"{i:02}", seed=i)
    return folder


def _draw(folder: Path, name: str, *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).save(folder / f"images/{name}.png")
    Image.fromarray(rng.integers(0, 2, (9, 7), np.uint8)).save(folder / f"masks/{name}.png")


def take(root: Path | str, out: Path, store: str = "", workers: int = 1, rows: int = 8) -> Ingested:
    state = out.with_name(f"state of {out.name}")
    source = Source(tree=Tree(str(root)), splits={"train": 1})
    how = {"workers": workers, "rows_per_shard": rows, "store": store}
    return ingest(format="folder", source=source, out=out, state=state, earlier=out, **how)


def content(folder: Path) -> list:
    records = [record for split in SPLITS for record in shards.ShardReader(folder, split)]
    return [(r.id, r.split, bytes(r.image), r.semantic.tobytes(), len(r.segments)) for r in records]


@pytest.fixture
def dataset(root: Path, bucket, tmp_path: Path) -> Path:
    """dataset.json alone; its shards are in the bucket, and not on this machine."""
    assert take(root, tmp_path / "made", f"{bucket.uri}/shards", rows=2).manifest is not None
    for path in (tmp_path / "cache/shards").iterdir():
        path.unlink()
    (tmp_path / "alone").mkdir()
    (tmp_path / "made/dataset.json").rename(tmp_path / "alone/dataset.json")
    bucket.gate.log.clear()
    return tmp_path / "alone"


def cached(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache/shards").iterdir() if p.suffix != ".lock")


def test_wherever_images_and_shards_lie_the_dataset_is_the_same(root, bucket, tmp_path):
    plain = take(root, tmp_path / "plain").manifest
    there = bucket.upload(root, "data/scenes")
    for name, source, store in (
        ("from", there, ""),
        ("to", root, f"{bucket.uri}/one"),
        ("both", there, f"{bucket.uri}/two?endpoint_override={bucket.host}&scheme=http"),
    ):
        manifest = take(source, tmp_path / name, store).manifest
        same = [replace(s, path="") for s in manifest.shards] == [replace(s, path="") for s in plain.shards]
        assert same
        assert replace(manifest, shards=(), store="") == replace(plain, shards=())
        assert content(tmp_path / name) == content(tmp_path / "plain")
    names = sorted(f"{s.sha256}.arrow" for s in plain.shards)
    assert bucket.asked("GET", ".arrow") == []  # what was made here is still here
    for store in ("one", "two"):
        assert {k for k in bucket.names() if k.startswith(store)} == {
            f"{store}/{name}" for name in (*names, "README.txt")
        }
    assert [files.sha256(p) for p in sorted((tmp_path / "cache/shards").glob("*.arrow"))] == [n[:64] for n in names]


def test_what_is_in_the_bucket_is_not_made_or_sent_again(root, bucket, tmp_path):
    store = f"{bucket.uri}/shards"
    first = take(root, tmp_path / "out", store)
    assert (first.read, len(bucket.asked("PUT", ".arrow"))) == (12, len(first.manifest.shards))
    bucket.gate.log.clear()
    assert (take(root, tmp_path / "out", store).read, bucket.asked("PUT", ".arrow")) == (0, [])
    _draw(root, "08", seed=99)
    second = take(root, tmp_path / "out", store)
    new = {s.sha256 for s in second.manifest.shards} - {s.sha256 for s in first.manifest.shards}
    assert (second.read, bucket.asked("PUT", ".arrow")) == (1, [f"{name}.arrow" for name in new])
    gone = next(s for s in second.manifest.shards if s.sha256 not in new)
    bucket.drop(f"shards/{gone.path}")
    third = take(root, tmp_path / "out", store)
    assert (third.read, third.manifest) == (gone.rows, second.manifest)
    assert f"shards/{gone.path}" in bucket.names()


def test_a_bucket_that_fails_on_the_way_ends_the_run_and_the_next_goes_on(root, bucket, tmp_path):
    store = f"{bucket.uri}/shards"
    last = take(root, tmp_path / "plain", rows=2).manifest.shards[-1].sha256
    bucket.gate.failing = f"{last}.arrow"
    with pytest.raises(RunError, match=rf"{store}: {last}.arrow could not be written: .*\ndo: .*, and run it again"):
        take(root, tmp_path / "out", store, rows=2)
    assert not (tmp_path / "out/dataset.json").exists()
    bucket.gate.failing = None
    assert take(root, tmp_path / "out", store, rows=2).read == 1
    assert content(tmp_path / "out") == content(tmp_path / "plain")


def test_the_manifest_alone_is_enough_to_read(dataset, root, bucket, tmp_path):
    take(root, tmp_path / "plain")
    assert content(dataset) == content(tmp_path / "plain")
    infos = shards.read_manifest(dataset).shards
    assert sorted(bucket.asked("GET", ".arrow")) == cached(tmp_path) == sorted(s.path for s in infos)
    content(dataset)
    assert len(bucket.asked("GET", ".arrow")) == len(infos)


def test_processes_that_read_at_once_fetch_each_shard_once(dataset, bucket, tmp_path):
    bucket.gate.slow = 0.05
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        first, *others = pool.map(content, [dataset] * 3, chunksize=1)
    assert others == [first, first]
    assert sorted(bucket.asked("GET", ".arrow")) == cached(tmp_path)


def test_a_download_that_breaks_off_is_not_believed(dataset, bucket, tmp_path):
    bucket.gate.cut = 100
    with pytest.raises(DataError, match=rf"shard \w+\.arrow cannot be fetched from {bucket.uri}/shards: "):
        content(dataset)
    assert cached(tmp_path) == []
    bucket.gate.cut = None
    assert len(content(dataset)) == 12


def test_another_file_in_a_shard_s_place_is_not_believed(dataset, bucket, tmp_path):
    key = f"shards/{shards.read_manifest(dataset).shards[0].path}"
    right = bucket.get(key)
    for wrong in (right[:-1] + b"x", right[:-8], right + b"more", b""):
        bucket.put(key, wrong)
        with pytest.raises(DataError, match=r"sha256 mismatch: shard .* of the bucket is not what ingest wrote"):
            content(dataset)
    assert cached(tmp_path) == []


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_file_in_the_cache_is_fetched_again(dataset, bucket, tmp_path, damage):
    before = content(dataset)
    path = tmp_path / "cache/shards" / cached(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # the readers above may still have it mapped
    path.write_bytes(data if damage == "flip" else data[:-1])
    bucket.gate.log.clear()
    assert content(dataset) == before
    assert bucket.asked("GET", ".arrow") == [path.name]


def test_what_is_gone_is_said(dataset, bucket):
    for key in bucket.names():
        bucket.drop(key)
    with pytest.raises(DataError, match=rf"shard \w+\.arrow is not in {bucket.uri}/shards, .*\ndo: dvc repro"):
        content(dataset)
    bucket.client.delete_bucket(Bucket=bucket.name)
    with pytest.raises(DataError, match=rf"shard \w+\.arrow is not in {bucket.uri}/shards, .*\ndo: dvc repro"):
        content(dataset)


def test_a_server_that_does_not_answer_is_said(dataset, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"cannot be fetched from .*: nothing answers\ndo: see that AWS_ENDPOINT_URL"):
        content(dataset)


def test_a_manifest_cannot_name_files_elsewhere(dataset):
    manifest = shards.read_manifest(dataset)
    for change in ({"path": "../x.arrow"}, {"sha256": "../../../x", "path": "../../../x.arrow"}):
        raw = asdict(replace(manifest, shards=(replace(manifest.shards[0], **change), *manifest.shards[1:])))
        files.write_json(dataset / "dataset.json", {**raw, "checksum": files.digest(raw)})
        with pytest.raises(DataError, match="names shards outside"):
            shards.read_manifest(dataset)


def test_the_cache_drops_what_was_used_longest_ago(dataset, bucket, tmp_path, monkeypatch):
    infos = [s for s in shards.read_manifest(dataset).shards if s.split == "train"]
    assert len(infos) >= 4
    monkeypatch.setenv("MASKLINE_CACHE_GB", f"{3.5 * max(s.bytes for s in infos) / 1e9:.12f}")
    starts = np.cumsum([0, *(s.rows for s in infos)])

    def use(k: int) -> None:
        shards.ShardReader(dataset, "train")[int(starts[k])]
        time.sleep(0.01)  # whose time stamps a disk tells apart

    for k in (0, 1, 2, 0, 3):
        use(k)
    assert cached(tmp_path) == sorted(infos[k].path for k in (0, 2, 3))
    (tmp_path / "cache/shards/.x.arrow.tmp").touch()
    os.utime(tmp_path / "cache/shards/.x.arrow.tmp", (0, 0))  # of a process that was killed
    use(1)
    assert cached(tmp_path) == sorted(infos[k].path for k in (0, 1, 3))


def test_what_any_process_has_open_is_not_dropped(dataset, bucket, tmp_path, monkeypatch):
    """And is not fetched twice for that."""
    monkeypatch.setenv("MASKLINE_CACHE_GB", "0")
    script = (
        "import sys, pathlib; from pipelines.data.shards import ShardReader\n"
        "reader = ShardReader(pathlib.Path(sys.argv[1]), 'val'); reader[0]; print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(dataset)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        here = shards.ShardReader(dataset, "test")
        here[0]
        train = shards.ShardReader(dataset, "train")
        first = train[0]
        assert len(cached(tmp_path)) == 3
        shards.ShardReader(dataset, "val")[0]
        assert len(bucket.asked("GET", ".arrow")) == 3
        other.communicate()
    del here
    assert train[len(train) - 1].id != first.id
    assert cached(tmp_path) == sorted(s.path for s in train._infos[:: len(train._infos) - 1])


def test_a_wrong_limit_is_said(dataset, monkeypatch):
    monkeypatch.setenv("MASKLINE_CACHE_GB", "10 GB")
    with pytest.raises(ConfigError, match="MASKLINE_CACHE_GB is '10 GB'\ndo: set it to a number"):
        content(dataset)


def test_a_cache_that_cannot_be_written_is_said(dataset, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MASKLINE_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match="cannot hold shards: Not a directory\ndo: set MASKLINE_CACHE"):
        content(dataset)


def stage(folder: Path, root: str, store: str | None, **environment: str | None) -> tuple[int, str, float]:
    """Exit code, what was said, seconds."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["dataset"] |= {"format": "folder", "root": root, "splits": {"train": 0.6, "val": 0.2, "test": 0.2}}
    params["ingest"] |= {"store": store}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    given = {name: value for name, value in settings.items() if value is not None}
    started = time.monotonic()
    command = [sys.executable, "-m", "stages.ingest"]
    done = subprocess.run(command, cwd=folder, env=given, text=True, capture_output=True, timeout=120, check=False)
    return done.returncode, done.stderr, time.monotonic() - started


def test_the_stage_from_bucket_to_bucket(root, bucket, tmp_path):
    code, said, _ = stage(tmp_path, bucket.upload(root, "data/scenes"), f"{bucket.uri}/shards")
    assert code == 0, said
    assert len(content(tmp_path / "results/ingest")) == 12


NO_KEYS = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
NOWHERE = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("place", "store", "environment", "said"),
    [
        ("s3://no-such-bucket/x", None, {}, "dataset.root: s3://no-such-bucket/x cannot be listed: there is no such b"),
        ("scenes", "s3://no-such-bucket/x", {}, "ingest.store: s3://no-such-bucket/x cannot be written to: there is n"),
        ("{uri}", None, NO_KEYS, "dataset.root: {uri} cannot be listed: access is denied"),
        ("scenes", "{uri}", NO_KEYS, "ingest.store: {uri} cannot be written to: access is denied"),
        ("{uri}", None, NOWHERE, "dataset.root: {uri} cannot be listed: nothing answers"),
        ("scenes", "{uri}", NOWHERE, "ingest.store: {uri} cannot be written to: nothing answers"),
    ],
    ids=["root", "store", "root-keys", "store-keys", "root-nowhere", "store-nowhere"],
)
def test_the_stage_refuses_what_it_cannot_reach(root, bucket, tmp_path, place, store, environment, said):
    store = store and store.format(uri=bucket.uri)
    code, err, seconds = stage(tmp_path, place.format(uri=bucket.uri), store, **environment)
    assert code == 2, err
    assert err.startswith(f"ingest: {said.format(uri=bucket.uri)}")
    assert err.count("\n") == 2
    assert not (tmp_path / "results/ingest").exists()
    assert seconds < 20


@pytest.mark.slow
def test_ray_s_workers_read_and_write_buckets(root, bucket, tmp_path):
    for i in range(engine.FEW):  # more than the twelve, so that Ray is needed
        _draw(root, f"more{i}", seed=i)
    with (root / "splits/train.txt").open("a") as lists:
        lists.writelines(f"more{i}\n" for i in range(engine.FEW))
    there, store = bucket.upload(root, "data/scenes"), f"{bucket.uri}/shards"
    code, said, _ = stage(tmp_path, there, store)
    assert code == 0, said
    plain = take(root, tmp_path / "plain", rows=256).manifest
    assert shards.read_manifest(tmp_path / "results/ingest").hash == plain.hash
    assert content(tmp_path / "results/ingest") == content(tmp_path / "plain")
    bucket.upload(root, "data/changed")
    bucket.gate.failing = "/more7.png"
    code, said, _ = stage(tmp_path, f"{bucket.uri}/data/changed", store)
    assert code == 1
    assert said.count("more7.png cannot be read: ") == 1
    assert "Traceback" not in said
