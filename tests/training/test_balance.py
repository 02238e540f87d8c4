"""What `validate` found out about the classes, on its way to those who ask for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import config, files
from pipelines.data.rows import RowViews
from pipelines.data.shards import ShardReader
from pipelines.errors import DataError
from pipelines.training import balance
from pipelines.validation.balance import Tally, summarize

WEIGHED = {"loss.semantic.focal": {"weight": 1.0, "class_weights": "median_frequency", "gamma": 2.0}}
REPEATED = {"train.sampling": "repeat_factor"}


@pytest.fixture(scope="module")
def said(dataset: Path) -> dict[str, Any]:
    """As the stage `validate` writes it."""
    reader = ShardReader(dataset, "train")
    tally = Tally(len(reader.manifest.classes))
    for batch in (batch for k in range(3) for batch in reader._shard(k).batches):
        rows = RowViews(batch)
        for i in range(batch.num_rows):
            tally.add(rows.measures(i).pixels)
    return summarize(
        tally, reader.manifest.classes, dataset=reader.manifest.hash, repeat_threshold=0.9, effective_beta=0.9
    )


@pytest.fixture
def path(said: dict[str, Any], tmp_path: Path) -> Path:
    files.write_json(tmp_path / "balance.json", said)
    return tmp_path / "balance.json"


@pytest.fixture
def params(small: Callable[..., dict[str, Any]]) -> Callable[..., config.Params]:
    return lambda changes={}: config.parse(small("semantic", changes))


def test_the_file_is_left_alone_where_nobody_asks(params, tmp_path):
    unused = {"loss.semantic.ohem.class_weights": "inverse_frequency"}  # of a loss whose weight is 0
    assert balance.read(tmp_path / "none", "d", [params(), params(unused)]) is None


@pytest.mark.parametrize("asks", [WEIGHED, REPEATED])
def test_one_who_asks_is_enough(params, path, said, asks):
    found = balance.read(path, said["dataset"], [params(), params(asks), params()])
    assert found.repeat_factors == [row["repeat_factor"] for row in said["classes"]]
    assert set(found.class_weights) == {"inverse_frequency", "median_frequency", "effective_number"}
    for scheme, weights in found.class_weights.items():
        assert weights == [row["weights"][scheme] for row in said["classes"]]
    assert len(set(found.repeat_factors)) > 1


def test_every_scheme_of_the_parameters_is_in_the_file(params, path, said):
    for scheme in ("inverse_frequency", "median_frequency", "effective_number"):
        asks = params({"loss.semantic.cross_entropy.class_weights": scheme})
        assert scheme in balance.read(path, said["dataset"], [asks]).class_weights


def test_a_balance_of_another_dataset_is_refused(params, path, said):
    with pytest.raises(
        DataError, match=r"is of another dataset \(.{12}\) than results/ingest \(e{12}\)\ndo: dvc repro"
    ):
        balance.read(path, "e" * 64, [params(REPEATED)])


def test_a_balance_that_is_missing_or_damaged_is_refused(params, path, said):
    for text in ("{", "[]", "null", json.dumps({**said, "classes": [{"name": "a"}]}), json.dumps({"classes": []})):
        path.write_text(text)
        with pytest.raises(DataError, match=r"balance\.json is damaged: .*\ndo: dvc repro validate --force"):
            balance.read(path, said["dataset"], [params(REPEATED)])
    path.unlink()
    with pytest.raises(DataError, match=r"balance\.json is missing, .*\ndo: dvc repro validate"):
        balance.read(path, said["dataset"], [params(REPEATED)])
