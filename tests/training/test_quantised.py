"""Training for eight bits is training: it learns, it resumes, and a range is that of all passes."""

import pytest
import torch

from pipelines import config
from pipelines.data.shards import read_manifest
from pipelines.errors import ConfigError
from pipelines.inference import package
from pipelines.models.quantised import Rounded, RoundedConv2d, ranges
from pipelines.pixels import Pixels
from pipelines.training import rebuild
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.job import Group, Job
from pipelines.training.loop import fit
from pipelines.training.parallel.running_statistics import RunningStatistics

CHANGES = {"model.name": "lraspp", "model.quantize": True, "train.epochs": 3, "train.accumulate": 2}


class KilledError(Exception):
    pass


def last(job: Job) -> dict[str, torch.Tensor]:
    return Checkpoints(job.state / "checkpoints").last()["model"]


def test_a_killed_run_goes_on_to_the_same_weights_and_ranges(dataset, small, tmp_path):
    params = config.parse(small("semantic", CHANGES))
    through, killed = (Job(params=params, data=dataset, state=tmp_path / name) for name in ("through", "killed"))
    rows = fit(through, Group())
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]

    def kill(row: dict[str, float]) -> None:
        if row["epoch"] == 1:
            raise KilledError

    with pytest.raises(KilledError):
        fit(killed, Group(), kill)
    fit(killed, Group())
    states = [last(job) for job in (through, killed)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    model = rebuild.rebuild(params, read_manifest(dataset), {"average": None, "model": states[0]})
    seen = ranges(model)
    assert len(seen) == sum(isinstance(m, Rounded) for m in model.modules()) > 10
    assert all(low <= 0 < high for low, high in seen.values())


def test_a_range_is_the_mean_of_what_each_pass_alone_would_leave():
    """So that workers that share the passes end with one range, whoever saw what."""
    layer = torch.nn.Conv2d(1, 1, 1)
    layer.__class__ = RoundedConv2d
    layer.watch()
    layer.low.fill_(-1.0)
    layer.high.fill_(2.0)
    statistics = RunningStatistics(layer, passes=2, world=1)
    statistics.begin()
    layer(torch.tensor([[[[-3.0, 4.0]]]]))
    statistics.between()
    assert (layer.low.item(), layer.high.item()) == (-1.0, 2.0)
    layer(torch.tensor([[[[0.0, 8.0]]]]))
    statistics.end()
    assert layer.low.item() == pytest.approx(-1 + 0.05 * (-2.0 + 1.0) / 2)
    assert layer.high.item() == pytest.approx(2 + 0.05 * (2.0 + 6.0) / 2)


def test_what_has_no_eight_bits_is_refused(small):
    with pytest.raises(ConfigError, match=r"model\.quantize: threshold has no weights: set it to false"):
        config.parse(small("semantic", {"model.name": "threshold", "model.quantize": True}))
    with pytest.raises(ConfigError, match=r"model\.quantize: a CRF has no form in 8 bits"):
        config.parse(small("semantic", {"model.crf.iterations": 2, "model.quantize": True}))


def test_a_model_that_is_not_quantised_is_what_it_was(dataset, small):
    """Nothing of it is replaced, and building draws the same weights."""
    models = []
    for quantize in (False, True):
        params = config.parse(small("semantic", {"model.name": "lraspp", "model.quantize": quantize}))
        torch.manual_seed(0)
        manifest = read_manifest(dataset)
        models.append(
            package.build(
                "semantic", params.model.model_dump(), manifest.classes, Pixels.of(manifest.mean, manifest.std)
            )
        )
    plain, rounded = (m.state_dict() for m in models)
    assert not any(isinstance(m, Rounded) for m in models[0].modules())
    assert set(rounded) - set(plain) == {f"{name}.{end}" for name in ranges(models[1]) for end in ("low", "high")}
    assert all(torch.equal(value, rounded[name]) for name, value in plain.items())
