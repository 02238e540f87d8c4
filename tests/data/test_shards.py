"""What is written comes back, or an error says why not."""

import json
import os
import pickle
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines import files
from pipelines.data import rle, rows, shards, writer
from pipelines.data.schema import IGNORE, ClassInfo, Record, Segment
from pipelines.errors import DataError

CLASSES = (
    ClassInfo(name="ground", color=(1, 2, 3), isthing=False),
    ClassInfo(name="cell", color=(4, 5, 6), isthing=True),
    ClassInfo(name="<script>", color=(7, 8, 9), isthing=True),
)


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


def segment(mask: np.ndarray, category: int = 1, iscrowd: bool = False) -> Segment:
    return Segment(
        category=category, bbox=rle.bbox(mask), area=int(mask.sum()), iscrowd=iscrowd, counts=rle.encode(mask)
    )


def record(identity: str, split: str = "train", size: tuple[int, int] = (6, 8), seed: int = 0, **changes) -> Record:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    semantic = rng.choice(np.array([0, 1, 2, IGNORE], np.uint8), size)
    made = Record(
        id=identity, split=split, image=png(pixels), format="png", height=size[0], width=size[1], semantic=semantic
    )
    return replace(made, **changes)


def write(records, out: Path, rows_per_shard: int = 3):
    return shards.write(records, classes=CLASSES, name="tiny", format="folder", out=out, rows_per_shard=rows_per_shard)


def assert_same(got: Record, want: Record) -> None:
    scalars = ("id", "split", "image", "format", "height", "width")
    assert [getattr(got, k) for k in scalars] == [getattr(want, k) for k in scalars]
    np.testing.assert_array_equal(got.semantic, want.semantic)
    assert len(got.segments) == len(want.segments)
    for a, b in zip(got.segments, want.segments, strict=True):
        assert (a.category, a.bbox, a.area, a.iscrowd) == (b.category, b.bbox, b.area, b.iscrowd)
        np.testing.assert_array_equal(a.counts, b.counts)


@st.composite
def some_records(draw) -> list[Record]:
    made = []
    for i in range(draw(st.integers(1, 8))):
        size = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
        masks = draw(st.lists(arrays(bool, size), max_size=4))  # they overlap, have holes, may be empty
        made.append(
            Record(
                id=f"ü {i}/{draw(st.text(st.characters(codec='utf-8'), max_size=3))}",
                split=draw(st.sampled_from(["train", "val", "test"])),
                image=png(draw(arrays(np.uint8, (*size, 3)))),
                format="png",
                height=size[0],
                width=size[1],
                semantic=draw(arrays(np.uint8, size, elements=st.sampled_from([0, 1, 2, IGNORE]))),
                segments=tuple(segment(m, draw(st.integers(1, 2)), draw(st.booleans())) for m in masks),
            )
        )
    return made


@settings(max_examples=40, deadline=None)
@given(some_records(), st.integers(1, 4))
def test_what_is_written_comes_back(records, rows_per_shard):
    with tempfile.TemporaryDirectory() as folder:
        manifest = write(records, Path(folder), rows_per_shard)
        assert shards.read_manifest(Path(folder)) == manifest
        assert all(info.rows <= rows_per_shard for info in manifest.shards)
        for split in ("train", "val", "test"):
            want = [r for r in records if r.split == split]
            reader = shards.ShardReader(Path(folder), split)
            assert len(reader) == len(want) == manifest.images[split]
            for got, wanted in zip(reader, want, strict=True):
                assert_same(got, wanted)
                for a, b in zip(got.segments, wanted.segments, strict=True):
                    np.testing.assert_array_equal(
                        rle.decode(a.counts, got.height, got.width), rle.decode(b.counts, got.height, got.width)
                    )


@settings(max_examples=30, deadline=None)
@given(some_records())
def test_statistics_are_those_of_the_pixels(records):
    with tempfile.TemporaryDirectory() as folder:
        manifest = write(records, Path(folder))
    train = [r for r in records if r.split == "train"]
    if train:
        images = [cv2.imdecode(np.frombuffer(r.image, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for r in train]
        pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
        np.testing.assert_allclose(manifest.mean, pixels.mean(0), atol=1e-12)
        np.testing.assert_allclose(manifest.std, pixels.std(0), atol=1e-12)
    semantic = np.concatenate([np.zeros(0, np.uint8), *(r.semantic.ravel() for r in train)])
    assert manifest.pixels_per_class == tuple(int((semantic == k).sum()) for k in range(3))
    assert manifest.ignored_pixels == int((semantic == IGNORE).sum())
    instances = [(r.split, s.category) for r in records for s in r.segments if not s.iscrowd]
    assert manifest.instances == {k: sum(s == k for s, _ in instances) for k in ("train", "val", "test")}
    assert manifest.instances_per_class == tuple(instances.count(("train", k)) for k in range(3))
    assert manifest.max_size == (max(r.height for r in records), max(r.width for r in records))


def test_statistics_do_not_depend_on_the_order(tmp_path):
    records = [record(str(i), seed=i) for i in range(5)]
    one, other = write(records, tmp_path / "a"), write(records[::-1], tmp_path / "b")
    assert (one.mean, one.std, one.pixels_per_class) == (other.mean, other.std, other.pixels_per_class)


def test_the_same_records_give_the_same_bytes(tmp_path):
    records = [record(f"{split}/{i}", split, seed=i) for i in range(4) for split in ("train", "val")]
    for name in ("a", "b"):
        write(iter(records), tmp_path / name, rows_per_shard=2)
    a, b = (
        {str(p.relative_to(tmp_path / n)): p.read_bytes() for p in sorted((tmp_path / n).rglob("*.*"))} for n in "ab"
    )
    assert a == b
    assert sorted(a) == ["dataset.json", *(f"shards/{s}-0000{k}.arrow" for s in ("train", "val") for k in (0, 1))]


def test_the_hash_is_that_of_the_data(tmp_path):
    records = [record("a"), record("b")]
    same, other = write(records, tmp_path / "a"), write(records, tmp_path / "b")
    changed = write([record("a"), record("b", seed=1)], tmp_path / "c")
    renamed = shards.write(
        records, classes=CLASSES[::-1], name="tiny", format="folder", out=tmp_path / "d", rows_per_shard=3
    )
    assert same.hash == other.hash
    assert len({same.hash, changed.hash, renamed.hash}) == 3


def test_a_large_shard_is_read_across_its_batches(tmp_path, monkeypatch):
    records = [record(str(i), "val", seed=i) for i in range(5)]
    smallest = min(len(r.image) for r in records)
    monkeypatch.setattr(writer, "BATCH_BYTES", smallest + 100)  # more than one row, and no more than two
    manifest = write(records, tmp_path, rows_per_shard=5)
    assert pa.ipc.open_file(tmp_path / manifest.shards[0].path).num_record_batches == 3
    reader = shards.ShardReader(tmp_path, "val")
    for i in (4, 0, 3, 1, 2):
        assert_same(reader[i], records[i])


def test_a_reader_is_a_sequence_that_can_be_sent_to_other_processes(tmp_path):
    records = [record(str(i), seed=i) for i in range(7)]
    write(records, tmp_path)
    reader = shards.ShardReader(tmp_path, "train")
    assert_same(reader[-1], records[-1])
    with pytest.raises(IndexError):
        reader[7]
    assert_same(pickle.loads(pickle.dumps(reader))[3], records[3])  # noqa: S301
    assert reader.table("id", "height").to_pydict() == {"id": [str(i) for i in range(7)], "height": [6] * 7}


def test_a_split_without_images_is_empty(tmp_path):
    write([record("a")], tmp_path)
    reader = shards.ShardReader(tmp_path, "val")
    assert len(reader) == 0
    assert reader.table("id").num_rows == 0


def test_ids_are_unique(tmp_path):
    with pytest.raises(DataError, match="two records have the id 'a'"):
        write([record("a"), record("b"), record("a", "val")], tmp_path)


def test_an_interrupted_write_leaves_no_dataset(tmp_path):
    write([record(str(i)) for i in range(7)], tmp_path)

    def broken():
        yield from (record(str(i), seed=i) for i in range(5))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(broken(), tmp_path)
    # The shard that was full is there and whole, the open one is not, and nothing says that this is a dataset.
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["train-00000.arrow"]
    assert pa.ipc.open_file(tmp_path / "shards/train-00000.arrow").get_batch(0).num_rows == 3
    with pytest.raises(DataError, match=r"dataset.json is missing\ndo: dvc repro ingest"):
        shards.ShardReader(tmp_path, "train")


def flip(path: Path, bit: int) -> bytes:
    before = path.read_bytes()
    data = bytearray(before)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return before


def test_every_flipped_bit_of_a_shard_is_found(tmp_path):
    write([record("a", segments=(segment(np.eye(6, 8, dtype=bool)),))], tmp_path)
    path = tmp_path / "shards/train-00000.arrow"
    bits = path.stat().st_size * 8
    for bit in [0, *np.random.default_rng(0).integers(0, bits, 200).tolist(), bits - 1]:
        before = flip(path, bit)
        with pytest.raises(DataError, match=r"sha256 mismatch: shard .*train-00000.*\ndo: dvc repro --force ingest"):
            shards.ShardReader(tmp_path, "train")[0]
        path.write_bytes(before)
    assert shards.ShardReader(tmp_path, "train")[0].id == "a"


def test_every_flipped_bit_of_the_manifest_is_found(tmp_path):
    write([record("a")], tmp_path)
    path = tmp_path / "dataset.json"
    for bit in range(0, path.stat().st_size * 8, 61):
        before = flip(path, bit)
        with pytest.raises(DataError, match=r"dataset\.json .*\ndo: dvc repro --force ingest"):
            shards.read_manifest(tmp_path)
        path.write_bytes(before)


@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_shard_is_never_mapped(tmp_path, verify):
    write([record("a")], tmp_path)
    path = tmp_path / "shards/train-00000.arrow"
    for keep in (0, 100, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DataError, match="mismatch"):
            shards.ShardReader(tmp_path, "train", verify=verify)[0]


def test_a_missing_shard_is_named(tmp_path):
    write([record("a")], tmp_path)
    (tmp_path / "shards/train-00000.arrow").unlink()
    with pytest.raises(DataError, match=r"train-00000.arrow cannot be read: .*No such file"):
        shards.ShardReader(tmp_path, "train")[0]


def rewrite_manifest(folder: Path, **changes) -> None:
    raw = json.loads((folder / "dataset.json").read_text()) | changes
    del raw["checksum"]
    files.write_json(folder / "dataset.json", {**raw, "checksum": files.digest(raw)})


@pytest.fixture(params=["a folder", "a bucket's cache"])
def many(request, tmp_path, monkeypatch) -> tuple[Path, list[Record], list[Path]]:
    """A dataset of more shards than a reader holds, its records and the files of its shards."""
    monkeypatch.setattr(shards, "MAPPED", 4)
    records = [record(str(i), seed=i, segments=(segment(np.eye(6, 8, i % 3, bool)),)) for i in range(40)]
    infos = write(records, tmp_path, rows_per_shard=2).shards
    if request.param == "a folder":
        return tmp_path, records, [tmp_path / info.path for info in infos]
    monkeypatch.setenv("MASKLINE_CACHE", str(tmp_path / "cache"))
    cached = [tmp_path / f"cache/shards/{info.sha256}.arrow" for info in infos]
    cached[0].parent.mkdir(parents=True)
    for info, path in zip(infos, cached, strict=True):
        (tmp_path / info.path).rename(path)
    stored = [asdict(replace(info, path=path.name)) for info, path in zip(infos, cached, strict=True)]
    rewrite_manifest(tmp_path, store="s3://bucket/of/shards", shards=stored)
    return tmp_path, records, cached


def mapped(folder: Path) -> int:
    return sum(f"{folder}/" in line and ".arrow" in line for line in Path("/proc/self/maps").read_text().splitlines())


def opened(folder: Path) -> int:
    found = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(name.startswith(f"{folder}/") for name in found)


def test_shards_beyond_the_bound_are_let_go(many):
    folder, records, files_of_shards = many
    assert len(files_of_shards) == 20
    reader = shards.ShardReader(folder, "train")
    for i in [*range(40), *np.random.default_rng(0).integers(0, 40, 200).tolist()]:
        assert_same(reader[i], records[i])
        assert mapped(folder) <= 4
        assert opened(folder) <= 4
    assert reader.table("id", "height").to_pydict() == {"id": [str(i) for i in range(40)], "height": [6] * 40}
    columns = reader.table("image")
    assert mapped(folder) <= 4
    assert columns["image"].to_pylist() == [bytes(r.image) for r in records]
    del reader
    assert (mapped(folder), opened(folder)) == (0, 0)


def test_a_record_outlives_its_shard_s_turn(many):
    folder, records, files_of_shards = many
    reader = shards.ShardReader(folder, "train")
    held = [reader[i] for i in range(8)]
    for i in range(8, 40):
        reader[i]
    for path in files_of_shards:
        path.unlink()
    for got, wanted in zip(held, records[:8], strict=True):
        assert_same(got, wanted)


def test_the_shard_used_last_is_let_go_last(many):
    folder, records, files_of_shards = many
    reader = shards.ShardReader(folder, "train")
    for i in (0, 2, 4, 6, 0, 8):  # of five shards: the one of 2 has to go
        reader[i]
    for path in files_of_shards:
        path.unlink()
    for i in (0, 4, 6, 8):
        assert_same(reader[i], records[i])


def test_a_shard_that_comes_again_is_held_against_its_size_alone(tmp_path, monkeypatch):
    """And against its hash, where the file has changed since."""
    monkeypatch.setattr(shards, "MAPPED", 1)
    write([record(str(i), seed=i) for i in range(2)], tmp_path, rows_per_shard=1)
    path = tmp_path / "shards/train-00000.arrow"
    reader = shards.ShardReader(tmp_path, "train")
    before, stat = bytes(reader[0].image), path.stat()
    flip(path, 8 * (path.read_bytes().index(before) + 20))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    reader[1]
    assert bytes(reader[0].image) != before  # as if nothing had been written: it was not hashed again
    reader[1]
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(DataError, match=r"sha256 mismatch: shard .*train-00000"):
        reader[0]
    os.truncate(path, stat.st_size - 1)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError, match=r"mismatch: shard .*train-00000"):
        reader[0]


@pytest.mark.parametrize("many", ["a folder"], indirect=True)
def test_a_damaged_shard_among_many_is_refused(many):
    folder, records, files_of_shards = many
    flip(files_of_shards[7], 8 * 200)
    reader = shards.ShardReader(folder, "train")
    for i in (13, 16, 39):
        assert_same(reader[i], records[i])
    for _ in range(2):
        with pytest.raises(DataError, match=r"sha256 mismatch: shard .*train-00007"):
            reader[14]


def test_another_version_is_refused(tmp_path):
    write([record("a")], tmp_path)
    rewrite_manifest(tmp_path, version=rows.VERSION - 1)
    with pytest.raises(DataError, match=f"has version {rows.VERSION - 1}, this build reads {rows.VERSION}"):
        shards.read_manifest(tmp_path)


@pytest.mark.parametrize("path", ["../train-00000.arrow", "/shards/a.arrow", "shards/../../a.arrow"])
def test_a_manifest_may_not_point_outside(tmp_path, path):
    info = write([record("a")], tmp_path).shards[0]
    rewrite_manifest(tmp_path, shards=[{"path": path, "split": "train", "rows": 1, "bytes": info.bytes, "sha256": ""}])
    with pytest.raises(DataError, match="shards outside its folder"):
        shards.read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '{"version": 2', "[" * 200_000, "\x00", f'{{"version": {rows.VERSION}, "checksum": 1}}'],
)
def test_no_manifest_raises_anything_else(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json is damaged"):
        shards.read_manifest(tmp_path)


def test_another_schema_is_refused(tmp_path):
    info = write([record("a")], tmp_path).shards[0]
    path = tmp_path / info.path
    table = pa.ipc.open_file(path).read_all().drop_columns(["segments"])
    with pa.ipc.new_file(path, table.schema) as sink:
        sink.write_table(table)
    fake = {"path": info.path, "split": "train", "rows": 1, "bytes": path.stat().st_size, "sha256": files.sha256(path)}
    rewrite_manifest(tmp_path, shards=[fake])
    with pytest.raises(DataError, match="another schema"):
        shards.ShardReader(tmp_path, "train")[0]
