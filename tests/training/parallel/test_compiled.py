"""A compiled model is the model: its names, its results, and any size where it does not train."""

import shutil

import pytest
import torch

from pipelines.errors import ConfigError
from pipelines.training.parallel.compiled import compile_training
from tests.models.test_contract import build, images_of


def test_names_stay_and_sizes_are_free():
    plain, model = build("lraspp"), build("lraspp")
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters
    counted.clear()
    compile_training(model, "eager")  # the graphs are what matters; to make kernels of them takes minutes
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.train()
    plain.train()
    images = images_of(2)
    torch.testing.assert_close(model(images)["semantic"], plain(images)["semantic"], rtol=1e-3, atol=1e-3)
    compiled = counted["stats"]["unique_graphs"]
    assert compiled > 0
    model.eval()
    plain.load_state_dict(model.state_dict())
    plain.eval()
    with torch.inference_mode():
        for size in (64, 96, 128):
            assert torch.equal(model(images_of(1, size, size))["semantic"], plain(images_of(1, size, size))["semantic"])
    assert counted["stats"]["unique_graphs"] == compiled, "validation compiles nothing"


@pytest.mark.slow
def test_a_gradient_goes_through():
    model = build("unet")
    torch._dynamo.reset()
    compile_training(model)
    model.train()(images_of(2))["semantic"].square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_without_a_compiler_it_is_refused(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"train\.compile.*\ndo: install one"):
        compile_training(build("unet"))
