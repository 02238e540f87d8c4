"""Colours at known pixels, verdicts at known overlaps."""

import numpy as np
import pytest

from pipelines.data.prediction import Panoptic
from pipelines.data.schema import IGNORE, ClassInfo
from pipelines.reporting import pictures
from pipelines.reporting.matching import match
from pipelines.reporting.pictures import CONFUSED, HATCH, INVENTED, MATCHED, MISSED, NOTHING, PAPER, UNKNOWN, VERDICTS

CLASSES = (
    ClassInfo(name="ground", color=(10, 200, 30), isthing=False),
    ClassInfo(name="ball", color=(200, 0, 100), isthing=True),
)
GREY = np.full((20, 20, 3), 100, np.uint8)


def block(top, left, bottom, right, size=(20, 20)):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_classes_have_their_colours_and_ignored_pixels_none():
    semantic = np.array([[0, 1, IGNORE]], np.uint8).repeat(12, axis=1)
    picture = pictures.colorize(semantic, CLASSES)
    assert picture.dtype == np.uint8
    assert tuple(picture[0, 5]) == (10, 200, 30)
    assert tuple(picture[0, 15]) == (200, 0, 100)
    assert {tuple(p) for p in picture[0, 24:]} == set(HATCH)


def test_instances_are_filled_outlined_and_the_small_one_is_in_front():
    masks = np.stack([block(2, 2, 7, 7), block(0, 0, 18, 18)])
    picture = pictures.instances(GREY, masks, np.array([1, 0]), CLASSES)
    assert tuple(picture[2, 2]) == PAPER  # the small one's rim
    assert picture[4, 4, 0] > picture[4, 4, 1]  # red: the ball
    assert picture[12, 12, 1] > picture[12, 12, 0]  # green: the ground
    assert tuple(picture[19, 19]) == (100, 100, 100)  # faded grey stays what it was


def test_a_crowd_is_striped():
    mask = block(0, 0, 20, 20)[None]
    whole, crowd = (
        pictures.instances(GREY, mask, np.array([1]), CLASSES, iscrowd=np.array([c])) for c in (False, True)
    )
    assert len({tuple(p) for p in whole[10, 1:19]}) == 1
    assert len({tuple(p) for p in crowd[10, 1:19]}) == 2


def test_panoptic_tells_instances_of_a_class_apart():
    ids = np.zeros((20, 20), np.int32)
    ids[:, 5:10], ids[:, 10:15], ids[:, 15:] = 1, 2, 3
    view = Panoptic(ids=ids, labels=np.array([0, 1, 1]), iscrowd=np.zeros(3, bool))
    picture = pictures.panoptic(view, CLASSES)
    assert tuple(picture[5, 7]) == (10, 200, 30)
    assert tuple(picture[5, 12]) == (200, 0, 100)
    assert tuple(picture[5, 17]) not in {(200, 0, 100), (10, 200, 30), PAPER}
    assert tuple(picture[5, 14]) == PAPER  # the border between the two balls
    assert {tuple(p) for p in picture[0:4, 0:4].reshape(-1, 3)} == set(HATCH)  # void


def test_semantic_errors():
    truth, predicted = np.array([[0, 1, IGNORE, 1]], np.uint8), np.array([[0, 0, 0, IGNORE]], np.uint8)
    assert pictures.semantic_errors(truth, predicted).tolist() == [[NOTHING, INVENTED, UNKNOWN, INVENTED]]


def test_segment_errors_judge_every_pixel():
    truth = np.stack([block(0, 0, 4, 10), block(10, 0, 14, 10), block(16, 0, 20, 10)])
    found = np.stack([block(0, 2, 4, 12), block(10, 12, 14, 18), block(16, 0, 20, 3)])
    labels = np.array([1, 1, 1])
    unknown = block(19, 19, 20, 20)
    matches = match(truth, labels, found, labels, iscrowd=np.zeros(3, bool), unknown=unknown)
    assert matches.pairs == ((0, 0),)
    assert (matches.missed, matches.invented) == ((1, 2), (1, 2))
    errors = pictures.segment_errors(truth, found, matches, unknown)
    expected = {(1, 5): MATCHED, (1, 1): MISSED, (1, 11): INVENTED, (11, 5): MISSED, (11, 15): INVENTED}
    expected |= {(17, 1): CONFUSED, (17, 5): MISSED, (19, 19): UNKNOWN, (7, 7): NOTHING}
    assert {at: int(errors[at]) for at in expected} == expected


def test_match_needs_the_class_and_takes_each_truth_once():
    truth = np.stack([block(0, 0, 4, 10)])
    found = np.stack([block(0, 0, 4, 9), block(0, 0, 4, 10), block(0, 0, 4, 10)])
    matches = match(
        truth, np.array([1]), found, np.array([1, 1, 0]), iscrowd=np.array([False]), unknown=np.zeros((20, 20), bool)
    )
    assert (matches.pairs, matches.missed, matches.invented) == (((0, 0),), (), (1, 2))


@pytest.mark.parametrize("why", ["crowd", "unknown"])
def test_what_lies_on_a_crowd_or_on_void_is_not_judged(why):
    truth, unknown = np.stack([block(0, 0, 10, 10)]), np.zeros((20, 20), bool)
    if why == "unknown":
        unknown |= truth[0]
    matches = match(
        truth, np.array([1]), np.stack([block(0, 0, 4, 4)]), np.array([1]), iscrowd=np.array([True]), unknown=unknown
    )
    assert (matches.pairs, matches.missed, matches.invented) == ((), (), ())


@pytest.mark.parametrize(("truths", "predictions"), [(0, 0), (0, 1), (1, 0)])
def test_match_of_nothing(truths, predictions):
    masks = block(0, 0, 4, 4)[None]
    matches = match(
        masks[:truths],
        np.ones(truths, np.int64),
        masks[:predictions],
        np.ones(predictions, np.int64),
        iscrowd=np.zeros(truths, bool),
        unknown=np.zeros((20, 20), bool),
    )
    assert (matches.pairs, matches.missed, matches.invented) == ((), tuple(range(truths)), tuple(range(predictions)))


def test_errors_are_painted_over_a_grey_image():
    verdicts = np.full((20, 20), NOTHING, np.uint8)
    verdicts[0:5], verdicts[5:10] = INVENTED, UNKNOWN
    picture = pictures.paint_errors(np.full((20, 20, 3), (200, 30, 30), np.uint8), verdicts)
    assert len(set(picture[15, 15].tolist())) == 1
    assert np.abs(picture[2, 2].astype(int) - VERDICTS[INVENTED]).max() < 40
    assert {tuple(p) for p in picture[5:10].reshape(-1, 3)} == set(HATCH)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((128, 128), (256, 256)), ((60, 100), (120, 200)), ((300, 300), (300, 300)), ((500, 1000), (256, 512))],
)
def test_small_pictures_grow_by_whole_numbers_and_large_ones_shrink(size, shown):
    assert pictures.display_size(*size, largest=512) == shown
    assert pictures.fit(np.zeros((*size, 3), np.uint8), shown).shape == (*shown, 3)


def test_maps_keep_their_values():
    values = np.array([[0, 7], [9, 255]], np.int32)
    assert pictures.fit_map(values, (4, 4)).tolist() == np.kron(values, np.ones((2, 2), np.int32)).tolist()
    assert pictures.fit_map(np.kron(values, np.ones((3, 3), np.int32)), (2, 2)).tolist() == values.tolist()


def test_legend_shows_every_class():
    many = tuple(ClassInfo(name=f"class {i}", color=(i, 255 - i, 7), isthing=False) for i in range(40))
    sheet = pictures.legend(many, width=300)
    assert sheet.shape[1] == 300
    seen = {tuple(p) for p in sheet.reshape(-1, 3)}
    assert {c.color for c in many} | set(HATCH) <= seen


def test_contact_sheet_puts_each_picture_in_its_cell():
    red, blue = (np.full((30, 40, 3), c, np.uint8) for c in ((255, 0, 0), (0, 0, 255)))
    sheet = pictures.contact_sheet([[red, blue], [blue, red]], ["truth", "prediction"], gap=8)
    assert sheet.shape == (28 + 2 * 38, 8 + 2 * 48, 3)
    assert [tuple(sheet[y, x]) for y, x in [(40, 20), (40, 70), (80, 20), (80, 70)]] == [
        (255, 0, 0),
        (0, 0, 255),
        (0, 0, 255),
        (255, 0, 0),
    ]
    assert (sheet[:28].min(axis=2) < 128).any()  # the titles
