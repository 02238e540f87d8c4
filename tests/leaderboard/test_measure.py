"""What a model costs."""

import pytest
import torch

from pipelines.leaderboard import measure
from pipelines.models import MODELS
from pipelines.models.contract import Classes
from pipelines.models.encoders import Choice

CLASSES = Classes(things=(1,), stuff=(0,))


@pytest.mark.parametrize(("name", "options"), [("unet", {}), ("mask2former_instance", {"layers": 1, "queries": 5})])
def test_operations_are_counted_to_the_end(name, options):
    model = MODELS[name].build(classes=CLASSES, encoder=Choice("test_resnet"), channels=16, **options).eval()
    with torch.inference_mode():
        small, large = (measure._operations(model, torch.randn(1, 3, side, side)) for side in (64, 128))
    assert 0 < 3 * small < large
