"""Class tables: what becomes of every value and colour, against a look-up per pixel; what is said of the rest."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import classes
from pipelines.data.classes import Entry, OwnEntry, check_count, color, duplicates, parse, published
from pipelines.data.faults import FaultError
from pipelines.data.schema import IGNORE

VALUES = st.one_of(st.integers(-1, 9), st.sampled_from([254, 255, 256, 257, 65535]))
COLOURS = [[r, g, b] for r in (0, 1, 255) for g in (0, 16) for b in (0, 255)]


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    ids = draw(st.lists(VALUES, min_size=1, max_size=6, unique=True))
    colours = draw(st.permutations(COLOURS))
    entries = [
        {"name": f"n{i}", "id": i, "color": c, "ignore": draw(st.booleans()), "isthing": draw(st.booleans())}
        for i, c in zip(ids, colours, strict=False)
    ]
    entries[0]["ignore"] = False
    return entries


def class_of(entries: list[dict[str, Any]], chosen: dict[str, Any]) -> int:
    """The place among those that are kept, counted."""
    before = entries[: entries.index(chosen)]
    return IGNORE if chosen["ignore"] else sum(not e["ignore"] for e in before)


@given(tables(), st.data())
def test_every_value_becomes_its_class_or_is_named(entries, data):
    table = classes.table(OwnEntry(**e) for e in entries)
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16]))
    values = data.draw(st.lists(VALUES.filter(lambda v: 0 <= v <= np.iinfo(dtype).max), min_size=6, max_size=6))
    mask = np.array(values, dtype).reshape(2, 3)
    by_id = {e["id"]: class_of(entries, e) for e in entries}
    expected = [by_id.get(v, IGNORE if v == IGNORE else None) for v in values]
    if None not in expected:
        found = table.semantic(mask)
        assert found.dtype == np.uint8
        assert found.ravel().tolist() == expected
        np.testing.assert_array_equal(table.semantic(mask.T), found.T)  # whatever the order in memory
        return
    outside = sorted({v for v, e in zip(values, expected, strict=True) if e is None})
    with pytest.raises(FaultError) as caught:
        table.semantic(mask)
    assert caught.value.kind == "label-value"
    assert caught.value.reason.startswith(f"ids {{{', '.join(map(str, outside))}}} outside ")
    assert f"({', '.join(f'{values.count(v)} pixels of {v}' for v in outside)})" in caught.value.reason


@given(tables(), st.data())
def test_every_colour_becomes_its_class_or_is_named(entries, data):
    table = classes.table(OwnEntry(**e) for e in entries)
    known = [e["color"] for e in entries]
    colours = data.draw(
        st.lists(st.sampled_from(known + data.draw(st.lists(st.sampled_from(COLOURS)))), min_size=6, max_size=6)
    )
    rgb = np.array(colours, np.uint8).reshape(2, 3, 3)
    expected = [class_of(entries, entries[known.index(c)]) if c in known else None for c in colours]
    if None not in expected:
        found = table.semantic_of_colors(rgb)
        assert (found.dtype, found.ravel().tolist()) == (np.uint8, expected)
        return
    with pytest.raises(FaultError, match="are not in the class table") as caught:
        table.semantic_of_colors(rgb)
    said = {str(c) for c, e in zip(colours, expected, strict=True) if e is None}
    assert said == {c for c in map(str, COLOURS) if c in caught.value.reason}


@given(tables())
def test_the_classes_are_those_that_are_not_ignored_in_order(entries):
    table = classes.table(OwnEntry(**e) for e in entries)
    kept = [e for e in entries if not e["ignore"]]
    assert [(c.name, list(c.color), c.isthing) for c in table.classes] == [
        (e["name"], e["color"], e["isthing"]) for e in kept
    ]
    assert table.things == {i for i, e in enumerate(kept) if e["isthing"]}


def table_of(*entries: dict[str, Any]) -> classes.ClassTable:
    return classes.table(Entry(**e) for e in entries)


def test_an_ignored_entry_may_share_the_colour_of_a_class():
    table = table_of({"name": "none", "color": [1, 2, 3], "ignore": True}, {"name": "pole", "color": [1, 2, 3]})
    assert table.semantic_of_colors(np.array([[[1, 2, 3]]], np.uint8)).tolist() == [[0]]


def test_a_colour_of_two_classes_is_refused_where_it_is_painted():
    table = table_of(
        {"name": "a", "color": [1, 2, 3]}, {"name": "b", "color": [1, 2, 3]}, {"name": "c", "color": [0, 0, 0]}
    )
    assert table.semantic_of_colors(np.zeros((1, 2, 3), np.uint8)).tolist() == [[2, 2]]
    with pytest.raises(FaultError, match=r"colours that several classes have: \[1, 2, 3\] of 'a' and 'b'; give each"):
        table.semantic_of_colors(np.array([[[1, 2, 3]]], np.uint8))


SAID = {
    "ranges": ([0, 1, 2, 7], [3], r"^ids \{3\} outside 0\.\.2, 7, ignore 255 \(2 pixels of 3\)$"),
    "from one": ([0, 1, 2], [1, 3], r"ids \{3\} .*; do the ids count from 1\?$"),
    "zero is there": ([0, 1, 2], [0, 3], r"\(1 pixels of 3\)$"),
    "never painted": ([-1, 4, 5], [6, 5], r"outside 4\.\.5, .*; do the ids count from 1\?$"),
    "only what is never painted": ([-1], [1, 3], r"^ids \{1, 3\} outside , ignore 255"),
    "many": ([0], list(range(1, 40)), r"ids \{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, and 29 more\}"),
}


@pytest.mark.parametrize(("ids", "values", "said"), SAID.values(), ids=SAID)
def test_what_is_said_of_values_outside(ids, values, said):
    mask = np.array([values, values[:1] * len(values)] if len(values) == 1 else [values], np.uint8)
    with pytest.raises(FaultError, match=said):
        table_of(*({"name": str(i), "id": i} for i in ids)).semantic(mask)


def test_what_is_never_painted_is_no_value_of_a_mask():
    table = table_of({"name": "plate", "id": -1, "ignore": True}, {"name": "road", "id": 0})
    with pytest.raises(FaultError, match=r"^ids \{65535\} outside 0, "):
        table.semantic(np.array([[0, 65535]], np.uint16))


def test_label_ids_of_cityscapes_in_a_table_of_its_classes_are_recognized():
    own = table_of(*({"name": c.name} for c in published("cityscapes").classes))
    labels = np.array([[7, 8, 26, 33, 3]], np.uint8)
    with pytest.raises(FaultError, match=r"ids \{26, 33\} outside 0\.\.18, .*; looks like labelIds of Cityscapes"):
        own.semantic(labels)
    with pytest.raises(FaultError, match=r"ids \{34\} outside 0\.\.18, ignore 255 \(1 pixels of 34\)$"):
        own.semantic(np.array([[0, 34]], np.uint8))
    with pytest.raises(FaultError, match=r"\(1 pixels of 33\)$"):  # another table
        table_of(*({"name": str(i)} for i in range(19))).semantic(np.array([[0, 33]], np.uint8))


REFUSED = {
    "unknown key": ("- {name: a, kind: stuff}", r"0\.kind: Extra inputs are not permitted"),
    "a name that YAML takes for a boolean": ("- {name: no}", r"0\.name: .*valid string"),
    "a number for a boolean": ("- {name: a, isthing: 1}", r"0\.isthing: .*valid boolean"),
    "short colour": ("- {name: a, color: [1, 2]}", r"0\.color: .*at least 3"),
    "long colour": ("- {name: a, color: [1, 2, 3, 4]}", r"0\.color: .*at most 3"),
    "half an id": ("- {name: a, id: 1.5}", r"0\.id: .*valid integer"),
    "small id": ("- {name: a, id: -2}", r"0\.id: .*greater than or equal to -1"),
    "empty name": ("- {name: ''}", r"0\.name: .*at least 1"),
    "same names": ("- {name: a}\n- {name: a}\n- {name: b}\n- {name: b}", "^classes of the same name: a, b$"),
    "same ids": ("- {name: a, id: 2}\n- {name: b, id: 2}", "^classes of the same id: 2$"),
    "some ids": ("- {name: a, id: 2}\n- {name: b}", "some classes have an id and some have none: give one to all"),
    "nothing kept": ("- {name: a, ignore: true}", "0 classes, allowed are 1 to 255"),
    "nothing": ("", "not as expected"),
    "no list": ("name: a", "not as expected"),
    "python": ("- !!python/object/apply:os.system [ls]", "cannot be read"),
    "deep": ("[" * 100_000, "cannot be read"),
    "no YAML": ("- {name: a", "cannot be read"),
    "many faults": ("\n".join("- {}" for _ in range(99)), r"9\.name: Field required; and 89 more"),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_table_is_refused_in_words(text, said):
    with pytest.raises(FaultError, match=said) as caught:
        parse(text, "classes.yaml")
    assert caught.value.kind == "class-table"


@pytest.mark.timeout(20)
def test_a_table_that_grows_while_it_is_read_is_refused():
    """Nine aliases of nine aliases of ...: a billion of them, if anything looked at them all."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    for text in ("\n".join(lines), "\n".join([*lines, "b: *a9"]), f"- {{name: &a [{'x, ' * 9}], color: [*a, *a, *a]}}"):
        with pytest.raises(FaultError, match=r"not as expected|cannot be read"):
            parse(text, "classes.yaml")


def test_json_and_yaml_say_the_same():
    entries = [{"name": "a", "id": 7, "color": [1, 2, 3], "isthing": True}, {"name": "ü", "id": 0, "ignore": True}]
    assert parse(json.dumps(entries), "classes.json") == parse(json.dumps(entries), "classes.yaml")
    with pytest.raises(FaultError, match="cannot be read"):
        parse("- {name: a}", "classes.json")


def test_without_ids_an_entry_s_place_is_its_id():
    table = parse("- {name: a}\n- {name: b, ignore: true}\n- {name: c}", "classes.yaml")
    assert table.values == {0: 0, 1: IGNORE, 2: 1}


def test_a_published_table_is_read_once():
    assert published("cityscapes") is published("cityscapes")


def test_further_keys_of_a_published_table_are_kept():
    table = parse("- {name: a, group: x}", "a.yaml", Entry)
    assert table.entries[0].model_extra == {"group": "x"}


def test_colours_are_pascal_voc_s():
    assert [color(i) for i in range(4)] == [(128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert len({color(i) for i in range(255)}) == 255


@given(st.lists(st.integers(0, 5)))
def test_duplicates_are_named_once_in_order(values):
    assert duplicates(values) == [v for i, v in enumerate(values) if v not in values[:i] and values.count(v) > 1]


@pytest.mark.parametrize("count", [0, IGNORE + 1])
def test_class_ids_fit_beside_the_ignore_value(count):
    with pytest.raises(FaultError, match=f"^{count} classes, allowed are 1 to 255"):
        check_count(count)
    check_count(255)
    check_count(1)
