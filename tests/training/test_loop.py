"""The loop: it learns, it says when it cannot, and a run that was killed ends as one that was not."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import config
from pipelines.data import shards
from pipelines.data.formats import shapes
from pipelines.data.shards import ShardReader
from pipelines.errors import DataError, RunError
from pipelines.evaluation.evaluator import VIEWS
from pipelines.training import epoch, rebuild, update, validation
from pipelines.training.balance import Balance
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.job import TIMES, Group, Job, LeftError, Row
from pipelines.training.loop import fit

ROOT = Path(__file__).resolve().parents[2]
# Of each task one, and one with an auxiliary head: the loop knows the contract, which every model is held to.
MODELS = {name: config.MODEL_TASKS[name] for name in ("unet", "pspnet", "mask_rcnn", "panoptic_deeplab")}


@pytest.fixture
def job(dataset: Path, small: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Job]:
    """job("a", "semantic", {"train.epochs": 3}) -> what is to be trained, with its state in a folder of that name."""

    def describe(
        name: str,
        task: str = "panoptic",
        changes: dict[str, Any] | None = None,
        data: Path = dataset,
        balance: Balance | None = None,
    ) -> Job:
        return Job(params=config.parse(small(task, changes or {})), data=data, state=tmp_path / name, balance=balance)

    return describe


def last(job: Job) -> dict[str, Any]:
    state = Checkpoints(job.state / "checkpoints").last()
    assert state is not None
    return state


def untimed(rows: list[Row]) -> list[Row]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Bit for bit, through dicts and lists."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def untimed_state(state: dict[str, Any]) -> dict[str, Any]:
    position = {**state["position"], "rows": untimed(state["position"]["rows"]), "seconds": 0.0}
    return {**state, "position": position, "time": {}}


def assert_same_run(a: Job, b: Job) -> None:
    assert_same(*(untimed_state(last(each)) for each in (a, b)))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_what_it_sees(job, name):
    changes = {
        "model.name": name, "train.epochs": 8, "train.learning_rate": 0.01, "train.augment.scale": [1.0, 1.0],
        "train.augment.flip": 0.0, "train.augment.color": 0.0, "train.schedule": "constant",
    }  # fmt: skip
    rows = fit(job(name, MODELS[name], changes), Group())
    assert [row["epoch"] for row in rows] == list(range(8))
    assert rows[-1]["train_loss"] < 0.75 * rows[0]["train_loss"]
    for row in rows:
        weighted = [k for k in row if k.startswith("loss_")]
        assert weighted
        assert {k for k in row if k.startswith("val_")} == {f"val_{config.HEADLINE[v]}" for v in VIEWS[MODELS[name]]}
        assert all(0 <= row[k] <= 1 for k in row if k.startswith("val_"))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_in_half_the_bits(job, name):
    changes = {"model.name": name, "train.epochs": 1, "train.precision": "bfloat16"}
    whole = fit(job("whole", MODELS[name], {**changes, "train.precision": "float32"}), Group())
    rows = fit(job("half", MODELS[name], changes), Group())
    assert rows[0]["train_loss"] == pytest.approx(whole[0]["train_loss"], rel=0.05)
    assert rows[0]["train_loss"] != whole[0]["train_loss"], "autocast did nothing"
    assert {t.dtype for t in last(job("half"))["model"].values() if t.is_floating_point()} == {torch.float32}


def test_the_terms_add_up_as_they_are_weighted(job):
    terms = {"semantic": 0.5, "center": 10.0, "offset": 0.0}
    row = fit(job("a", changes={f"loss.terms.{k}": v for k, v in terms.items()} | {"train.epochs": 1}), Group())[0]
    assert row["train_loss"] == pytest.approx(sum(w * row[f"loss_{term}"] for term, w in terms.items()), rel=1e-5)


class KilledError(Exception):
    pass


def killer(epoch: int) -> Callable[[Row], None]:
    def on_epoch(row: Row) -> None:
        if row["epoch"] == epoch:
            raise KilledError

    return on_epoch


@pytest.mark.parametrize("name", MODELS)
def test_a_killed_run_goes_on_to_the_same_weights(job, name):
    """Each model draws in its own way (dropout, proposals); each optimiser has its own state."""
    changes = {
        "model.name": name, "train.epochs": 3, "train.optimizer": "sgd" if name == "unet" else "adamw",
        "train.schedule": "cosine",
    }  # fmt: skip
    through, resumed = job("through", MODELS[name], changes), job("resumed", MODELS[name], changes)
    fit(through, Group())
    for end in (0, 1):
        with pytest.raises(KilledError):
            fit(resumed, Group(), killer(end))
    torch.manual_seed(99)
    rows = fit(resumed, Group())
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert_same_run(through, resumed)


def leaver(step: int, monkeypatch: pytest.MonkeyPatch) -> Group:
    """A group that is told to leave with update `step`."""
    monkeypatch.setattr(epoch, "LOOK", -1.0)  # it asks with every update
    asked = iter(range(1000))
    return Group(leave=lambda: next(asked) == step)


@pytest.mark.parametrize("name", MODELS)
def test_a_run_that_leaves_within_an_epoch_goes_on_to_the_same_weights(job, name, monkeypatch):
    """With a moving average, passes that are added up, and the losses that spikes are known by."""
    changes = {
        "model.name": name, "train.epochs": 3, "train.ema": 0.9, "train.accumulate": 2, "train.guards.spike": 100.0,
        "train.loader_workers": int(name == "unet"), "model.channels": 8,
    }  # fmt: skip
    through, resumed = job("through", MODELS[name], changes), job("resumed", MODELS[name], changes)
    rows = fit(through, Group())
    for step in (0, 1):  # known one later: after two updates of an epoch of three, and after three more
        with pytest.raises(LeftError):
            fit(resumed, leaver(step, monkeypatch))
    assert last(resumed)["position"]["step"] == 5
    assert last(resumed)["position"]["batch"] == 2
    torch.manual_seed(99)
    assert untimed(fit(resumed, Group())) == untimed(rows)
    assert_same_run(through, resumed)


def test_a_checkpoint_is_written_when_its_time_has_come(job, monkeypatch):
    monkeypatch.setattr(epoch, "LOOK", -1.0)
    fit(job("a", changes={"train.epochs": 1, "train.checkpoint_minutes": 1e-9}), Group())
    steps = [e.step for e in Checkpoints(job("a").state / "checkpoints").entries()]
    assert steps == [2, 3], "the last two of those with every update are kept"
    events = [json.loads(line) for line in (job("a").state / "events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["kind"] == "checkpoint"] == [2, 3], "known one later"


def test_what_is_kept_is_the_moving_average(job):
    changes = {"train.ema": 0.5, "train.epochs": 2}
    fit(job("a", "semantic", changes), Group())
    state = last(job("a"))
    kept = rebuild.weights(state)
    assert any(not torch.equal(kept[name], state["model"][name]) for name in kept)
    row = validation.measure_checkpoint(job("a", "semantic", changes), 1)
    assert row == job_rows(job("a"))[1], "and it is what was measured"


def job_rows(job: Job) -> dict[int, Row]:
    return validation.Validations(job.state, {}, keeps=False).rows


def test_the_last_epoch_is_measured_and_of_the_others_those_that_were_asked_for(job):
    seen = []
    rows = fit(job("a", "semantic", {"train.epochs": 5, "train.validation.every": 2}), Group(), seen.append)
    assert ["val_miou" in row for row in rows] == [False, True, False, True, True]
    assert seen == rows


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_ends_what_gets_no_better(job, monkeypatch, patience):
    """The oracle is the run that was not ended: where had its last so many validations brought nothing better?"""
    changes = {"train.epochs": 8, "train.learning_rate": 0.05, "train.schedule": "constant", "model.channels": 8}
    through = untimed(fit(job("through", "semantic", changes), Group()))
    scores = [row["val_miou"] for row in through]
    ends = [n for n in range(1, 9) if n - 1 - scores.index(max(scores[:n])) >= patience]
    wanted = through[: min([8, *ends])]
    patient = job("patient", "semantic", {**changes, "train.patience": patience})
    assert untimed(fit(patient, Group())) == wanted
    assert untimed(fit(patient, Group())) == wanted, "and it stays ended"
    again = job("again", "semantic", {**changes, "train.patience": patience})
    with pytest.raises(LeftError):
        fit(again, leaver(3 * len(wanted) - 2, monkeypatch))
    assert untimed(fit(again, Group())) == wanted


@pytest.mark.slow
def test_validation_beside_the_training_measures_the_same(ray, job, monkeypatch):
    changes = {"train.epochs": 3, "train.learning_rate": 0.02}
    told, told_beside = [], []
    rows = fit(job("together", "semantic", changes), Group(), told.append)
    beside = job("beside", "semantic", {**changes, "train.validation.beside": True})
    assert untimed(fit(beside, Group(), told_beside.append)) == untimed(rows)
    assert untimed(told_beside) == untimed(told)
    again = job("again", "semantic", {**changes, "train.validation.beside": True})
    with pytest.raises(LeftError):
        fit(again, leaver(3, monkeypatch))
    assert untimed(fit(again, Group())) == untimed(rows), "what was under way is measured again"


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    """poison(3, nan) -> the forward pass number 3 of this process gives a loss that many times too high."""

    def prepare(at: int, factor: float) -> None:
        plain, seen = update.LossStep.forward, []

        def forward(self: Any, images: torch.Tensor, targets: Any) -> Any:
            seen.append(len(images))
            total, losses = plain(self, images, targets)
            return (total * factor if len(seen) == at + 1 else total), losses

        monkeypatch.setattr(update.LossStep, "forward", forward)

    return prepare


def test_a_batch_that_gives_no_number_is_left_out_when_that_is_asked_for(job, poison, caplog):
    changes = {"train.epochs": 2, "train.guards.rollbacks": 1}
    poison(4, float("nan"))
    rows = fit(job("a", "semantic", changes), Group())
    state = last(job("a"))
    assert (len(rows), state["position"]["step"]) == (2, 6)
    assert all(t.isfinite().all() for t in state["model"].values())
    left_out = json.loads((job("a").state / "checkpoints" / "left_out.json").read_text())
    assert left_out["steps"] == [4]
    events = [json.loads(line) for line in (job("a").state / "events.jsonl").read_text().splitlines()]
    told = next(e for e in events if e["kind"] == "rollback")
    assert "non-finite loss or gradient at step 4 (loss nan" in told["text"]
    assert "images of the batch on rank 0: train/" in told["text"]
    assert fit(job("a", "semantic", changes), Group()) == rows


def test_a_second_bad_batch_is_one_too_many(job, poison):
    poison(1, float("inf"))
    broken = job("a", "semantic", {"train.guards.rollbacks": 1, "loss.terms.semantic": 1e39})
    with pytest.raises(RunError, match=r"at step 1 (.|\n)*, after 1 rollbacks\ndo: lower train\.learning_rate"):
        fit(broken, Group())


def test_a_loss_out_of_all_proportion_is_left_out(job, poison):
    """After the sixteen that it takes to know what is usual."""
    poison(20, 1e4)
    changes = {"train.epochs": 8, "train.guards.spike": 50.0, "train.guards.rollbacks": 1}
    rows = fit(job("a", "semantic", changes), Group())
    assert json.loads((job("a").state / "checkpoints" / "left_out.json").read_text())["steps"] == [20]
    assert max(row["train_loss"] for row in rows) < 10


SCHEME = "loss.semantic.cross_entropy.class_weights"
BORDER = {"weight": 1.0, "class_weights": "none", "border_weight": 10.0, "sigma": 5.0}


def balance(weight: float = 1.0, factor: float = 1.0) -> Balance:
    """Of ten classes: what each weighs, and how often images with the last one come."""
    return Balance(class_weights={"inverse_frequency": [weight] * 10}, repeat_factors=[1.0] * 9 + [factor])


def test_class_weights_weigh(job):
    changes = {"loss.semantic.dice.weight": 0.0, "train.epochs": 1}
    plain = fit(job("plain", "semantic", changes), Group())
    unused = fit(job("unused", "semantic", changes, balance=balance(0.0, 9.0)), Group())
    assert untimed(unused) == untimed(plain)
    changes[SCHEME] = "inverse_frequency"
    ones = fit(job("ones", "semantic", changes, balance=balance(1.0)), Group())
    assert ones[0]["train_loss"] == pytest.approx(plain[0]["train_loss"], rel=1e-4)
    nothing = fit(job("nothing", "semantic", changes, balance=balance(0.0)), Group())
    assert nothing[0]["train_loss"] == 0


def test_repeat_factors_lengthen_an_epoch(job, dataset):
    changes = {"train.sampling": "repeat_factor", "train.epochs": 1}
    rare = [bool((r.semantic == 9).any()) for r in ShardReader(dataset, "train")]
    steps = (len(rare) + 2 * sum(rare)) // 4
    assert 3 < steps < 9
    fit(job("a", "semantic", changes, balance=balance(factor=3.0)), Group())
    events = [json.loads(line) for line in (job("a").state / "events.jsonl").read_text().splitlines()]
    assert next(e for e in events if e["kind"] == "step")["steps"] == steps
    with pytest.raises(ValueError, match="asks for a job with a balance"):
        fit(job("b", "semantic", changes), Group())


def test_a_border_map_comes_with_the_loss_that_learns_from_it(job):
    """In the first step, on the same weights and crops, borders cost more than cross entropy alone."""
    alone = {"loss.semantic.cross_entropy.weight": 0.0, "loss.semantic.dice.weight": 0.0, "train.epochs": 1}
    alone["train.learning_rate"] = 1e-9
    plain = fit(job("plain", "semantic", {**alone, "loss.semantic.cross_entropy.weight": 1.0}), Group())
    border, flat = (
        fit(
            job(str(w), "semantic", {**alone, "loss.semantic.border_cross_entropy": {**BORDER, "border_weight": w}}),
            Group(),
        )
        for w in (10.0, 0.0)
    )
    assert flat[0]["train_loss"] == pytest.approx(plain[0]["train_loss"], rel=1e-5)
    assert border[0]["train_loss"] > 1.05 * plain[0]["train_loss"]


def test_a_killed_run_with_all_of_it_goes_on_to_the_same_weights(job):
    changes = {
        SCHEME: "inverse_frequency", "train.sampling": "repeat_factor", "train.epochs": 2,
        "loss.semantic.border_cross_entropy": BORDER,
    }  # fmt: skip
    through, resumed = (job(n, "semantic", changes, balance=balance(0.5, 1.5)) for n in ("through", "resumed"))
    fit(through, Group())
    with pytest.raises(KilledError):
        fit(resumed, Group(), killer(0))
    fit(resumed, Group())
    assert_same_run(through, resumed)


def test_a_damaged_checkpoint_costs_an_epoch_and_nothing_else(job):
    through, resumed = job("through", changes={"train.epochs": 3}), job("resumed", changes={"train.epochs": 3})
    fit(through, Group())
    with pytest.raises(KilledError):
        fit(resumed, Group(), killer(1))
    state = resumed.state / "checkpoints" / "step-00000006" / "state.pt"
    state.write_bytes(state.read_bytes()[:-1])
    fit(resumed, Group())
    assert_same_run(through, resumed)


@pytest.mark.slow
def test_a_disk_that_fills_up_stops_the_run_and_costs_nothing(job, tmp_path, small, dataset):
    """The kernel's limit on the size of files ends a checkpoint as a full disk does; without it the run goes on."""
    through, resumed = job("through", "semantic", {"train.epochs": 3}), job("resumed", "semantic", {"train.epochs": 3})
    fit(through, Group())
    code = """
import json, resource, signal, sys
from pathlib import Path
from pipelines import config
from pipelines.errors import RunError
from pipelines.training.job import Group, Job
from pipelines.training.loop import fit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
raw, data, state = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])

def fill(row):
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))

try:
    fit(Job(params=config.parse(raw), data=data, state=state), Group(), fill)
except RunError as error:
    sys.exit(f"SAID {error}")
"""
    arguments = [json.dumps(small("semantic", {"train.epochs": 3})), str(dataset), str(resumed.state)]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 1
    assert "SAID disk full: a checkpoint needs" in ended.stderr
    assert last(resumed)["position"]["epoch"] == 1, "the checkpoint before is whole"
    fit(resumed, Group())
    assert_same_run(through, resumed)


def test_a_finished_run_has_nothing_left_to_do(job):
    rows = fit(job("a"), Group())
    before = last(job("a"))
    assert fit(job("a"), Group(), killer(0)) == rows
    assert_same(last(job("a")), before)


def test_the_seed_decides_and_nothing_else(job):
    torch.manual_seed(1)
    fit(job("one"), Group())
    torch.manual_seed(2)
    fit(job("two"), Group())
    fit(job("other", changes={"seed": 1}), Group())
    assert_same_run(job("one"), job("two"))
    a, b = (last(job(name))["model"] for name in ("one", "other"))
    assert any(not torch.equal(a[key], b[key]) for key in a)


def test_no_clipping_is_not_clipping_to_nothing(job):
    free = fit(job("free", changes={"train.clip_norm": 0.0}), Group())
    wide = fit(job("wide", changes={"train.clip_norm": 1e9}), Group())
    tight = fit(job("tight", changes={"train.clip_norm": 1e-3, "train.optimizer": "sgd"}), Group())
    loose = fit(job("loose", changes={"train.clip_norm": 1e9, "train.optimizer": "sgd"}), Group())
    assert untimed(free) == untimed(wide)
    assert tight[1]["train_loss"] != loose[1]["train_loss"]


def test_a_loss_that_is_no_number_ends_the_run_and_says_where(job, dataset):
    fit(job("a", "semantic", {"train.epochs": 1}), Group())
    broken = job("a", "semantic", {"train.epochs": 2, "loss.terms.semantic": 1e39})
    with pytest.raises(RunError) as caught:
        fit(broken, Group())
    said = str(caught.value)
    assert "non-finite loss or gradient at step 3 (loss inf, semantic " in said
    assert "do: raise train.guards.rollbacks to leave it out, lower train.learning_rate" in said
    named = said.split("rank 0: ")[1].splitlines()[0].split(", ")
    assert len(named) == 4
    assert set(named) < {record.id for record in ShardReader(dataset, "train")}
    assert last(broken)["position"]["epoch"] == 1, "the last finite state is kept"
    assert all(t.isfinite().all() for t in last(broken)["model"].values())


def test_what_training_says_can_be_followed(job):
    rows = fit(job("a"), Group())
    events = [json.loads(line) for line in (job("a").state / "events.jsonl").read_text().splitlines()]
    told = [{k: v for k, v in e.items() if k not in ("kind", "time")} for e in events if e["kind"] == "epoch"]
    assert told == rows
    step = next(e for e in events if e["kind"] == "step")
    assert (step["epoch"], step["step"], step["steps"]) == (0, 1, 6)
    assert step["loss"] > 0


@pytest.mark.parametrize(
    ("split", "said"), [("train", "the training split has no images"), ("val", "the validation split")]
)
def test_an_empty_split_is_refused(job, tmp_path, split, said):
    records = [
        shapes.draw(*item, seed=0, height=64, width=64, difficulty=0.3)
        for item in shapes.plan(splits={"train": 4, "val": 4, "test": 0} | {split: 0})
    ]
    data = tmp_path / "data"
    shards.write(records, classes=shapes.classes(), name="s", format="shapes", out=data, rows_per_shard=4)
    with pytest.raises(DataError, match=said):
        fit(job("a", data=data), Group())


def test_fewer_images_than_a_batch_make_one(job):
    rows = fit(job("a", changes={"train.batch_size": 16, "train.epochs": 1}), Group())
    events = [json.loads(line) for line in (job("a").state / "events.jsonl").read_text().splitlines()]
    assert next(e for e in events if e["kind"] == "step")["steps"] == 1
    assert rows[0]["train_loss"] > 0
