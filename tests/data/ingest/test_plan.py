"""Shards are cut by content: what is added or taken away changes the shard it falls into, and no other."""

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.formats.source import Item
from pipelines.data.ingest import plan

names = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), unique=True, max_size=80)


def items(ids) -> list[Item]:
    return [Item(id=i, split="train", files=(f"images/{i}.png",)) for i in ids]


@given(names, st.integers(1, 20))
def test_chunks_hold_everything_in_order_and_no_more_than_they_may(ids, most):
    found = plan.chunks(items(ids), most)
    assert [item.id for chunk in found for item in chunk] == ids
    assert all(max(most // 4, 1) <= len(chunk) <= most for chunk in found[:-1])
    assert all(found)


def jobs(ids, there=None, most=64):
    made = items(ids)
    keys = plan.item_keys(made, {item.files[0]: (len(item.id), 7) for item in made}, "context")
    return plan.jobs(made, keys=keys, rows_per_shard=most, there=there or {})


def test_an_added_image_changes_one_shard():
    ids = [f"{i:05}" for i in range(0, 20_000, 2)]
    before = {job.key for job in jobs(ids)}
    for added in (1, 9_999, 19_999):
        after = jobs([*ids, f"{added:05}"])
        changed = [job for job in after if job.key not in before]
        assert len(changed) <= 3  # it may end, or no longer end, a chunk
        assert sum(len(job.items) for job in changed) <= 3 * 64
    assert len(before) > 10_000 / 64


def test_what_is_there_is_carried_over():
    ids = [str(i) for i in range(100)]
    first = jobs(ids)
    there = {key: plan.Carried(job.key, row) for job in first for row, key in enumerate(job.keys)}
    assert all(job.whole for job in jobs(ids, there))
    more = jobs([*ids, "zzz"], there)
    new = [item.id for job in more for item, row in zip(job.items, job.carried, strict=True) if row is None]
    assert new == ["zzz"]


def test_a_key_changes_with_whatever_the_row_follows_from():
    item, stamps = items(["a"])[0], {"images/a.png": (10, 20)}
    keys = {
        plan.item_keys([item], stamps, "one")["a"],
        plan.item_keys([item], stamps, "other")["a"],
        plan.item_keys([item], {"images/a.png": (10, 21)}, "one")["a"],
        plan.item_keys([Item(id="a", split="train", files=item.files, group="b")], stamps, "one")["a"],
    }
    assert len(keys) == 4
    moved = Item(id="a", split="val", files=item.files)
    assert plan.item_keys([moved], stamps, "one")["a"] in keys  # its row is the same but for the split
    assert plan.item_keys([item], stamps, "one") == plan.item_keys([item], dict(stamps), "one")


def test_a_description_holds_no_address_and_no_order_of_a_set():
    function = partial(plan.chunks, {"b", "a"}, most=frozenset([2, 1]))
    assert plan.described(function) == "pipelines.data.ingest.plan.chunks({'a', 'b'}; most={1, 2})"


def test_a_damaged_sidecar_is_no_sidecar(tmp_path):
    for text in ("", "[]", "null", '{"info": {}}', '{"info": {"path": 1}, "store": "", "rows": []}', "[" * 100_000):
        (tmp_path / "x.json").write_text(text)
        assert plan.rows_there(tmp_path, "") == {}
