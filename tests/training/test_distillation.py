"""A student learns what its teacher thinks, and a run knows who that was."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pipelines import config, files
from pipelines.data.schema import IGNORE
from pipelines.data.shards import read_manifest
from pipelines.errors import ConfigError, DataError
from pipelines.inference import package
from pipelines.pixels import Pixels
from pipelines.training import result
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.distillation import TERM, Teacher, divergence
from pipelines.training.fingerprint import fingerprint
from pipelines.training.job import Group, Job
from pipelines.training.loop import fit
from tests.exporting.test_export import saved


@pytest.fixture(scope="module")
def teacher(dataset, tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("teacher"), "deeplabv3plus", dataset)


def test_the_loss_is_the_divergence_of_both_softmaxes():
    """By hand: two classes, one labelled pixel and one that is not."""
    student, teacher = torch.tensor([0.0, 4.0]), torch.tensor([2.0, 0.0])
    p, q = (1 / (1 + math.exp(-(x[0] - x[1]) / 2)) for x in (teacher.tolist(), student.tolist()))
    expected = 4 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    logits = [torch.stack([x, torch.randn(2)], dim=-1)[None, :, None] for x in (student, teacher)]
    truth = torch.tensor([[[0, IGNORE]]])
    assert divergence(*logits, truth, temperature=2.0).item() == pytest.approx(expected, rel=1e-5)
    assert divergence(*logits, torch.full_like(truth, IGNORE), temperature=2.0) == 0
    assert divergence(logits[1], logits[1], truth, temperature=2.0).abs() < 1e-6


def test_gradients_are_as_large_at_any_temperature():
    """Hinton et al., section 2.1: at high temperatures the gradient is that of half the squared difference of the
    centred logits, divided by the number of classes."""
    student, teacher = (torch.randn(1, 5, 3, 3, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    student.requires_grad_(True)
    divergence(student, teacher, torch.zeros(1, 3, 3), temperature=1e3).backward()
    centred = [x - x.mean(dim=1, keepdim=True) for x in (student.detach(), teacher)]
    torch.testing.assert_close(student.grad, (centred[0] - centred[1]) / 5 / 9, rtol=1e-2, atol=1e-5)


def test_a_teacher_is_asked_as_it_was_trained(teacher):
    """With its own normalisation and stride, whatever the student's are."""
    predictor = package.load(teacher)
    mine = Pixels.of((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    pixels = torch.randint(0, 256, (2, 3, 40, 56), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = Teacher(predictor, mine, temperature=1.0).ask(mine.normalise(pixels))
    border = (0, -56 % predictor.model.stride, 0, -40 % predictor.model.stride)
    padded = F.pad(pixels.float(), border, mode="replicate")
    with torch.no_grad():
        wanted = predictor.model(predictor.pixels.normalise(padded))["semantic"][..., :40, :56]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def changes(teacher: Path, **more: object) -> dict[str, object]:
    return {"model.name": "lraspp", "train.distill.teacher": str(teacher), **more}


def test_a_student_comes_nearer_to_its_teacher(teacher, dataset, small, tmp_path):
    """On its own word alone: the labels weigh nothing. The run that was killed ends as the one that was not."""
    raw = small(
        "semantic",
        changes(teacher, **{"loss.terms.semantic": 0.0, "train.epochs": 6, "train.learning_rate": 0.01}),
    )
    job = Job(params=config.parse(raw), data=dataset, state=tmp_path / "through")
    rows = fit(job, Group())
    assert rows[-1][f"loss_{TERM}"] < 0.8 * rows[0][f"loss_{TERM}"]
    assert rows[0]["train_loss"] == pytest.approx(rows[0][f"loss_{TERM}"])

    class KilledError(Exception):
        pass

    def kill(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise KilledError

    again = Job(params=job.params, data=dataset, state=tmp_path / "killed")
    with pytest.raises(KilledError):
        fit(again, Group(), kill)
    fit(again, Group())
    states = [Checkpoints(j.state / "checkpoints").last()["model"] for j in (job, again)]
    assert (
        states[0].keys()
        == states[1].keys()
        == package.load(saved(tmp_path / "s", "lraspp", dataset)).model.state_dict().keys()
    )
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    result.write(job, raw=raw, fingerprint="f")
    recorded = package.describe(job.state / "result")["parameters"]["train"]["distill"]["teacher"]
    assert recorded == f"deeplabv3plus {package.describe(teacher)['weights']['sha256']}"


def test_a_run_is_known_by_its_teacher_wherever_that_lies(teacher, dataset, small, tmp_path):
    moved, other = tmp_path / "moved", saved(tmp_path / "other", "unet", dataset)
    moved.mkdir()
    for path in teacher.iterdir():
        files.link(path, moved / path.name)
    known = [fingerprint(small("semantic", changes(t)), "d") for t in (teacher, moved, other)]
    assert known[0] == known[1] != known[2]
    assert fingerprint(small("semantic", {"model.name": "lraspp"}), "d") not in known
    with pytest.raises(DataError, match=r"train\.distill\.teacher: .* holds no package"):
        fingerprint(small("semantic", changes(tmp_path)), "d")


def test_who_cannot_teach_is_refused(teacher, dataset, small, tmp_path):
    def trained(raw: dict[str, object]) -> None:
        fit(Job(params=config.parse(raw), data=dataset, state=tmp_path / "state"), Group())

    instances = saved(tmp_path / "instances", "polarmask", dataset)
    with pytest.raises(DataError, match="polarmask has scores of no pixels, lraspp of all classes"):
        trained(small("semantic", changes(instances)))
    strangers = saved(tmp_path / "strangers", "unet", dataset)
    description = package.describe(strangers)
    description["classes"] = [{**c, "name": c["name"][::-1]} for c in description["classes"]]
    files.write_sealed(strangers / package.DESCRIPTION, description)
    first = read_manifest(dataset).classes[0].name
    with pytest.raises(DataError, match=f"it knows the classes {first[::-1]}, .*the dataset has {first}"):
        trained(small("semantic", changes(strangers)))
    with pytest.raises(ConfigError, match="learns a teacher's scores of pixels, and mask_rcnn gives none"):
        config.parse(small("instance", {"train.distill.teacher": str(teacher)}))
