"""One matrix of whole numbers out of a MATLAB file of versions 5 to 7.2
(https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf).

Only what a label map needs: variables of other kinds are passed over by their sizes, nothing is ever constructed from
them. scipy's reader knows all kinds, and crashes on some damaged files.
"""

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from pipelines.data.decode import MAX_PIXELS
from pipelines.data.faults import FaultError

HEADER = 128  # bytes
MATRIX, COMPRESSED = 14, 15
MAX_INFLATED = 1 << 28  # bytes of one variable
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC = range(6, 16)  # classes of arrays: double, single, int8 to uint64
COMPLEX = 1 << 11


def matrix(data: bytes, name: str) -> np.ndarray:
    """The variable `name` of the file -> uint16[h, w]."""
    try:
        order = {b"IM": "<", b"MI": ">"}.get(data[126:128], "")
        if not order or data[124:126] not in (b"\0\1", b"\1\0"):
            raise FaultError("bad-annotation" if data else "empty-file", "no MATLAB file of version 5 to 7.2")
        for variable in _variables(data, order):
            parts = list(_elements(variable, order, most=4))
            if len(parts) >= 3 and bytes(parts[2][1]) == name.encode():
                return _numbers(parts, order, name)
    except (struct.error, ValueError, zlib.error) as error:
        raise FaultError("corrupt", f"corrupt MATLAB file: {error}") from None
    raise FaultError("bad-annotation", f"holds no {name}")


def _variables(data: bytes, order: str) -> Iterator[bytes]:
    for kind, content in _elements(memoryview(data)[HEADER:], order):
        if kind == MATRIX:
            yield bytes(content)
        elif kind == COMPRESSED:
            inflated = zlib.decompressobj().decompress(content, MAX_INFLATED)
            inner, size = struct.unpack_from(f"{order}II", inflated)
            if inner == MATRIX:
                yield inflated[8 : 8 + size]


def _elements(data: bytes | memoryview, order: str, most: int = 1 << 16) -> Iterator[tuple[int, bytes | memoryview]]:
    """(type, content) of what stands in the file one after the other; each at a multiple of 8 bytes, but for what is
    compressed."""
    at = found = 0
    while at < len(data) and found < most:
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # up to four bytes stand in the tag itself
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start = at + 8
            end = start + size + (-size % 8 if kind != COMPRESSED else 0)
        if start + size > len(data):
            raise ValueError(f"it ends {start + size - len(data)} bytes early")
        yield kind, data[start : start + size]
        at, found = end, found + 1


def _numbers(parts: list[tuple[int, bytes | memoryview]], order: str, name: str) -> np.ndarray:
    (_, flags), (_, sizes), _, *content = parts
    (word,) = struct.unpack_from(f"{order}I", flags)
    shape = np.frombuffer(sizes, f"{order}i4").tolist()
    pixels = math.prod(shape)
    if word & 0xFF not in NUMERIC or word & COMPLEX or len(shape) != 2 or min(shape) < 1 or pixels > MAX_PIXELS:
        raise FaultError("bad-annotation", f"{name} is no matrix of up to {MAX_PIXELS} real numbers")
    if not content or content[0][0] not in NUMBERS:
        raise ValueError(f"{name} has no numbers")
    numbers = np.frombuffer(content[0][1], order + NUMBERS[content[0][0]])
    if numbers.size != pixels:
        raise ValueError(f"{name} has {numbers.size} numbers, expected {pixels}")
    with np.errstate(invalid="ignore", over="ignore"):  # a NaN is told below
        values = numbers.astype(np.uint16)
    if not np.array_equal(values, numbers):
        raise FaultError("label-value", f"{name} holds numbers that are no ids")
    return values.reshape(shape, order="F")
