"""Names that lead out of the dataset's folder are refused, and what they lead to is never opened."""

import json
import os
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.errors import DataError
from tests.faults.annotation_cases import COCO_JSON, PANOPTIC_JSON, Published
from tests.faults.line import refusal, run
from tests.faults.matter import encoded, photo

OTHER = "elsewhere.png"  # beside the dataset's root


def link(name: str) -> Callable[[Path, Path], None]:
    def spoil(root: Path, other: Path) -> None:
        (root / name).unlink()
        (root / name).symlink_to(other)

    return spoil


def names(json: str, kind: str, how: Callable[[Path], str]) -> Callable[[Path, Path], None]:
    def spoil(root: Path, other: Path) -> None:
        source = Published.read(root, json)
        source.raw[kind][0]["file_name"] = how(other)
        source.write()

    return spoil


def labelled(how: Callable[[Path], str]) -> Callable[[Path, Path], None]:
    def spoil(root: Path, other: Path) -> None:
        raw = json.loads((root / "a.json").read_text())
        (root / "a.json").write_text(json.dumps(raw | {"imagePath": how(other)}))

    return spoil


def up(other: Path) -> str:
    return f"../../{other.name}"


def further_up(other: Path) -> str:
    return f"../../../{other.name}"


OUTSIDE = {
    "d19-coco-up": ("coco", names(COCO_JSON, "images", up)),
    "d19-coco-absolute": ("coco", names(COCO_JSON, "images", str)),
    "d19-panoptic-up": ("coco-panoptic", names(PANOPTIC_JSON, "images", up)),
    "d19-panoptic-absolute": ("coco-panoptic", names(PANOPTIC_JSON, "images", str)),
    "d19-panoptic-mask-up": ("coco-panoptic", names(PANOPTIC_JSON, "annotations", further_up)),
    "d19-panoptic-mask-absolute": ("coco-panoptic", names(PANOPTIC_JSON, "annotations", str)),
    "d19-labelme-up": ("labelme", labelled(lambda other: f"../{other.name}")),
    "d19-labelme-windows": ("labelme", labelled(lambda other: f"..\\{other.name}")),
    "d19-labelme-absolute": ("labelme", labelled(str)),
    "d19-link": ("folder", link("images/a.png")),
    "d19-mask-link": ("folder", link("masks/a.png")),
    "d19-coco-link": ("coco", link("train/a.png")),
    "d19-classes-link": ("folder", link("classes.yaml")),
    "d19-json-link": ("coco", link(COCO_JSON)),
}
HOOK = """
import sys

def hook(event, arguments, write=open({log!r}, "a", buffering=1).write):
    if event == "open" and isinstance(arguments[0], str):
        write(arguments[0] + chr(10))

sys.addaudithook(hook)
"""
_opened: list[str] = []  # by this process; a hook stays until the process ends


def _note(event: str, arguments: tuple) -> None:
    if event == "open" and isinstance(arguments[0], str | os.PathLike):
        _opened.append(os.fspath(arguments[0]))


@pytest.fixture(scope="module")
def hooked() -> None:
    sys.addaudithook(_note)


@pytest.fixture
def opened(hooked: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What was opened until now, by this process and by those that read images: a module of Python's start hooks
    these."""
    site, log = tmp_path / "site", tmp_path / "opened.txt"
    site.mkdir()
    log.touch()
    (site / "sitecustomize.py").write_text(HOOK.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(site))
    _opened.clear()
    return lambda: [*_opened, *log.read_text().splitlines()]


@pytest.mark.parametrize("name", OUTSIDE)
def test_d19_what_leads_outside_is_refused_and_never_opened(name, sound, tmp_path, opened):
    format, spoil = OUTSIDE[name]
    source = sound(format)
    other = source.root.parent / OTHER
    other.write_bytes(encoded(photo(0)))
    with source.spoilt() as root:
        spoil(root, other)
        before = len(opened())
        done = run(root, tmp_path / "out", format=format, max_rejected=1.0, stratify=False)
        during = opened()[before:]
    assert "outside dataset root" in refusal(done)
    assert "outside-root" in {f.kind for f in done.report.faults}
    assert not (tmp_path / "out").exists()
    assert not [path for path in during if path.endswith(OTHER)]
    if name.startswith(("d19-coco", "d19-panoptic", "d19-link")):  # else the hooks are deaf
        assert any(path.startswith(str(root)) and path.endswith("b.png") for path in during)
    assert source.again(tmp_path / "mended") == source.hash


def test_d19_a_link_within_the_folder_is_a_file(sound, tmp_path):
    source = sound("folder")
    with source.spoilt() as root:
        (root / "images/a.png").rename(root / "a.png")
        (root / "images/a.png").symlink_to("../a.png")
        done = run(root, tmp_path / "out", stratify=False)
    assert done.manifest.hash == source.hash


def test_d19_a_link_to_a_folder_is_not_followed(sound, tmp_path):
    with sound("folder").spoilt() as root:
        (root / "images/more").symlink_to(tmp_path)
        (root / "images/same").symlink_to(root / "masks")
        done = run(root, tmp_path / "out", max_rejected=1.0, stratify=False)
    found = {(f.file, f.kind) for f in done.report.faults}
    assert found == {("images/more", "outside-root"), ("images/same", "layout")}


def archive(path: Path) -> None:
    """As hostile as they come: a member that climbs, one that is a link, one that is a thousand times its size."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("../climbed.txt", "x")
            made.writestr("images/a.png", bytes(1 << 20))
    else:
        with tarfile.open(path, "w:gz") as made:
            member = tarfile.TarInfo("images")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc"
            made.addfile(member)
            made.addfile(tarfile.TarInfo("../climbed.txt"))


@pytest.mark.parametrize("name", ["data.zip", "data.tar.gz"])
def test_d20_archives_are_refused_and_not_unpacked(name, sound, tmp_path):
    archive(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} is an archive\ndo: unpack it and name the folder"):
        run(tmp_path / name, tmp_path / "out")
    with sound("folder").spoilt() as root:
        shutil.copy(tmp_path / name, root / "images")
        done = run(root, tmp_path / "out", stratify=False)
    assert [(f.kind, f.file) for f in done.report.faults] == [("suffix-unknown", f"images/{name}")]
    assert list(tmp_path.parent.rglob("climbed.txt")) == []
