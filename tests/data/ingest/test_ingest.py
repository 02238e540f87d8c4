"""From a source to a dataset, through the processes and through the stage."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from pipelines import files
from pipelines.config import Params
from pipelines.data import shards
from pipelines.data.faults import FaultError
from pipelines.data.formats import FORMATS
from pipelines.data.formats.source import Item, Scan, Source
from pipelines.data.ingest import engine, plan, survey
from pipelines.data.ingest.run import Ingested, ingest
from pipelines.data.statistics import decode
from pipelines.data.tree import Tree
from pipelines.errors import DataError

ROOT = Path(__file__).resolve().parents[3]
DRAWN = {"height": 32, "width": 48, "difficulty": 0.5}


def take(out: Path, *, format: str = "folder", root: Path | None = None, workers: int = 1, **how) -> Ingested:
    counts = {"train": 5, "val": 2, "test": 3}
    source = Source(tree=Tree(str(root)) if root else None, splits=counts, seed=0, shapes=DRAWN)
    kept = {"state": out.with_name(f"state of {out.name}"), "earlier": out.with_name("earlier"), **how}
    return ingest(format=format, source=source, out=out, workers=workers, rows_per_shard=2, **kept)


def refused(done: Ingested) -> str:
    assert done.manifest is None
    return str(done.report.refusal("here", "report.json"))


def content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): files.sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "bring your own"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    (folder / "classes.yaml").write_text("- {name: a}\n- {name: b, isthing: true}\n")
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).save(folder / f"images/{i:02}.png")
        Image.fromarray(rng.integers(0, 2, (9, 7), np.uint8)).save(folder / f"masks/{i:02}.png")
    return folder


def test_the_table_has_every_format_that_can_be_configured():
    names = Params.model_fields["dataset"].annotation.model_fields["format"].annotation
    assert set(FORMATS) == set(names.__args__)


def test_the_number_of_workers_changes_no_byte(root, tmp_path, ray, monkeypatch):
    """One works in this process, more on Ray Data."""
    monkeypatch.setattr(engine, "FEW", 0)
    for workers in (1, 2, 4):
        take(tmp_path / f"folder{workers}", root=root, workers=workers)
        take(tmp_path / f"shapes{workers}", format="shapes", workers=workers)
    for format in ("folder", "shapes"):
        first = content(tmp_path / f"{format}1")
        assert len(first) > 4
        assert first == content(tmp_path / f"{format}2") == content(tmp_path / f"{format}4")


def test_the_manifest_counts_every_image(root, tmp_path, capsys):
    done = take(tmp_path / "out", root=root)
    assert (done.manifest.name, done.manifest.format) == ("bring your own", "folder")
    assert sum(done.manifest.images.values()) == done.report.kept == done.report.found == done.read == 12
    assert "ingest  12/12 images" in capsys.readouterr().err
    readers = [shards.ShardReader(tmp_path / "out", split) for split in done.manifest.images]
    assert sorted(record.id for reader in readers for record in reader) == [f"{i:02}" for i in range(12)]


def break_four(root: Path) -> None:
    (root / "images/03.png").write_bytes(b"<html>")
    (root / "images/05.png").write_bytes((root / "images/05.png").read_bytes()[:-30])
    (root / "masks/05.png").write_bytes(b"")
    (root / "masks/07.png").unlink()


def test_one_message_lists_all_faults_and_nothing_is_written(root, tmp_path):
    break_four(root)
    said = refused(take(tmp_path / "out", root=root))
    assert said.startswith("here: 4 faults, nothing was written: 3 of 12 images cannot be used")
    for line in ("images/03.png: ", "images/05.png: ", "masks/05.png: ", "images/07.png: has no masks/07.png"):
        assert f"  - {line}" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out/dataset.json").exists()


def test_as_many_as_may_be_are_left_out_and_each_is_told(root, tmp_path):
    break_four(root)
    assert take(tmp_path / "out", root=root, max_rejected=0.24).manifest is None
    done = take(tmp_path / "out", root=root, max_rejected=0.25)
    report = done.report.to_json()
    assert report["images"] == {"found": 12, "kept": 9, "mended": 0, "skipped": 0, "quarantined": 3}
    assert report["outcome"] == "written"
    assert report["dataset"] == done.manifest.hash
    assert report["counts"] == {"empty-file": 1, "not-an-image": 1, "truncated": 1, "no-mask": 1}
    assert {(f["item"], f["kind"]) for f in report["findings"]} == {
        ("03", "not-an-image"), ("05", "truncated"), ("05", "empty-file"), ("07", "no-mask"),
    }  # fmt: skip
    readers = [shards.ShardReader(tmp_path / "out", split) for split in done.manifest.images]
    assert {r.id for reader in readers for r in reader} == {f"{i:02}" for i in range(12)} - {"03", "05", "07"}


def test_a_long_list_of_faults_is_cut_in_the_message_and_whole_in_the_report(root, tmp_path):
    for i in range(100):
        (root / f"masks/x{i}.png").touch()
    done = take(tmp_path / "out", root=root)
    assert len(done.report.to_json()["findings"]) == 100
    said = refused(done)
    assert re.search(r"(?s)100 faults.*  - and 80 more\ndo: .*report.json lists them all", said)
    assert len(said.splitlines()) == 23


def test_no_images_is_said(root, tmp_path):
    shutil.rmtree(root / "images")
    shutil.rmtree(root / "masks")
    said = refused(take(tmp_path / "out", root=root))
    assert "there are no images: dataset.root must hold classes.yaml, images/" in said


def test_a_second_ingest_reads_what_was_added(root, tmp_path):
    state = tmp_path / "state"
    assert take(tmp_path / "a", root=root, state=state).read == 12
    before = content(tmp_path / "a")
    assert take(tmp_path / "b", root=root, state=state).read == 0
    assert content(tmp_path / "b") == before
    for kind, depth in (("images", 3), ("masks", 0)):
        pixels = np.zeros((9, 7, 3)[: 3 if depth else 2], np.uint8)
        Image.fromarray(pixels).save(root / f"{kind}/055.png")
    Image.fromarray(np.ones((9, 7), np.uint8)).save(root / "masks/04.png")
    more = take(tmp_path / "c", root=root, state=state, stratify=False)
    fresh = take(tmp_path / "d", root=root, stratify=False)
    assert (more.report.kept, fresh.read) == (13, 13)
    assert content(tmp_path / "c") == content(tmp_path / "d")


def test_a_dataset_in_place_is_what_is_carried_over_from(root, tmp_path):
    """Nothing is kept twice; a shard that has gone, or is damaged, is read again."""
    kept = {"state": tmp_path / "state", "earlier": tmp_path / "a"}
    first = take(tmp_path / "a", root=root, **kept)
    first.settle()
    assert not list((tmp_path / "state").glob("*.arrow"))
    assert take(tmp_path / "b", root=root, **kept).read == 0
    assert content(tmp_path / "b") == content(tmp_path / "a")
    some, other = sorted((tmp_path / "a/shards").glob("train-*"))[:2]
    lost = sum(info.rows for info in first.manifest.shards if info.path.endswith((some.name, other.name)))
    some.unlink()
    other.unlink()  # another file of that name: the next dataset's is a link to this one
    other.write_bytes(bytes(next((tmp_path / "b/shards").glob(other.name)).stat().st_size))
    assert take(tmp_path / "c", root=root, **kept).read == lost
    assert content(tmp_path / "c") == content(tmp_path / "b")


def test_an_image_that_moves_to_another_split_is_carried_over(root, tmp_path):
    kept = {"state": tmp_path / "state"}
    take(tmp_path / "a", root=root, **kept)
    (root / "splits").mkdir()
    (root / "splits/val.txt").write_text("".join(f"{i:02}\n" for i in range(12)))
    assert take(tmp_path / "b", root=root, **kept).read == 0
    assert content(tmp_path / "b") == content_of(take(tmp_path / "c", root=root), tmp_path / "c")


def test_without_stratification_only_what_changed_is_read(root, tmp_path):
    how = {"state": tmp_path / "state", "stratify": False}
    take(tmp_path / "a", root=root, **how)
    Image.fromarray(np.ones((9, 7), np.uint8)).save(root / "masks/04.png")
    for kind in ("images", "masks"):
        shutil.copy(root / f"{kind}/04.png", root / f"{kind}/04b.png")
        (root / f"{kind}/11.png").unlink()
    assert take(tmp_path / "b", root=root, **how).read == 2


def test_what_an_interrupted_ingest_has_finished_is_not_read_again(root, tmp_path, monkeypatch):
    want = content_of(take(tmp_path / "want", root=root), tmp_path / "want")
    state = tmp_path / "state"

    write = plan.Sidecar.write

    def killed(self, path):
        write(self, path)
        if len(list(state.glob("*.json"))) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(plan.Sidecar, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        take(tmp_path / "out", root=root, state=state)
    monkeypatch.undo()
    (state / ".half.arrow.1.tmp").write_bytes(b"left by a killed writer")
    done = take(tmp_path / "out", root=root, state=state)
    assert 0 < done.read < 12
    assert content_of(done, tmp_path / "out") == want
    assert not list(state.glob(".*"))


def test_a_damaged_shard_that_was_kept_is_made_again(root, tmp_path):
    state = tmp_path / "state"
    take(tmp_path / "a", root=root, state=state)
    want = content(tmp_path / "a")
    for path in state.glob("*.arrow"):
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.unlink()  # another file of that name: the outputs are links to the first
        path.write_bytes(damaged)
    assert take(tmp_path / "b", root=root, state=state).read == 12
    assert content(tmp_path / "b") == want == content(tmp_path / "a")


def test_lists_in_the_dataset_pin_its_splits(root, tmp_path):
    first = take(tmp_path / "a", root=root)
    (root / "splits").mkdir()
    for split in ("train", "val", "test"):
        shutil.copy(tmp_path / f"a/splits/{split}.txt", root / "splits")
    images = first.manifest.images
    placed = take(tmp_path / "b", root=root, stratify=False)
    assert placed.manifest.images == images
    assert placed.manifest.hash == first.manifest.hash
    (root / "splits/test.txt").write_text("".join(f"{i:02}\n" for i in range(12)))
    for split in ("train", "val"):
        (root / f"splits/{split}.txt").unlink()
    assert take(tmp_path / "c", root=root).manifest.images == {"train": 0, "val": 0, "test": 12}


def test_images_of_a_group_stay_together(root, tmp_path):
    take(tmp_path / "out", root=root, group="^(.)")
    lists = [set((tmp_path / f"out/splits/{s}.txt").read_text().split()) for s in ("train", "val", "test")]
    assert sorted(len(ids) for ids in lists) == [0, 2, 10]


def test_two_images_of_one_id_are_both_left_out(root, tmp_path, monkeypatch):
    """Nobody could tell which row is whose; a second ingest would exchange them."""
    spec = FORMATS["folder"]

    def twice(source: Source) -> Scan:
        found = spec.scan(source)
        return replace(found, items=[*found.items, replace(found.items[3], files=("images/other.png", "masks/04.png"))])

    monkeypatch.setitem(FORMATS, "folder", replace(spec, scan=twice))
    done = take(tmp_path / "out", root=root, max_rejected=0.5)
    assert {(f.kind, f.file) for f in done.report.faults} == {
        ("duplicate-id", "images/03.png"),
        ("duplicate-id", "images/other.png"),
    }
    assert done.report.kept == 11


def test_an_added_frame_joins_its_video(root, tmp_path):
    """Wherever the lists that pin the splits have put it."""
    group = "^(.)"
    take(tmp_path / "a", root=root, group=group)
    shutil.copytree(tmp_path / "a/splits", root / "splits")
    small = next(s for s in ("train", "val", "test") if len((root / f"splits/{s}.txt").read_text().split()) == 2)
    for kind in ("images", "masks"):
        for name in ("12", "13", "14"):
            shutil.copy(root / f"{kind}/11.png", root / f"{kind}/{name}.png")
    take(tmp_path / "b", root=root, group=group)
    assert (tmp_path / f"b/splits/{small}.txt").read_text().split() == ["10", "11", "12", "13", "14"]


def test_a_pattern_of_groups_that_finds_nothing_is_refused(root, tmp_path):
    with pytest.raises(DataError, match=r"dataset.group: '\^video' matches none of 12 ids, as '00'\ndo: "):
        take(tmp_path / "out", root=root, group="^video")
    take(tmp_path / "out", root=root, group="^(x)?")  # a part that takes no part: each image on its own


def test_a_list_that_names_no_image_says_so(root, tmp_path):
    (root / "splits").mkdir()
    (root / "splits/val.txt").write_text("00\nnot there\n")
    done = take(tmp_path / "out", root=root, max_rejected=0.5)
    assert [(f.kind, f.file, f.item) for f in done.report.faults] == [("missing-file", "splits/val.txt", "not there")]


def test_an_added_hash_reads_one_image(root, tmp_path):
    kept = {"state": tmp_path / "state", "stratify": False}
    sums = root / "SHA256SUMS"
    names = [p.relative_to(root) for p in sorted(root.rglob("*.png"))]
    sums.write_text("".join(f"{files.sha256(root / name)}  {name}\n" for name in names))
    take(tmp_path / "a", root=root, **kept)
    for kind in ("images", "masks"):
        shutil.copy(root / f"{kind}/11.png", root / f"{kind}/12.png")
        with sums.open("a") as file:
            file.write(f"{files.sha256(root / f'{kind}/12.png')}  {kind}/12.png\n")
    assert take(tmp_path / "b", root=root, **kept).read == 1


def test_what_is_in_place_is_found_by_its_hash(root, tmp_path):
    """Whatever its name there: an ingest that was killed in between has given others."""
    kept = {"state": tmp_path / "state", "earlier": tmp_path / "a", "stratify": False}
    first = take(tmp_path / "a", root=root, **kept)
    first.settle()
    for kind in ("images", "masks"):
        shutil.copy(root / f"{kind}/00.png", root / f"{kind}/000.png")
    second = take(tmp_path / "b", root=root, **kept)
    assert second.read == 1
    second.settle()
    assert take(tmp_path / "c", root=root, **{**kept, "earlier": tmp_path / "b"}).read == 0


def test_a_survey_that_lost_its_reader_is_asked_again(tmp_path):
    item = Item(id="a", split=None, files=("a.png",))
    known = survey.Labels(tmp_path / "labels.json", {"a": "key"})
    known.add([item], [None])
    assert known.missing([item]) == [item]
    known.add([item], [frozenset({3, 1})])
    again = survey.Labels(tmp_path / "labels.json", {"a": "key"})
    assert (again.missing([item]), again[item]) == ([], frozenset({1, 3}))
    task = survey.SurveyTask(labels=fails, isolated=False)
    for error, shown in {"MemoryError": None, "fault": frozenset()}.items():
        assert task([replace(item, group=error)]) == [shown]
    with pytest.raises(KeyError):
        task([item])


def fails(item: Item) -> frozenset[int]:
    raise {"MemoryError": MemoryError(), "fault": FaultError("truncated", "")}.get(item.group) or KeyError("a bug")


def test_decoded_storage_gives_the_same_dataset(root, tmp_path):
    take(tmp_path / "a", root=root)
    take(tmp_path / "b", root=root, storage="decoded")
    for split in ("train", "val", "test"):
        pairs = zip(shards.ShardReader(tmp_path / "a", split), shards.ShardReader(tmp_path / "b", split), strict=True)
        for encoded, decoded in pairs:
            assert (encoded.format, decoded.format) == ("png", "raw")
            np.testing.assert_array_equal(decode(decoded), decode(encoded))
            np.testing.assert_array_equal(decoded.semantic, encoded.semantic)


def content_of(done: Ingested, folder: Path) -> dict[str, str]:
    assert done.manifest is not None
    return content(folder)


def project(folder: Path, **dataset) -> Path:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["dataset"] |= dataset
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def stage(folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stages.ingest"]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_the_stage(tmp_path):
    process = stage(project(tmp_path, splits={"train": 4, "val": 1, "test": 1}, shapes=DRAWN))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    manifest = shards.read_manifest(tmp_path / "results/ingest")
    assert re.match(rf"ingest: images 6  classes {len(manifest.classes)}  hash {manifest.hash[:12]}  \(", out)
    assert manifest.images == {"train": 4, "val": 1, "test": 1}


def test_the_stage_refuses_wrong_data_in_words(root, tmp_path):
    (root / "masks/07.png").unlink()
    process = stage(project(tmp_path, format="folder", root=root.name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "  - images/07.png: has no masks/07.png\n" in err
    assert "Traceback" not in err
    assert [p.name for p in (tmp_path / "results/ingest").iterdir()] == ["report.json"]


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name)
def test_a_killed_stage_leaves_no_process_and_no_dataset(tmp_path, kill):
    big = {"height": 256, "width": 256, "difficulty": 1.0}
    process = stage(project(tmp_path, splits={"train": 5000, "val": 1, "test": 1}, shapes=big))
    state = tmp_path / "runs/ingest"
    deadline = time.monotonic() + 60
    while not list(state.glob(".*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("ray::" in " ".join(child.cmdline()) for child in children)
    process.send_signal(kill)
    process.communicate(timeout=60)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[kill]
    _, alive = psutil.wait_procs(children, timeout=20)
    # Two agents of Ray itself notice after a minute or two that they are alone.
    assert [p for p in alive if "agent" not in " ".join(p.cmdline()).lower()] == []
    assert not (tmp_path / "results/ingest").exists()


@pytest.mark.slow
def test_the_nodes_of_a_cluster_share_the_work(tmp_path, monkeypatch):
    """Two nodes of one CPU each, which only their names tell from two machines with a shared disk."""
    from ray.cluster_utils import Cluster

    for name in ("alone", "shared"):
        (tmp_path / name).mkdir()
        project(tmp_path / name, splits={"train": 400, "val": 20, "test": 20}, shapes=DRAWN)
    assert stage(tmp_path / "alone").wait(timeout=120) == 0
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nodes.add_node(num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        process = stage(tmp_path / "shared")
        _, err = process.communicate(timeout=180)
    finally:
        nodes.shutdown()
    assert process.returncode == 0, err
    assert content(tmp_path / "shared/results/ingest") == content(tmp_path / "alone/results/ingest")
