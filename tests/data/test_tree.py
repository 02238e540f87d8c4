"""A dataset's folder on this machine: what is listed, what may be opened, what is said of the rest."""

import hashlib
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data import tree as trees
from pipelines.data.faults import FaultError
from pipelines.data.tree import Files, Tree
from pipelines.errors import DataError

NAMES = st.lists(st.sampled_from(["a", "b", ".c", "d.png", "E.PNG", "f.jpg", "ä"]), min_size=1, max_size=3).map(
    "/".join
)


def put(root: Path, *names: str, data: bytes = b"x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def said(tree: Tree) -> list[tuple[str, str]]:
    return [(f.kind, f.file) for f in tree.faults]


def refusal(files: Files, name: str, limit: int = trees.MAX_BYTES) -> tuple[str, str]:
    with pytest.raises(FaultError) as caught:
        files.read(name, limit)
    return caught.value.kind, caught.value.reason


@settings(max_examples=40)
@given(st.lists(NAMES, max_size=8))
def test_the_listing_is_that_of_the_folder(tmp_path_factory, names):
    """Against the file system's own walk: every file that has no hidden part, in the order of names."""
    root = tmp_path_factory.mktemp("tree")
    for name in names:
        if not any((root / p).is_file() for p in PurePosixPath(name).parents) and not (root / name).is_dir():
            put(root, name)
    there = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
    seen = sorted(n for n in there if not any(part.startswith(".") for part in n.split("/")))
    tree = Tree(str(root))
    assert (list(tree.stamps), said(tree)) == (seen, [])
    holding = {"" for _ in seen} | {str(p) for n in seen for p in PurePosixPath(n).parents if str(p) != "."}
    assert tree.folders == holding
    for folder in [*holding, "nowhere"]:
        inside = [n for n in seen if not folder or n.startswith(f"{folder}/")]
        assert tree.under(folder) == inside
        assert tree.under(folder, (".png",)) == [n for n in inside if n[-4:] in (".png", ".PNG")]
        at = PurePosixPath(folder)
        assert tree.children(folder) == sorted(f for f in holding if f and PurePosixPath(f).parent == at)
        assert tree.has_folder(folder) == (folder in holding)
    for name in there:
        assert (name in tree) == (name in seen)


def test_a_folder_is_found_under_one_of_its_names(tmp_path):
    put(tmp_path, "b/x", "c/y")
    tree = Tree(str(tmp_path))
    assert tree.first_folder("a", "b", "c") == "b"
    with pytest.raises(FaultError, match=f"there is none of the folders d, e in {tmp_path}") as caught:
        tree.first_folder("d", "e")
    assert caught.value.kind == "layout"


def test_a_stamp_changes_with_its_file(tmp_path):
    put(tmp_path, "a", "b")
    before = Tree(str(tmp_path)).stamps
    old = (tmp_path / "a").stat()
    put(tmp_path, "a", data=b"y")  # the same size
    os.utime(tmp_path / "a", ns=(old.st_atime_ns, old.st_mtime_ns))  # and the same time
    after = Tree(str(tmp_path)).stamps
    assert after["a"] != before["a"]
    assert after["b"] == before["b"]


def test_the_root_is_named_by_its_folder(tmp_path):
    put(tmp_path, "my data/a")
    (tmp_path / "link").symlink_to("my data")
    assert Tree(str(tmp_path / "my data")).name == "my data"
    through = Tree(str(tmp_path / "link"))
    assert (through.root, list(through.stamps), said(through)) == (str(tmp_path / "my data"), ["a"], [])
    assert through.files.read("a") == b"x"


ROOTS = {
    "nothing": ("nowhere", "dataset.root: .*nowhere is not a folder\ndo: set dataset.root in params.yaml"),
    "file": ("file", "dataset.root: .*file is not a folder"),
    "null": ("a\0b", "is not a folder"),
    **{f"archive{s}": (f"data{s}", "is an archive\ndo: unpack it and name the folder") for s in trees.ARCHIVES},
    "archive.TAR.GZ": ("data.TAR.GZ", "is an archive"),
}


@pytest.mark.parametrize(("name", "message"), ROOTS.values(), ids=ROOTS)
def test_what_is_no_folder_is_refused(tmp_path, name, message):
    if name not in ("nowhere", "a\0b"):
        put(tmp_path, name)
    with pytest.raises(DataError, match=message):
        Tree(str(tmp_path / name))


# Links.


def test_a_link_to_a_file_of_the_folder_is_followed(tmp_path):
    put(tmp_path, "store/a", data=b"data")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/relative").symlink_to("../store/a")
    (tmp_path / "images/absolute").symlink_to(tmp_path / "store/a")
    (tmp_path / "images/again").symlink_to("relative")
    tree = Tree(str(tmp_path))
    assert said(tree) == []
    assert tree.under("images") == ["images/absolute", "images/again", "images/relative"]
    assert {tree.files.read(name) for name in tree.stamps} == {b"data"}


def outside(root: Path) -> str:
    put(root.parent, "outside/secret", data=b"secret")
    return "../outside/secret"


LINKS: dict[str, tuple[Callable[[Path], str], str, str]] = {
    "a file outside": (outside, "outside-root", "leads outside dataset root"),
    "a folder outside": (lambda r: outside(r).rpartition("/")[0], "outside-root", "leads outside dataset root"),
    "the machine": (lambda r: "/etc/hostname", "outside-root", "leads outside dataset root"),
    "a sibling that begins alike": (lambda r: (put(r.parent, "root2/x"), "../root2/x")[1], "outside-root", "outside"),
    "out and in again": (lambda r: "../root/a", "", ""),
    "a folder": (lambda r: "folder", "layout", "a link to a folder is not followed"),
    "the root": (lambda r: ".", "layout", "a link to a folder is not followed"),
    "nothing": (lambda r: "gone", "missing-file", "a link to nothing"),
    "nothing outside": (lambda r: "../gone", "outside-root", "leads outside dataset root"),
    "itself": (lambda r: "link", "(unreadable|missing-file)", "(cannot be resolved|a link to nothing)"),
}


@pytest.mark.parametrize(("target", "kind", "reason"), LINKS.values(), ids=LINKS)
def test_a_link_elsewhere_is_not_followed(tmp_path, target, kind, reason):
    root = tmp_path / "root"
    put(root, "a", "folder/b")
    (root / "link").symlink_to(target(root))
    tree = Tree(str(root))
    if not kind:
        assert (list(tree.stamps), said(tree)) == (["a", "folder/b", "link"], [])
        return
    assert list(tree.stamps) == ["a", "folder/b"]
    (fault,) = tree.faults
    assert fault.file == "link"
    assert re.fullmatch(kind, fault.kind)
    assert re.search(reason, fault.reason)
    with pytest.raises(FaultError) as caught:
        tree.check("link")
    assert caught.value.kind == ("outside-root" if kind == "outside-root" else "missing-file")


def test_two_links_that_name_each_other_end(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert {f for _, f in said(Tree(str(tmp_path)))} == {"a", "b"}


NAMES_OUT = [
    "../outside/secret",
    "a/../../outside/secret",
    "/etc/hostname",
    "//etc/hostname",
    "a/./b",
    ".",
    "",
    "..",
    "a//b",
]


@pytest.mark.parametrize("name", NAMES_OUT)
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    root = tmp_path / "root"
    put(root, "a/b")
    outside(root)
    tree = Tree(str(root))
    assert refusal(tree.files, name) == ("outside-root", "outside dataset root")
    with pytest.raises(FaultError) as caught:
        tree.check(name)
    assert caught.value.kind == ("outside-root" if ".." in name or name.startswith("/") else "missing-file")


def test_nothing_outside_is_ever_opened(tmp_path):
    """By Python's own account of what it opens."""
    root = tmp_path / "root"
    put(root, "a/b")
    outside(root)
    (root / "link").symlink_to("../outside/secret")
    (root / "folder").symlink_to("../outside")
    script = f"""
import os, sys
from pipelines.data.faults import FaultError
from pipelines.data.tree import Tree
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event in ("open", "os.scandir") else None)
tree = Tree({str(root)!r})
names = {[*NAMES_OUT, "link", "folder/secret", "folder"]!r}
for name in names:
    for look in (tree.check, tree.files.read):
        try:
            look(name)
        except FaultError:
            continue
        raise SystemExit(f"{{name}} was not refused by {{look}}")
tree.files.read("a/b")
assert any(name.endswith("a/b") for name in opened), opened
forbidden = ({str(tmp_path / "outside")!r}, "/etc/hostname")
raise SystemExit([name for name in opened if os.path.realpath(name).startswith(forbidden)] or 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_file_that_has_become_a_link_since_is_refused(tmp_path):
    root = tmp_path / "root"
    put(root, "a", "b/c")
    outside(root)
    files = Tree(str(root)).files
    (root / "a").unlink()
    (root / "a").symlink_to("../outside/secret")
    (root / "b").rename(root / "old")
    (root / "b").symlink_to("../outside")
    assert refusal(files, "a") == refusal(files, "b/secret") == ("outside-root", "outside dataset root")


# Names.

ROUND = {
    "spaces": " a  b .png",
    "quotes": "it's \"$(touch x)`;&|<>.png",
    "percent": "%2e%2e%2f.png",
    "dots": "a..b.png",
    "umlaut, one character": "\u00fc.png",
    "umlaut, two": "u\u0308.png",
    "Chinese": "\u56fe\u50cf.png",
    "emoji": "\U0001f6b2.png",
    "255 bytes": "\u00fc" * 125 + "a.png",
    "backslash": "a\\b.png",
}


@pytest.mark.parametrize("name", ROUND.values(), ids=ROUND)
def test_names_round_trip(tmp_path, name):
    put(tmp_path, f"images/{name}", data=name.encode())
    tree = Tree(str(tmp_path))
    assert (list(tree.stamps), said(tree)) == ([f"images/{name}"], [])
    tree.check(f"images/{name}")
    assert tree.files.read(f"images/{name}") == name.encode()
    assert str(Path(tree.root, next(iter(tree.stamps))).resolve()) == str(tmp_path / "images" / name)


def test_the_same_letters_in_two_encodings_are_two_names(tmp_path):
    put(tmp_path, "\u00fc.png", data=b"one")
    put(tmp_path, "u\u0308.png", data=b"two")
    tree = Tree(str(tmp_path))
    assert {name: tree.files.read(name) for name in tree.stamps} == {"\u00fc.png": b"one", "u\u0308.png": b"two"}


UNPRINTABLE = {
    "not UTF-8": b"a\xff.png",
    "Latin-1": "gr\u00fcn.png".encode("latin-1"),
    "half a character": "\u56fe".encode()[:2] + b".png",
    "a surrogate": b"\xed\xa0\x80.png",
    "newline": b"a\nb.png",
    "tab": b"a\tb.png",
    "escape sequence": b"\x1b[2J.png",
    "direction": "a\u202egnp.exe".encode(),
}


@pytest.mark.parametrize("name", UNPRINTABLE.values(), ids=UNPRINTABLE)
@pytest.mark.parametrize("folder", [False, True])
def test_names_that_cannot_be_shown_are_listed_and_left_out(tmp_path, name, folder):
    path = os.fsencode(tmp_path) + b"/" + name
    if folder:
        os.mkdir(path)  # noqa: PTH102 - bytes
        path += b"/a.png"
    with open(path, "wb"):  # noqa: PTH123 - bytes
        pass
    put(tmp_path, "ok.png")
    tree = Tree(str(tmp_path))
    assert list(tree.stamps) == ["ok.png"]
    (fault,) = tree.faults
    shown = os.fsdecode(name + b"/a.png" if folder else name)
    assert (fault.kind, fault.file, fault.outcome) == ("name", repr(shown), "quarantined")
    assert fault.line.isprintable()
    assert fault.line.encode()


# What is no file, and what cannot be read.


@pytest.mark.timeout(20)  # a pipe that is opened blocks
def test_pipes_and_sockets_are_listed_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    tree = Tree(str(tmp_path))
    assert (list(tree.stamps), said(tree)) == ([], [("unreadable", "pipe.png")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_said(tmp_path):
    put(tmp_path, "a", "folder/b")
    (tmp_path / "a").chmod(0)
    (tmp_path / "folder").chmod(0)
    try:
        tree = Tree(str(tmp_path))
        assert said(tree) == [("unreadable", "folder")]
        assert refusal(tree.files, "a") == ("unreadable", "cannot be read: Permission denied")
    finally:
        (tmp_path / "folder").chmod(0o700)


def test_what_is_gone_or_a_folder_is_said(tmp_path):
    put(tmp_path, "a", "folder/b")
    files = Tree(str(tmp_path)).files
    (tmp_path / "a").unlink()
    assert refusal(files, "a") == ("missing-file", "missing")
    assert refusal(files, "a\0") == ("missing-file", "missing")
    assert refusal(files, "folder") == ("unreadable", "cannot be read: Is a directory")
    assert refusal(files, "folder/b/c") == ("unreadable", "cannot be read: Not a directory")
    assert refusal(files, "x" * 256) == ("unreadable", "cannot be read: File name too long")


def test_size_has_a_limit_that_is_checked_before_reading(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    put(tmp_path, "a", data=b"12345")
    files = Tree(str(tmp_path)).files
    assert refusal(files, "sparse") == ("too-large", f"bytes {1 << 40} over limit {trees.MAX_BYTES}")
    assert refusal(files, "a", limit=4) == ("too-large", "bytes 5 over limit 4")
    assert files.read("a", limit=5) == b"12345"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs a file that is longer than its size says")
def test_a_file_that_grows_is_not_read_to_its_end():
    files = Files(os.path.realpath("/proc/self"))
    assert refusal(files, "status") == ("unreadable", "has 1 bytes of 0: it changed while it was read")


# Hashes that the source brings.


def sums(root: Path, *options: str) -> None:
    """As the tool itself writes them."""
    names = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    done = subprocess.run(["sha256sum", *options, "--", *names], cwd=root, capture_output=True, check=True)
    (root / "SHA256SUMS").write_bytes(done.stdout)


@pytest.mark.parametrize("options", [[], ["--binary"]])
def test_files_are_held_against_the_hashes(tmp_path, options):
    put(tmp_path, "a b.png", "deep/\u00fc", data=b"good")
    put(tmp_path, "back\\slash.png", data=b"good")  # the tool escapes it
    sums(tmp_path, *options)
    tree = Tree(str(tmp_path))
    assert said(tree) == []
    assert len(tree.files.hashes) == 3
    for name in tree.files.hashes:
        assert tree.files.read(name) == b"good"
        put(tmp_path, name, data=b"evil")
        assert refusal(tree.files, name) == ("source-hash", "sha256 mismatch: not the file that SHA256SUMS lists")


HASH = hashlib.sha256(b"good").hexdigest()


@pytest.mark.parametrize(
    "text",
    [f"{HASH.upper()}  a", f"{HASH}  ./a\n", f"\ufeff{HASH}  a\n", f"{HASH} *a\r\n\r\n", f"\n{HASH}  a\n\n"],
    ids=["capitals", "from here", "byte order mark", "Windows", "empty lines"],
)
def test_other_ways_to_write_a_hash(tmp_path, text):
    put(tmp_path, "a", data=b"good")
    (tmp_path / "SHA256SUMS").write_text(text, newline="")
    tree = Tree(str(tmp_path))
    assert said(tree) == []
    assert tree.files.read("a") == b"good"
    put(tmp_path, "a", data=b"evil")
    assert refusal(tree.files, "a")[0] == "source-hash"


@pytest.mark.parametrize("line", ["# a comment", f"SHA256 (a) = {HASH}", f"{HASH[:-1]}  a", f"{HASH} a", "a", "\0" * 9])
def test_hashes_that_cannot_be_read_stop_the_line(tmp_path, line):
    """To go on would be to check nothing, and not to say so."""
    put(tmp_path, "a", data=b"good")
    (tmp_path / "SHA256SUMS").write_text(f"{HASH}  a\n\n{line}\n{line}\n")
    (fault,) = Tree(str(tmp_path)).faults
    assert (fault.kind, fault.file, fault.outcome) == ("layout", "SHA256SUMS", "stop")
    assert fault.reason.startswith("2 lines are not a hash, two spaces and a name")
    assert fault.reason.endswith("the first is line 3")


def test_a_file_that_has_a_hash_and_is_missing_is_named(tmp_path):
    put(tmp_path, "a", data=b"good")
    listed = ["a", "gone.png", "images/gone.jpg", "data.zip", ".hidden/x", "../x"]
    (tmp_path / "SHA256SUMS").write_text("".join(f"{HASH}  {name}\n" for name in listed))
    tree = Tree(str(tmp_path))
    assert said(tree) == [("missing-file", "gone.png"), ("missing-file", "images/gone.jpg")]


def test_a_tree_s_files_travel_to_other_processes(tmp_path):
    put(tmp_path, "a", data=b"good")
    sums(tmp_path)
    files = Tree(str(tmp_path), depth=12).files
    copy = pickle.loads(pickle.dumps(files))  # noqa: S301 - our own
    assert (copy, copy.depth, copy.read("a")) == (files, 12, b"good")
