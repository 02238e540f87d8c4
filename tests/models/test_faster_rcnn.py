"""Faster R-CNN against torchvision's with equal weights, which it reads from a file; its plumbing is Mask R-CNN's."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models.detection import FasterRCNN as Theirs
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads

from pipelines.errors import ConfigError
from pipelines.models.contract import InstanceTargets, SegmentationModel, Targets
from pipelines.models.encoders import Choice
from pipelines.models.instance import regions
from pipelines.models.instance.faster_rcnn import FasterRCNN
from pipelines.models.instance.mask_rcnn import MaskRCNN
from pipelines.models.instance.pointrend import PointRend
from tests.models.parity import assert_equal, classes_of, count, on_meta

FROZEN_NORMS = 2 * 26560  # scales and shifts of resnet50's norms, which are no parameters in theirs


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    torch.manual_seed(0)
    return Theirs(resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5), num_classes=4).eval()


@pytest.fixture(scope="module")
def file(theirs, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("published") / "detector.safetensors"
    save_file(theirs.state_dict(), path)
    return str(path)


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {k: v.shape for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    ("ours", "published", "parameters"),
    [(FasterRCNN, fasterrcnn_resnet50_fpn, 41_755_286), (MaskRCNN, maskrcnn_resnet50_fpn, 44_401_393)],
)
def test_the_layers_are_torchvision_s(ours, published, parameters):
    """Their documentation gives the parameters of COCO_V1."""
    model = on_meta(ours, classes=classes_of(91))
    other = on_meta(published, weights=None, weights_backbone=None)
    assert count(model) - FROZEN_NORMS == parameters
    names = {"backbone.body.": "encoder.body.", "backbone.fpn.": "fpn.", "roi_heads.": "roi."}
    renamed = {}
    for key, shape in shapes(other).items():
        old = next((prefix for prefix in names if key.startswith(prefix)), "")
        renamed[names.get(old, "") + key.removeprefix(old)] = shape
    assert shapes(model) == renamed


class TestPublishedWeights:
    def test_outputs_are_theirs(self, theirs, file):
        model = FasterRCNN(classes=classes_of(4), encoder=Choice("resnet18", weights=file), smallest_anchor=32).eval()
        images = torch.randn(2, 3, 64, 96)
        with torch.no_grad():
            outputs = model(images)
            pyramid = list(theirs.backbone(images).values())
            objectness, deltas = theirs.rpn.head(pyramid)
        for name, level in zip(("p2", "p3", "p4", "p5", "p6"), pyramid, strict=True):
            assert_equal(outputs[name], level)
        assert_equal(outputs["objectness"], flat(objectness, 1)[..., 0])
        assert_equal(outputs["deltas"], flat(deltas, 4))
        pooled = torch.randn(5, 256, 7, 7)
        wanted = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(pooled))
        found = model.roi.box_predictor(model.roi.box_head(pooled))
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))

    def test_with_the_paper_s_anchors_it_pools_and_proposes_where_they_do(self, theirs, file):
        model = FasterRCNN(classes=classes_of(4), encoder=Choice("resnet18", weights=file), smallest_anchor=32)
        assert (model.unit, theirs.roi_heads.box_roi_pool.canonical_scale) == (224, 224)
        ours, other = model.rpn.anchor_generator.sizes, theirs.rpn.anchor_generator.sizes
        assert ours == other

    @pytest.mark.parametrize("build", [MaskRCNN, PointRend])
    def test_masks_and_other_classes_begin_anew(self, theirs, file, build):
        model = build(classes=classes_of(7), encoder=Choice("resnet18", weights=file))
        assert torch.equal(model.roi.box_head.fc6.weight, theirs.roi_heads.box_head.fc6.weight)
        assert torch.equal(model.encoder.body.layer4[1].bn2.running_var, theirs.backbone.body.layer4[1].bn2.running_var)
        assert model.roi.box_predictor.cls_score.weight.shape == (7, 1024)

    def test_names_of_old_files_are_understood(self, theirs, tmp_path):
        old = {"inner_blocks": "fpn.inner_blocks", "layer_blocks": "fpn.layer_blocks"}
        state = {}
        for key, value in theirs.state_dict().items():
            new = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
            for block in old:
                new = new.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if f".{block}." in key else new
            state[new] = value
        assert "backbone.fpn.inner_blocks.0.weight" in state
        save_file(state, tmp_path / "old.safetensors")
        model = FasterRCNN(classes=classes_of(4), encoder=Choice("resnet18", weights=str(tmp_path / "old.safetensors")))
        assert torch.equal(model.rpn.head.conv[0][0].weight, theirs.rpn.head.conv[0][0].weight)
        assert torch.equal(model.fpn.layer_blocks[3][0].bias, theirs.backbone.fpn.layer_blocks[3][0].bias)

    @pytest.mark.parametrize("other", [{"encoder": "resnet34"}, {"encoder": "resnet18", "channels": 16}])
    def test_what_does_not_fit_is_refused(self, file, other):
        encoder = Choice(other.pop("encoder"), weights=file)
        with pytest.raises(ConfigError, match=r"does not fit the model(.|\n)*resnet50"):
            FasterRCNN(classes=classes_of(4), encoder=encoder, **other)


def flat(levels: list[Tensor], values: int) -> Tensor:
    """[b, anchors x values, h, w] per level -> [b, all anchors of all cells, values]."""
    parts = [x.unflatten(1, (-1, values)).movedim((1, 2), (3, 4)).flatten(1, 3) for x in levels]
    return torch.cat(parts, dim=1)


def small(build: type[SegmentationModel]) -> SegmentationModel:
    torch.manual_seed(0)
    return build(classes=classes_of(3), encoder=Choice("test_resnet"), channels=16).eval()


def test_masks_are_the_filled_boxes():
    model = small(FasterRCNN)
    with torch.no_grad():
        (prediction,) = model.predict(model(torch.randn(1, 3, 64, 64)), [(60, 50)])
    found = prediction.instances
    assert len(found) > 10
    y, x = np.mgrid[:60, :50] + 0.5
    for mask, (x1, y1, x2, y2) in zip(found.masks, found.boxes, strict=True):
        assert np.array_equal(mask, (x > x1) & (x < x2) & (y > y1) & (y < y2))


class Pool(torch.nn.Module):
    """Our pooling where torchvision expects its own."""

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        return regions.pool([features[f"p{k}"] for k in (2, 3, 4, 5)], (4, 8, 16, 32), boxes, 7, 112)


def test_losses_and_detections_are_torchvision_s():
    model = small(FasterRCNN)
    heads = RoIHeads(Pool(), model.roi.box_head, model.roi.box_predictor, 0.5, 0.5, 128, 0.25, None, 0.05, 0.5, 100)
    images, sizes = torch.randn(1, 3, 64, 64), [(64, 64)]
    with torch.no_grad():
        outputs = model(images)
        (prediction,) = model.predict(outputs, sizes)
        proposals, _ = model.rpn(ImageList(images, sizes), {f"p{k}": outputs[f"p{k}"] for k in range(2, 7)})
        (found,), _ = heads.eval()(outputs, proposals, sizes)
    seen = [k for k, score in enumerate(found["scores"].tolist()) if score in prediction.instances.scores]
    assert len(seen) == len(prediction.instances) > 10  # a box without the middle of a pixel is left out
    torch.testing.assert_close(torch.from_numpy(prediction.instances.boxes), found["boxes"][seen])

    model.train(), heads.train()
    box = torch.tensor([[8.0, 8, 40, 48]])
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 8:48, 8:40] = True
    truth = InstanceTargets(masks=mask, labels=torch.tensor([2]), boxes=box, iscrowd=torch.tensor([False]))
    targets = Targets(semantic=torch.zeros(1, 64, 64, dtype=torch.int64), instances=[truth])
    torch.manual_seed(1)
    ours = model.losses(outputs, targets, lambda logits, targets: logits.sum())
    torch.manual_seed(1)
    given = [{"boxes": box, "labels": torch.tensor([2])}]
    proposals, rpn = model.rpn(ImageList(images, sizes), {f"p{k}": outputs[f"p{k}"] for k in range(2, 7)}, given)
    _, roi = heads(outputs, proposals, sizes, given)
    wanted = [rpn["loss_objectness"], rpn["loss_rpn_box_reg"], roi["loss_classifier"], roi["loss_box_reg"]]
    assert list(ours) == ["rpn_objectness", "rpn_box", "classifier", "box"]
    torch.testing.assert_close(list(ours.values()), wanted)


@pytest.mark.parametrize("build", [FasterRCNN, MaskRCNN, PointRend])
def test_nothing_but_background_is_nothing_found(build):
    model = small(build)
    with torch.no_grad():
        model.roi.box_predictor.cls_score.bias.copy_(torch.tensor([50.0, 0, 0]))
        (prediction,) = model.predict(model(torch.randn(1, 3, 64, 64)), [(60, 50)])
    assert prediction.instances.masks.shape == (0, 60, 50)
