"""Files that are whole or absent."""

import hashlib
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import config, files

ROOT = Path(__file__).resolve().parents[1]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_new_file_is_there_after_the_block_and_not_before(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with files.replacing(path) as file:
        file.write("new\n")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new\n"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_old_file_stays_when_the_block_raises(tmp_path, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write() -> None:
        with files.replacing(path, "wb") as file:
            file.write(b"half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_the_old_file_stays_when_the_disk_is_full(tmp_path):
    """A limit on the size of a file stands in for the full disk."""
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    code = "import sys; from pathlib import Path; from pipelines import files\n"
    code += "with files.replacing(Path(sys.argv[1]), 'wb') as file: file.write(bytes(10**6))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, preexec_fn=fill, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_the_old_file_stays_when_the_writer_is_killed(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    code = "import os, sys; from pathlib import Path; from pipelines import files\n"
    code += "with files.replacing(Path(sys.argv[1]), 'wb') as file: file.write(b'new'); file.flush(); os.kill(0, 9)"
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, start_new_session=True, check=False)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_json_that_other_readers_refuse(tmp_path, value):
    path = tmp_path / "metrics.json"
    files.write_json(path, {"miou": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"first": 1, "miou": value})
    assert path.read_text() == '{\n  "miou": 0.5\n}\n'


def test_text_is_written_as_it_is(tmp_path):
    files.write_text(tmp_path / "page.html", "é\r\n\n")
    assert (tmp_path / "page.html").read_bytes() == "é\r\n\n".encode()


NAMES = st.from_regex(r"[a-z_]{1,9}", fullmatch=True)


@given(st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans()))
def test_numbers_written_as_yaml_are_read_as_the_same_numbers(values):
    """best.yaml: what the search ran is what training reads."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best.yaml"
        files.write_yaml(path, values)
        found = config.read(path)
    assert found == values
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in values.items()}


def test_hashes_are_those_of_the_bytes(tmp_path):
    data = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(data)
    assert files.sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_a_digest_depends_on_values_and_not_on_the_order_of_keys():
    assert files.digest({"a": 1, "b": [1.5, None]}, "x") == files.digest({"b": [1.5, None], "a": 1}, "x")
    different = [files.digest(*p) for p in [({"a": 1},), ({"a": 1.5},), ({"a": "1"},), ("a", 1), ("a1",), ([],), ()]]
    assert len(set(different)) == len(different)


def test_anything_is_removed_and_nothing_behind_a_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    folder = tmp_path / "folder"
    (folder / "in").mkdir(parents=True)
    (folder / "link").symlink_to(outside)
    link, file, broken = tmp_path / "link", tmp_path / "file", tmp_path / "broken"
    link.symlink_to(outside)
    broken.symlink_to(tmp_path / "nowhere")
    file.write_text("x")
    for path in (folder, link, file, broken, tmp_path / "absent"):
        files.remove(path)
    assert names(tmp_path) == ["outside"]
    assert names(outside) == ["kept"]
