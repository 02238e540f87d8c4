"""Multi-scale deformable attention: against the paper's equation, one query at a time."""

import math

import numpy as np
import pytest
import torch

from pipelines.models.deformable_attention import HEADS, POINTS, DeformableAttention

SHAPES = [(3, 5), (6, 4), (7, 9)]
CHANNELS = 16


def bilinear(cells: np.ndarray, x: float, y: float) -> np.ndarray:
    """cells[h, w, c] at (x, y), where whole numbers are the middles of cells; 0 outside."""
    found = np.zeros(cells.shape[2])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < cells.shape[0] and 0 <= column < cells.shape[1]:
                found += (1 - abs(y - row)) * (1 - abs(x - column)) * cells[row, column]
    return found


def equation(layer: DeformableAttention, query: np.ndarray, place: np.ndarray, maps: list[np.ndarray]) -> np.ndarray:
    """Equation 3 of arXiv 2010.04159: query[c] at place (x, y), maps[h, w, c]."""
    w = {name: value.detach().double().numpy() for name, value in layer.named_parameters()}
    offsets = (w["offsets.weight"] @ query + w["offsets.bias"]).reshape(HEADS, len(maps), POINTS, 2)
    logits = (w["weights.weight"] @ query + w["weights.bias"]).reshape(HEADS, -1)
    weights = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).reshape(HEADS, len(maps), POINTS)
    heads = np.zeros((HEADS, len(query) // HEADS))
    for m in range(HEADS):
        for level, cells in enumerate(maps):
            value = (cells @ w["value.weight"].T + w["value.bias"]).reshape(*cells.shape[:2], HEADS, -1)[:, :, m]
            for k in range(POINTS):
                # Places are shares of the map, offsets are in cells; the first cell's middle is at half a cell.
                x, y = place * cells.shape[1::-1] + offsets[m, level, k] - 0.5
                heads[m] += weights[m, level, k] * bilinear(value, x, y)
    return w["project.weight"] @ heads.ravel() + w["project.bias"]


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_it_is_the_equation(spread):
    torch.manual_seed(0)
    layer = DeformableAttention(CHANNELS, len(SHAPES)).double()
    with torch.no_grad():
        for value in (layer.offsets.weight, layer.weights.weight):
            value.add_(spread * torch.randn_like(value))
    maps = [torch.randn(2, CHANNELS, h, w, dtype=torch.float64) for h, w in SHAPES]
    cells = torch.cat([x.flatten(2) for x in maps], dim=2).transpose(1, 2)
    queries = torch.randn(2, 10, CHANNELS, dtype=torch.float64)
    places = torch.rand(10, 2, dtype=torch.float64)
    found = layer(queries, places, cells, [x.shape for x in maps]).detach().numpy()
    for b in range(2):
        grids = [x[b].permute(1, 2, 0).numpy() for x in maps]
        for n in range(10):
            wanted = equation(layer, queries[b, n].numpy(), places[n].numpy(), grids)
            np.testing.assert_allclose(found[b, n], wanted, atol=1e-9)


def test_heads_begin_by_looking_in_eight_directions():
    layer = DeformableAttention(CHANNELS, 2)
    offsets = layer.offsets.bias.detach().view(HEADS, 2, POINTS, 2)
    assert torch.equal(offsets[:, 0], offsets[:, 1])
    farthest = offsets[:, 0].abs().amax(dim=-1)
    torch.testing.assert_close(farthest, torch.tensor([1.0, 2, 3, 4]).expand(HEADS, -1))
    angles = torch.atan2(offsets[:, 0, 0, 1], offsets[:, 0, 0, 0]).rad2deg().remainder(360)
    torch.testing.assert_close(angles, torch.arange(0.0, 360, 45))
    assert not layer.offsets.weight.any()
    assert not layer.weights.weight.any()
