"""The published class tables, against facts about the datasets that are stated here and not derived from the tables."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipelines.data import classes, decode
from pipelines.data.classes import PUBLISHED, Entry
from pipelines.data.schema import IGNORE

# Values that masks hold, values that are evaluated, thing classes among these.
COUNTS = {
    "ade20k_150": (151, 150, 100),
    "ade20k_full_254": (255, 254, 181),
    "camvid11": (12, 11, 3),
    "camvid32": (32, 31, 11),
    "cityscapes": (35, 19, 8),
    "coco_stuff_171": (171, 171, 80),
    "pascal_context_459": (459, 459, 20),
    "pascal_context_59": (60, 59, 20),
    "voc": (21, 21, 20),
}
# More classes than a map of uint8 has room for: a source of names and of the way to the 59.
TOO_MANY = {"pascal_context_459"}
INGESTED = sorted(COUNTS.keys() - TOO_MANY)

CITYSCAPES = (
    "road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, "
    "person, rider, car, truck, bus, train, motorcycle, bicycle"
)
VOC = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
)
ADE20K_STUFF = [
    *(1, 2, 3, 4, 5, 6, 7, 10, 12, 14, 17, 18, 22, 26, 27, 29, 30, 35, 41, 47, 49, 52, 53, 55, 60),
    *(
        61,
        62,
        64,
        69,
        78,
        80,
        85,
        92,
        95,
        97,
        100,
        101,
        102,
        106,
        107,
        110,
        114,
        115,
        118,
        123,
        129,
        132,
        141,
        142,
        146,
    ),
]
# The 59 classes of PASCAL-Context by name, and their ids among the 459, both as those list them who convert the masks.
CONTEXT_BY_NAME = (
    "aeroplane bag bed bedclothes bench bicycle bird boat book bottle building bus cabinet car cat ceiling chair cloth "
    "computer cow cup curtain dog door fence floor flower food grass ground horse keyboard light motorbike mountain "
    "mouse person plate platform pottedplant road rock sheep shelves sidewalk sign sky snow sofa table track train "
    "tree truck tvmonitor wall water window wood"
)
CONTEXT_IDS = [
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159),
    *(162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368),
    *(397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
]


def entries(name: str) -> list[Entry]:
    return [Entry.model_validate(raw) for raw in raw_entries(name)]


def raw_entries(name: str) -> list[dict]:
    found: list[dict] = yaml.safe_load((PUBLISHED / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def test_every_table_is_counted_here():
    assert {path.stem for path in PUBLISHED.iterdir()} == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    found = entries(name)
    kept = [e for e in found if not e.ignore]
    assert (len(found), len(kept), sum(e.isthing for e in kept)) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_ids_rise_and_names_are_unique(name):
    found = entries(name)
    ids = [e.id for e in found]
    assert ids == sorted(set(ids))
    assert len({e.name for e in found}) == len(found)
    assert all(e.name == e.name.strip() for e in found)


@pytest.mark.parametrize("name", COUNTS)
def test_no_two_evaluated_classes_share_a_colour(name):
    found = [e for e in entries(name) if not e.ignore]
    colors = Counter(tuple(e.color) for e in found if e.color)
    shared = [e.name for e in found if e.color and colors[tuple(e.color)] > 1]
    assert shared == (["road", "skyscraper"] if name == "ade20k_150" else [])  # so published
    assert sum(colors.values()) in (0, len(found))


@pytest.mark.parametrize("name", COUNTS)
def test_a_table_says_where_it_comes_from_and_what_0_and_255_mean_and_what_things_are(name):
    lines = (PUBLISHED / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = "\n".join(line for line in lines if line.startswith("#"))
    assert all(said in comment for said in ("http", " 0 ", "255", "# Things: "))
    assert all(len(line) <= 120 for line in lines)
    assert all(line.startswith(("#", "- {id: ")) or not line for line in lines)
    allowed = {"id", "name", "color", "isthing", "ignore", "train_id", "group", "context59", "camvid11"}
    assert {key for raw in raw_entries(name) for key in raw} <= allowed


@pytest.mark.parametrize("name", INGESTED)
def test_masks_of_every_published_value_are_read(name):
    table = classes.published(name)
    values = np.array([e.id for e in entries(name) if e.id != -1] + [IGNORE], np.uint16)
    found = table.semantic(values[None])[0]
    ignored = [e.ignore for e in entries(name) if e.id != -1] + [True]
    assert found[~np.array(ignored)].tolist() == list(range(len(table.classes)))
    assert (found[np.array(ignored)] == IGNORE).all()


def test_voc():
    found = entries("voc")
    assert " ".join(e.name for e in found) == VOC
    assert [e.id for e in found] == list(range(21))
    assert [e.name for e in found if not e.isthing] == ["background"]
    assert [tuple(e.color or ()) for e in found] == [
        *((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)),
        *((128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128), (192, 0, 128)),
        *((64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0), (0, 192, 0), (128, 192, 0), (0, 64, 128)),
    ]


def test_context_59_is_voc_and_then_39_that_have_no_instances():
    found = entries("pascal_context_59")
    assert " ".join(e.name for e in found[:21]) == VOC
    assert [e.id for e in found if e.ignore] == [0]
    assert [e.id for e in found if e.isthing] == list(range(1, 21))
    assert (found[21].name, found[59].name, found[59].color) == ("bag", "wood", [192, 192, 64])
    assert all(tuple(e.color or ()) == classes.color(i) for i, e in enumerate(found[1:]))


def test_context_459_leads_to_the_59():
    full = raw_entries("pascal_context_459")
    assert [e["id"] for e in full] == list(range(1, 460))
    assert (full[0]["name"], full[430]["name"], full[458]["name"]) == ("accordion", "unknown", "wool")
    chosen = {e["id"]: e["name"] for e in full if "context59" in e}
    assert list(chosen) == CONTEXT_IDS
    assert " ".join(chosen.values()) == CONTEXT_BY_NAME

    reduced = {e.id: e for e in entries("pascal_context_59")}
    target = {e["context59"]: e for e in full if "context59" in e}
    assert sorted(target) == list(range(1, 60))
    renamed = {target[i]["name"]: reduced[i].name for i in target if target[i]["name"] != reduced[i].name}
    assert renamed == {"table": "diningtable", "bedclothes": "bedcloth", "cloth": "clothes"}
    assert {e["id"] for e in full if e["isthing"]} == {e["id"] for i, e in target.items() if reduced[i].isthing}


def test_cityscapes_train_ids_are_the_places_of_its_classes():
    raw = raw_entries("cityscapes")
    assert [e["id"] for e in raw] == list(range(-1, 34))
    kept = [e for e in raw if not e.get("ignore")]
    assert ", ".join(e["name"] for e in kept) == CITYSCAPES
    assert ", ".join(c.name for c in classes.published("cityscapes").classes) == CITYSCAPES
    assert [e["train_id"] for e in kept] == list(range(19))
    assert {e["name"]: e["train_id"] for e in raw if e.get("ignore") and e["train_id"] != 255} == {"license plate": -1}
    assert [e["id"] for e in kept] == [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert [e["id"] for e in raw if e["isthing"]] == list(range(24, 34))
    assert Counter(e["group"] for e in raw) == {
        **{"void": 7, "flat": 4, "construction": 6, "object": 4},
        **{"nature": 2, "sky": 1, "human": 2, "vehicle": 9},
    }


def test_camvid_32_becomes_11():
    full = raw_entries("camvid32")
    assert [e["name"] for e in full] == sorted((e["name"] for e in full), key=str.lower)
    into = {name: {e["name"] for e in full if e["camvid11"] == i} for i, name in enumerate(_names("camvid11"))}
    assert into == {
        "sky": {"Sky"},
        "building": {"Archway", "Bridge", "Building", "Tunnel", "Wall"},
        "pole": {"Column_Pole", "TrafficCone"},
        "road": {"LaneMkgsDriv", "LaneMkgsNonDriv", "Road"},
        "pavement": {"ParkingBlock", "RoadShoulder", "Sidewalk"},
        "tree": {"Tree", "VegetationMisc"},
        "sign symbol": {"Misc_Text", "SignSymbol", "TrafficLight"},
        "fence": {"Fence"},
        "car": {"Car", "OtherMoving", "SUVPickupTruck", "Train", "Truck_Bus"},
        "pedestrian": {"Animal", "CartLuggagePram", "Child", "Pedestrian"},
        "bicyclist": {"Bicyclist", "MotorcycleScooter"},
        "void": {"Void"},
    }


def test_camvids_tables_agree_on_colours_things_and_void():
    full, reduced = entries("camvid32"), entries("camvid11")
    becomes = [reduced[e["camvid11"]] for e in raw_entries("camvid32")]
    assert [(e.isthing, e.ignore) for e in full] == [(e.isthing, e.ignore) for e in becomes]
    colors = {tuple(e.color or ()): e for e in full}
    assert [e.name for e in reduced if tuple(e.color or ()) not in colors] == ["pavement"]
    same = {e.name: colors[tuple(e.color)].name for e in reduced if e.color and tuple(e.color) in colors}
    assert same == {
        **{"sky": "Sky", "building": "Building", "pole": "Column_Pole", "road": "Road", "tree": "Tree"},
        **{"sign symbol": "SignSymbol", "fence": "Fence", "car": "Car", "pedestrian": "Pedestrian"},
        **{"bicyclist": "Bicyclist", "void": "Void"},
    }


def test_camvid32_is_read_by_its_colours():
    table = classes.published("camvid32")
    rgb = np.array([[[64, 128, 64], [0, 0, 0], [64, 192, 0]]], np.uint8)
    assert table.semantic_of_colors(rgb).tolist() == [[0, IGNORE, 30]]


def test_ade20k():
    found = entries("ade20k_150")
    assert [e.id for e in found] == list(range(151))
    assert [e.id for e in found if e.ignore] == [0]
    assert [e.id for e in found if not e.isthing and not e.ignore] == ADE20K_STUFF
    names = {1: "wall", 13: "person", 21: "car", 67: "flower", 90: "television", 128: "bicycle", 150: "flag"}
    assert {i: found[i].name for i in names} == names
    assert (found[1].color, found[150].color) == ([120, 120, 120], [92, 0, 255])


def test_coco_stuff_holds_cocos_ids_less_one():
    found = entries("coco_stuff_171")
    never_annotated = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91]
    assert [e.id for e in found] == [i - 1 for i in range(1, 183) if i not in never_annotated]
    assert [e.id for e in found if e.isthing] == [e.id for e in found if e.id is not None and e.id < 90]
    names = {0: "person", 12: "stop sign", 66: "dining table", 89: "toothbrush", 91: "banner", 168: "tree", 181: "wood"}
    assert {e.id: e.name for e in found if e.id in names} == names


def test_camvid11_fits_the_published_masks():
    root = Path(os.environ.get("MASKLINE_DATA", "")) / "camvid" / "valannot"
    if not os.environ.get("MASKLINE_DATA") or not root.is_dir():
        pytest.skip("MASKLINE_DATA names no folder with camvid/valannot in it")
    table = classes.published("camvid11")
    maps = [table.semantic(decode.mask(path.read_bytes())) for path in sorted(root.glob("*.png"))[::10]]
    names = [c.name for c in table.classes]
    rows = {name: np.concatenate([np.nonzero(m == i)[0] for m in maps]).mean() for i, name in enumerate(names)}
    assert rows["sky"] < rows["building"] < rows["car"] < rows["road"]
    assert all((m == IGNORE).mean() < 0.2 for m in maps)


def _names(table: str) -> list[str]:
    return [e.name for e in entries(table)]
