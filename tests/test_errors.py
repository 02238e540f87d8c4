"""What a user reads when something is wrong."""

import pytest

from pipelines.errors import (
    ConfigError,
    DataError,
    InputError,
    MasklineError,
    PromotionError,
    RunError,
    ValidationFailed,
    bounded,
    did_you_mean,
)


def test_a_message_says_what_every_fault_and_what_to_do():
    error = DataError("the folder has 2 faults", iter(["a.png: truncated", "b.png: 0 bytes"]), do="mend them")
    assert str(error) == "the folder has 2 faults\n  - a.png: truncated\n  - b.png: 0 bytes\ndo: mend them"
    assert error.faults == ("a.png: truncated", "b.png: 0 bytes")
    assert str(DataError("it is gone")) == "it is gone"


@pytest.mark.parametrize(
    ("kind", "code"),
    [(ConfigError, 2), (DataError, 2), (ValidationFailed, 2), (InputError, 2), (RunError, 1), (PromotionError, 1)],
)
def test_exit_codes_tell_a_wrong_input_from_a_failed_run(kind, code):
    assert kind("x").exit_code == code
    assert issubclass(kind, MasklineError)


def test_close_names_are_suggested_and_others_are_not():
    assert did_you_mean("unnet", ["unet", "mask_rcnn"]) == ", did you mean 'unet'?"
    assert did_you_mean("zzz", ["unet", "mask_rcnn"]) == ""
    assert did_you_mean(3, []) == ""


@pytest.mark.parametrize("count", [0, 1, 20])
def test_a_readable_list_of_faults_is_kept(count):
    assert bounded([str(i) for i in range(count)]) == [str(i) for i in range(count)]


def test_a_long_list_of_faults_is_cut_and_the_rest_counted():
    assert bounded([str(i) for i in range(23)]) == [*(str(i) for i in range(20)), "and 3 more"]
