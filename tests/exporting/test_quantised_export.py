"""What was trained for eight bits is exported as it was trained."""

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from pipelines.exporting import quantise
from pipelines.exporting import run as exporting
from pipelines.exporting.operators import AdaptiveMean
from pipelines.inference import package
from pipelines.models.quantised import Rounded, inner, ranges
from tests.exporting.test_export import SETTINGS, saved


@pytest.fixture(scope="module")
def learned(dataset, tmp_path_factory):
    """A package whose rounded layers have seen some images."""
    folder = saved(tmp_path_factory.mktemp("source"), "lraspp", dataset, quantize=True)
    predictor = package.load(folder)
    with torch.no_grad():
        predictor.model.train()
        for module in predictor.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        for i in range(3):
            pixels = torch.randint(
                0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(i), dtype=torch.uint8
            )
            predictor.model(predictor.pixels.normalise(pixels))
    description = {k: v for k, v in predictor.description.items() if k not in ("weights", "version")}
    package.save(folder, predictor.model.eval(), description)
    return folder


def test_the_int8_graph_rounds_as_training_did(learned, dataset, tmp_path):
    said = exporting.export(learned, dataset, tmp_path, SETTINGS)
    assert set(said["sides"]) == {"torch", "int8"}
    original, graph = package.load(learned), package.load(tmp_path / "int8")
    plain = exporting.unrounded(original)
    pixels = torch.randint(0, 256, (2, 3, 96, 64), generator=torch.Generator().manual_seed(9), dtype=torch.uint8)
    with torch.no_grad():
        rounded, exported, whole = (p.model(p.pixels.normalise(pixels))["semantic"] for p in (original, graph, plain))
    scale = whole.abs().max()
    apart, lost = (rounded - exported).abs().mean() / scale, (rounded - whole).abs().mean() / scale
    assert lost > 1e-3  # rounding is felt
    assert apart < 0.1 * lost  # and is the same one; here and there a value lies between two steps
    model = onnx.load(tmp_path / "int8" / "model.onnx").graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.initializer}
    assert sum(t.dtype == np.int8 for t in stored.values() if t.ndim == 4) == len(ranges(original.model))
    assert package.describe(tmp_path / "int8")["export"]["calibration"] == "trained"


class Net(nn.Module):
    """stem -> a -> b -> answer, and a -> aside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
        self.answer, self.aside, self.unused = nn.Conv2d(4, 2, 1), nn.Linear(4, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = self.a(self.stem(x).relu())
        return {"answer": self.answer(self.b(a)).sigmoid(), "aside": self.aside(a.permute(0, 2, 3, 1)) * 2}


def test_inner_layers_are_those_between_two_others():
    assert inner(Net().train(), stride=1) == ["a", "b"]


def test_layers_that_read_one_map_in_other_ranges_are_told_apart():
    node, tensor, floats = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [node("Conv", ["x", f"model.{n}.weight"], [n], n) for n in ("a", "b")]
    weights = [
        onnx.numpy_helper.from_array(np.full((1, 1, 1, 1), v, np.float32), f"model.{n}.weight")
        for n, v in (("a", 0.5), ("b", 2.0))
    ]
    outputs = [tensor(n, floats, ["n", 1, "h", "w"]) for n in ("a", "b")]
    graph = onnx.helper.make_graph(nodes, "g", [tensor("x", floats, ["n", 1, "h", "w"])], outputs, weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    made = quantise.trained(model, {"a": (0.0, 2.55), "b": (0.0, 25.5)})
    found = onnx.reference.ReferenceEvaluator(made).run(
        None, {"x": np.array([0.014, 1.26, 9.0], np.float32).reshape(1, 1, 1, 3)}
    )
    np.testing.assert_allclose(found[0].ravel(), [0.005, 0.63, 1.275], atol=1e-6)  # steps of 0.01 up to 2.55
    np.testing.assert_allclose(found[1].ravel(), [0.0, 2.6, 18.0], atol=1e-6)  # steps of 0.1 up to 25.5


def test_rounding_is_eight_bits_of_the_range_that_was_seen():
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 1, 1, bias=False)
    from pipelines.models.quantised import RoundedConv2d

    layer.__class__ = RoundedConv2d
    assert isinstance(layer, Rounded)
    layer.watch()
    layer.weight.data.fill_(1.0)
    x = torch.linspace(0, 2.55, 256).reshape(1, 1, 16, 16)
    torch.testing.assert_close(layer.train()(x), x)  # each value is a step
    layer.eval()
    torch.testing.assert_close(layer(x + 0.004), x)  # and what lies between, the nearer one
    torch.testing.assert_close(layer(torch.full_like(x, 9.0)), torch.full_like(x, 2.55))  # what lies beyond is cut off
    layer.train()(2 * x)
    assert layer.high.item() == pytest.approx(2.55 + 0.05 * 2.55)
    x.requires_grad_(True)
    layer.eval()(x).sum().backward()
    assert x.grad is not None
    assert (x.grad == 1).all()  # as if nothing were rounded


@pytest.mark.parametrize("bins", [(2, 2), (3, 5), (6, 6)])
@pytest.mark.parametrize("size", [(6, 6), (7, 11), (16, 9), (4, 3)])
def test_adaptive_means_are_torch_s(bins, size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(AdaptiveMean(bins)(x), nn.AdaptiveAvgPool2d(bins)(x), rtol=1e-5, atol=1e-6)
