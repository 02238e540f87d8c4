"""A dataset in a bucket is the same tree of files as in a folder, and no name or server leads astray."""

import hashlib
import re
import socket
import threading
import time
from pathlib import Path

import pytest

from pipelines.data import buckets
from pipelines.data.faults import FaultError
from pipelines.data.tree import Files, Tree
from pipelines.errors import DataError, RunError

FILES = {
    "classes.yaml": b"- {name: a}\n",
    "images/train/1.png": b"one",
    "images/train/sub folder/ü+%20?#.png": b"two",
    "images/val/3.png": b"",
    "masks/1.png": b"m" * 70_000,
    ".hidden/x": b"no",
    "images/.DS_Store": b"no",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "set"


def test_a_bucket_is_the_same_tree_as_a_folder(folder, bucket):
    here, there = Tree(str(folder)), Tree(bucket.upload(folder, "deep/set"))
    assert list(there.stamps) == list(here.stamps) == sorted(name for name in FILES if "/." not in f"/{name}")
    assert (there.name, there.folders, there.faults) == ("set", here.folders, [])
    assert {name: there.files.read(name) for name in there.stamps} == {n: here.files.read(n) for n in here.stamps}
    with pytest.raises(FaultError, match="missing"):
        there.files.read("images/none.png")


@pytest.mark.parametrize("form", ["{uri}/", "{uri}?endpoint_override={host}&scheme=http&region=eu-west-1"])
def test_other_ways_to_write_the_uri(folder, bucket, monkeypatch, form):
    uri = bucket.upload(folder, "deep/set")
    if "?" in form:
        monkeypatch.delenv("AWS_ENDPOINT_URL")
    tree = Tree(form.format(uri=uri, host=bucket.host))
    assert tree.name == "set"
    assert tree.files.read("images/train/1.png") == b"one"


def test_a_whole_bucket_is_a_root(bucket):
    bucket.put("a/b.png", b"x")
    tree = Tree(bucket.uri)
    assert (tree.name, list(tree.stamps), tree.files.read("a/b.png")) == (bucket.name, ["a/b.png"], b"x")


def test_more_than_a_page_is_listed_and_changes_show(bucket):
    bucket.put_empty(f"set/{i:04}.png" for i in range(1100))
    before = Tree(f"{bucket.uri}/set").stamps
    assert list(before) == [f"{i:04}.png" for i in range(1100)]
    bucket.put("set/0500.png", b"more")
    after = Tree(f"{bucket.uri}/set").stamps
    assert [name for name in after if after[name] != before[name]] == ["0500.png"]


def test_no_name_leads_out_of_the_root(bucket):
    for key in ("secret.png", "settled/x.png", "set/a.png", "set/../secret.png", "set//b.png", "set/./c.png"):
        bucket.put(key, b"x")
    tree = Tree(f"{bucket.uri}/set")
    assert list(tree.stamps) == ["a.png"]
    assert sorted((f.kind, f.file) for f in tree.faults) == [("name", "/b.png"), ("outside-root", "../secret.png")]
    bucket.gate.log.clear()
    for name in ("../secret.png", "a/../../secret.png", "/secret.png", "./c.png", ""):
        with pytest.raises(FaultError, match="outside dataset root"):
            tree.files.read(name)
    assert bucket.gate.log == []


def test_a_large_file_is_not_read(bucket):
    bucket.put("set/a.png", b"x" * 1000)
    files = Files(f"{bucket.uri}/set")
    assert len(files.read("a.png", limit=1000)) == 1000
    bucket.gate.log.clear()
    with pytest.raises(FaultError, match="bytes 1000 over limit 999"):
        files.read("a.png", limit=999)
    assert bucket.asked("GET", "a.png") == []


def test_hashes_that_the_source_brings_are_held_against_its_files(bucket):
    sums = "".join(f"{hashlib.sha256(b'right').hexdigest()}  {name}.png\n" for name in ("a", "b"))
    for name, data in {"SHA256SUMS": sums.encode(), "a.png": b"right", "b.png": b"wrong"}.items():
        bucket.put(f"set/{name}", data)
    files = Tree(f"{bucket.uri}/set").files
    assert files.read("a.png") == b"right"
    with pytest.raises(FaultError) as caught:
        files.read("b.png")
    assert caught.value.kind == "source-hash"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://", "does not name a bucket\ndo: write it as s3://bucket/path"),
        ("s3://b/../c", "does not name a bucket"),
        ("gs://b/c", "'gs://b/c' does not name a bucket"),
        ("file:///etc", "'file:///etc' does not name a bucket"),
        ("s3://b/c?secret_key=x", "unknown option secret_key\ndo: allowed are endpoint_override, region, scheme"),
        ("s3://b/c?scheme=ftp", "cannot be opened"),
        ("s3://AKIA:hush@b/c", r"'s3://\.\.\.@b/c' holds keys.*\ndo: leave them out, and set AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_uri_that_cannot_be_is_refused_without_a_request(bucket, uri, said):
    with pytest.raises(DataError, match=said) as caught:
        Tree(uri)
    assert "hush" not in str(caught.value)
    assert bucket.gate.log == []


@pytest.mark.parametrize(
    ("root", "changes", "said"),
    [
        ("s3://no-such-bucket/x", {}, "there is no such bucket\ndo: name one that is there"),
        ("{uri}/none", {}, "there is nothing of that name"),
        ("{uri}", {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "access is denied\ndo: set AWS_ACCESS_K"),
        ("{uri}", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "nothing answers\ndo: see that AWS_ENDPOINT_URL names"),
        ("{uri}", {"AWS_ENDPOINT_URL": "http://no.invalid"}, "nothing answers\ndo: see that AWS_ENDPOINT_URL names"),
    ],
    ids=["bucket", "path", "keys", "port", "host"],
)
def test_what_cannot_be_reached_is_said_within_seconds(bucket, monkeypatch, root, changes, said):
    for name, value in changes.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    root, started = root.format(uri=bucket.uri), time.monotonic()
    with pytest.raises(DataError, match=f"^dataset.root: {re.escape(root)} cannot be listed: {said}"):
        Tree(root)
    assert time.monotonic() - started < 15


def test_a_server_that_takes_calls_and_says_nothing_is_given_up(bucket, monkeypatch):
    monkeypatch.setattr(buckets, "ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        calls: list[socket.socket] = []

        def answer() -> None:
            while True:
                calls.append(silent.accept()[0])

        threading.Thread(target=answer, daemon=True).start()
        started = time.monotonic()
        with pytest.raises(DataError, match="nothing answers"):
            Tree(f"{bucket.uri}/set?endpoint_override=127.0.0.1:{silent.getsockname()[1]}&scheme=http")
    assert len(calls) == buckets.ATTEMPTS
    assert time.monotonic() - started < 15


def test_a_server_that_fails_is_no_fault_of_the_image(bucket):
    bucket.put("set/a.png", b"x")
    tree = Tree(f"{bucket.uri}/set")
    bucket.gate.failing = "a.png"
    with pytest.raises(RunError, match=r"(?s)set: a.png cannot be read: .*run it again: it goes on"):
        tree.files.read("a.png")
