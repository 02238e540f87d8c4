"""What several tests share: a tiny dataset, small parameters, one Ray for all who need it."""

import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from pipelines import config, environment

# A shell starts what runs in the background with SIGINT ignored, and processes of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.browser", "tests.s3", "tests.scenes"]
environment.prepare()  # before any test imports numpy, torch, Ray or MLflow
settings.register_profile("house", deadline=None)  # a busy machine is not a failure
settings.load_profile("house")

ROOT = Path(__file__).resolve().parents[1]
IMAGES = {"train": 12, "val": 5, "test": 2}
# The repository's parameters, shrunk to what takes a second.
SMALL = {
    "dataset.splits": IMAGES,
    "dataset.shapes": {"height": 64, "width": 64, "difficulty": 0.3},
    "model.encoder": "test_resnet.r160_in1k",
    "model.channels": 16,
    "tune.trials": 4,
    "tune.epochs": 4,
    "train.epochs": 2,
    "train.batch_size": 4,
    "train.workers": 1,
    "train.device": "cpu",
    "train.augment.crop": [64, 64],
}
MODELS = {"semantic": "unet", "instance": "mask_rcnn", "panoptic": "panoptic_deeplab"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that on two processes all others run beside them."""
    items.sort(key=lambda item: item.path.parent.name != "workflow")


@pytest.fixture(scope="session")
def small() -> Callable[..., dict[str, Any]]:
    """small("semantic", {"train.epochs": 3}) -> small parameters for a task, with dotted names set over them."""
    raw = config.read(ROOT / "params.yaml")

    def parameters(task: str = "panoptic", changes: Mapping[str, Any] = {}) -> dict[str, Any]:
        return config.merge(raw, {**SMALL, "task": task, "model.name": MODELS[task], **changes})

    return parameters


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `ingest` leaves it, of the shapes that `small` describes."""
    from pipelines.data import shards
    from pipelines.data.formats import shapes

    out = tmp_path_factory.mktemp("dataset")
    records = (shapes.draw(*item, seed=0, **SMALL["dataset.shapes"]) for item in shapes.plan(splits=IMAGES))
    shards.write(records, classes=shapes.classes(), name="shapes", format="shapes", out=out, rows_per_shard=5)
    return out


@pytest.fixture(scope="session")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray for the session: starting it takes longer than most tests."""
    from pipelines.cluster import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with cluster(cpus=2):
            yield
