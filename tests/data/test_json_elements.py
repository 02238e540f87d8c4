"""Large JSON files, an element at a time, against reading them whole."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import json_elements
from pipelines.data.faults import FaultError
from pipelines.data.json_elements import elements

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
FILES = st.fixed_dictionaries({"a": st.lists(VALUES), "b": st.lists(VALUES)}, optional={"c": VALUES, "": VALUES})


def read(data: bytes) -> dict[str, object]:
    found: dict[str, object] = {"a": [], "b": []}
    for element in elements(data, ("a", "b")):
        assert not element.fault
        if element.place < 0:
            found[element.key] = element.value
        else:
            found[element.key].append(element.value)
            assert len(found[element.key]) == element.place + 1
            assert json.loads(element.text) == element.value
    return found


@pytest.fixture(params=[1, 7, 64, 1 << 20], ids=str)
def window(request, monkeypatch):
    monkeypatch.setattr(json_elements, "WINDOW", request.param)


@given(FILES, st.sampled_from([None, 2]), st.booleans(), st.sampled_from([1, 5, 1 << 20]))
def test_elements_are_those_of_the_whole_file(content, indent, ascii_only, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_elements, "WINDOW", size)
        text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
        assert read(text.encode(errors="surrogatepass")) == content


def test_a_mark_of_the_byte_order(window):
    assert read(b'\xef\xbb\xbf{"a": [], "b": [1]}') == {"a": [], "b": [1]}


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        ('{"x": NaN, "id": 17, "y": "}]"}', "NaN is no number"),
        ('{"x": [-Infinity], "other": {"id": 4}, "id": 17}', "-Infinity is no number"),
        ('{"x": %s%s, "id": 17}' % ("[" * 200_000, "]" * 200_000), "is nested too deeply"),  # noqa: UP031
        ('{"x": %s, "id": 17}' % ("9" * 5000), "Exceeds the limit"),
    ],
    ids=["nan", "infinity", "deep", "digits"],
)
@pytest.mark.parametrize("size", [100, 1 << 20])
def test_what_cannot_be_used_is_told_and_passed(element, reason, size, monkeypatch):
    monkeypatch.setattr(json_elements, "WINDOW", size)
    found = list(elements(f'{{"a": [1, {element}, {{"id": 18}}]}}'.encode(), ("a",)))
    assert [(e.place, e.fault[: len(reason)]) for e in found] == [(0, ""), (1, reason), (2, "")]
    assert found[1].value["id"] == 17
    assert found[2].value == {"id": 18}


BROKEN = {
    "empty": ("", "ends too early"),
    "list": ("[]", "expected '{', got '\\['"),
    "cut": ('{"a": [1, {"x": 2', "Expecting ',' delimiter|ends too early"),
    "cut deep": ('{"a": [' + "[" * 200_000, "ends too early"),
    "after": ('{"a": []} x', "goes on after its end"),
    "comma": ('{"a": [1 2]}', "expected ',', got '2' \\(at character 9\\)"),
    "colon": ('{"a" []}', "expected ':', got '\\['"),
    "key": ("{1: []}", "a key must be text"),
    "twice": ('{"a": [], "a": []}', "the key 'a' is there twice"),
    "missing": ('{"b": []}', "has no a"),
    "no list": ('{"a": {}}', "a must be a list"),
    "other nan": ('{"info": {"x": NaN}, "a": []}', "info: NaN is no number"),
    "syntax": ('{"a": [{"x": tru}]}', "Expecting value \\(at character 13\\)"),
    "not utf-8": (b'{"a": ["\xff"]}', "is not UTF-8"),
    "cut utf-8": (b'{"a": ["\xc3', "is not UTF-8"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_json_is_one_fault(data, message, window):
    with pytest.raises(FaultError, match=message) as error:
        list(elements(data.encode() if isinstance(data, str) else data, ("a",)))
    assert error.value.kind == "unreadable-json"


def test_entries_are_bounded(monkeypatch):
    monkeypatch.setattr(json_elements, "WINDOW", 1 << 10)
    monkeypatch.setattr(json_elements, "MAX_ELEMENT", 1 << 14)
    for element in ("[" * 40_000 + "]" * 40_000, json.dumps([0] * 40_000)):
        with pytest.raises(FaultError, match="an entry of more than 16384 characters"):
            list(elements(f'{{"a": [{element}]}}'.encode(), ("a",)))
    (text,) = elements(json.dumps({"a": ["x" * 40_000]}).encode(), ("a",))
    assert len(text.value) == 40_000


@pytest.mark.parametrize("size", [1, 50, 1 << 10])
@pytest.mark.parametrize(
    ("element", "message"),
    [
        ('{"id": 1 "x": 2}', r"Expecting ',' delimiter \(at character 16\)"),
        ('{"id": 1, x: 2}', r"Expecting property name enclosed in double quotes \(at character 17\)"),
        ('{"id": tru}', r"Expecting value \(at character 14\)"),
        (r'{"id": "\x"}', r"Invalid \\escape.* \(at character 15\)"),
    ],
    ids=["comma", "quotes", "word", "escape"],
)
def test_a_mistake_is_told_whatever_stands_behind_it(element, message, size, monkeypatch):
    monkeypatch.setattr(json_elements, "WINDOW", size)
    monkeypatch.setattr(json_elements, "MAX_ELEMENT", 1 << 14)
    behind = ", ".join(['{"id": 2}'] * 4000)
    assert len(behind) > 2 * json_elements.MAX_ELEMENT
    with pytest.raises(FaultError, match=f"^{message}$"):
        list(elements(f'{{"a": [{element}, {behind}]}}'.encode(), ("a",)))


def test_a_text_without_end_is_told_with_its_place(monkeypatch):
    monkeypatch.setattr(json_elements, "WINDOW", 1 << 10)
    monkeypatch.setattr(json_elements, "MAX_ELEMENT", 1 << 14)
    said = r"an entry of more than 16384 characters; Unterminated string starting at character 14 \(at character 7\)"
    with pytest.raises(FaultError, match=f"^{said}$"):
        list(elements(('{"a": [{"id": "x' + " 12," * 10_000).encode(), ("a",)))


def test_memory_is_that_of_an_element():
    entry = {"id": 1, "segmentation": [[1.5, 2.25] * 50]}
    data = json.dumps({"a": [entry] * 20_000}).encode()
    tracemalloc.start()
    count = sum(1 for _ in elements(data, ("a",)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert len(data) > 10_000_000
    assert peak < 5_000_000  # a few windows
