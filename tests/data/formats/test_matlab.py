"""Label maps in MATLAB files, against scipy's writer; damaged and hostile ones end in a fault."""

import io
import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from scipy import io as scipy_io

from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats.matlab import matrix

SIZE = (6, 10)


def mat(*, packed: bool = True, **variables: object) -> bytes:
    file = io.BytesIO()
    scipy_io.savemat(file, variables, do_compression=packed)
    return file.getvalue()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("size", [(6, 10), (1, 1), (3, 1), (1, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.uint64, np.float32, np.float64])
def test_numbers_of_any_type_are_ids(dtype, size, packed):
    labels = np.random.default_rng(1).integers(0, 256 if dtype == np.uint8 else 460, size)
    others = {"text": "LabelMap", "cells": np.array([1, "a"], object), "struct": {"LabelMap": 3}}
    read = matrix(mat(packed=packed, **others, LabelMap=labels.astype(dtype), z=1), "LabelMap")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, labels)


def test_the_other_byte_order():
    inner = struct.pack(">IIII IIii", 6, 8, 11, 0, 5, 8, 2, 3)  # uint16, 2 x 3
    inner += struct.pack(">II8s II", 1, 8, b"LabelMap", 4, 12) + struct.pack(">6H4x", 1, 2, 3, 4, 5, 459)
    data = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI" + struct.pack(">II", 14, len(inner)) + inner
    assert matrix(data, "LabelMap").tolist() == [[1, 3, 5], [2, 4, 459]]
    np.testing.assert_array_equal(matrix(data, "LabelMap"), scipy_io.loadmat(io.BytesIO(data))["LabelMap"])


HOSTILE = {
    "empty": (b"", "empty-file"),
    "text": (b"LabelMap" * 99, "bad-annotation"),
    "pickle": (pickle.dumps({"LabelMap": np.zeros((3, 3))}), "bad-annotation"),
    "hdf5": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" * 99, "bad-annotation"),
    "missing": (mat(Labels=np.zeros(SIZE)), "bad-annotation"),
    "text instead": (mat(LabelMap="abc"), "bad-annotation"),
    "cells": (mat(LabelMap=np.array([[1, "a"]], object)), "bad-annotation"),
    "struct": (mat(LabelMap={"a": 1}), "bad-annotation"),
    "cube": (mat(LabelMap=np.zeros((2, 3, 4))), "bad-annotation"),
    "nothing": (mat(LabelMap=np.zeros((0, 3))), "bad-annotation"),
    "large": (mat(LabelMap=np.zeros((1 << 13, (1 << 13) + 1), np.uint8)), "bad-annotation"),
    "fractions": (mat(LabelMap=np.full(SIZE, 0.5)), "label-value"),
    "nan": (mat(LabelMap=np.full(SIZE, np.nan)), "label-value"),
    "negative": (mat(LabelMap=np.full(SIZE, -1.0)), "label-value"),
    "complex": (mat(LabelMap=np.full(SIZE, 1 + 1j)), "bad-annotation"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "kind"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_label_map_is_refused(data, kind):
    with pytest.raises(FaultError) as error:
        matrix(data, "LabelMap")
    assert error.value.kind == kind
    assert "\n" not in error.value.reason


def test_what_inflates_without_end_is_cut(monkeypatch):
    monkeypatch.setattr("pipelines.data.formats.matlab.MAX_INFLATED", 1 << 16)
    whole = mat(LabelMap=np.full(SIZE, 7))
    bomb = zlib.compress(struct.pack("<II", 14, 1 << 31) + bytes(1 << 26))
    data = whole[:128] + struct.pack("<II", 15, len(bomb)) + bomb + whole[128:]
    tracemalloc.start()
    found = matrix(data, "LabelMap")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found == 7).all()
    assert peak < 4 << 20


@pytest.mark.parametrize("packed", [True, False])
def test_damaged_files_are_read_or_refused(packed):
    whole = mat(packed=packed, a=np.arange(3), LabelMap=np.arange(60, dtype=np.uint16).reshape(SIZE), s={"x": [1, 2]})
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(5000):
        data = bytearray(whole[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.2 else whole)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        faults = Faults()
        with faults.of("a.mat", "a"):
            assert matrix(bytes(data), "LabelMap").ndim == 2
        kinds |= {fault.kind for fault in faults}
    assert kinds - {"label-value"} == {"corrupt", "bad-annotation"}
