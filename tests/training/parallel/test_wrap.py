"""Two workers, with copies or with parts of a model, against one process that sees the same micro-batches."""

import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.training.optimization import optim
from pipelines.training.optimization.ema import Average
from pipelines.training.optimization.parameter_groups import encoder_of
from pipelines.training.parallel import snapshot
from pipelines.training.parallel import wrap as parallel
from pipelines.training.parallel.waiting import tell_when_waiting
from tests.models.test_contract import LEARNING, PIXEL_LOSS, build, classes_of, images_of, targets_of

CPU = torch.device("cpu")
PASSES = 4  # of all workers for a step
WORLD = 2


class Step(nn.Module):
    """A model with its losses, as the loop has it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        terms = self.model.losses(self.model(images), targets_of(len(images), classes_of(5)), PIXEL_LOSS)
        return torch.stack([*terms.values()]).sum()


class Trainer:
    """A small U-Net in training. SGD by default: Adam's first steps are the signs of gradients, and so of roundings."""

    def __init__(self, strategy: str, world: int, optimizer: str = "sgd"):
        self.model, self.world = build("unet").train(), world
        self.model.to(memory_format=torch.channels_last if optimizer == "adamw" else torch.contiguous_format)
        self.step = parallel.wrap(Step(self.model), strategy=strategy, world=world, device=CPU)
        self.optimizer = optim.build(self.model, name=optimizer, learning_rate=1e-2, weight_decay=0.1, encoder_rate=0.5)
        self.average = Average(self.model, 0.9)

    def train(self, step: int, rank: int) -> tuple[float, float]:
        """One update of PASSES micro-batches; the mean loss of this worker's, and the gradients' norm."""
        own, losses = PASSES // self.world, []
        for turn in range(own):
            number = step * PASSES + rank * own + turn
            torch.manual_seed(number)
            if turn < own - 1:
                with parallel.accumulating(self.step):
                    losses.append(self.backward(number, own))
            else:
                losses.append(self.backward(number, own))
        norm = parallel.clip(self.model, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update()
        return sum(losses) / own, norm.item()

    def backward(self, number: int, own: int) -> float:
        loss = self.step(images_of(2, seed=number))
        (loss / own).backward()
        return loss.item()

    def state(self, keep: bool = True) -> dict:
        return {
            "model": snapshot.model_state(self.model, keep=keep),
            "optimizer": snapshot.optimizer_state(self.optimizer, keep=keep),
            "average": self.average.state_dict(keep=keep),
        }

    def load(self, state: dict) -> None:
        snapshot.load_model(self.model, state["model"])
        snapshot.load_optimizer(self.optimizer, state["optimizer"])
        self.average.load_state_dict(state["average"])


def in_workers(function, *arguments: object, folder: Path) -> None:
    """function(rank, *arguments) in each of WORLD processes, which find one another by a file."""
    mp.spawn(_worker, (function, arguments, str(folder / f"meet-{function.__name__}"), [*sys.path]), nprocs=WORLD)


def _worker(rank: int, function, arguments: tuple, meet: str, path: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=WORLD)
    try:
        function(rank, *arguments)
    finally:
        dist.destroy_process_group()


def parameters_of(trainer: Trainer, state: dict) -> dict[str, Tensor]:
    names = {name for name, _ in trainer.model.named_parameters()}
    return {name: value for name, value in state["model"].items() if name in names}


def equal(one: object, other: object) -> bool:
    """Bit for bit, whatever they are made of."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


# What the workers do


def train_and_hand_over(rank: int, folder: Path) -> None:
    """Each strategy trains, then the other one, and one process, go on from what it left."""
    for strategy, other in [("ddp", "fsdp"), ("fsdp", "ddp")]:
        trainer = Trainer(strategy, WORLD)
        told = [trainer.train(step, rank) for step in range(3)]
        losses: list = [None] * WORLD
        dist.all_gather_object(losses, [loss for loss, _ in told])
        state = trainer.state(keep=rank == 0)
        assert rank == 0 or not any(state.values())
        if rank == 0:
            means = [sum(each) / WORLD for each in zip(*losses, strict=True)]
            torch.save({**state, "losses": means, "norms": [norm for _, norm in told]}, folder / f"{strategy}.pt")
        with trainer.average.swapped():
            averaged = snapshot.model_state(trainer.model)
        whole = trainer.average.state_dict()["weights"]
        assert all(torch.equal(averaged[name], value) for name, value in whole.items())
        assert equal(snapshot.model_state(trainer.model), trainer.state()["model"])  # its own again

        dist.barrier()
        saved = torch.load(folder / f"{strategy}.pt", weights_only=True)
        heir = Trainer(other, WORLD)
        heir.load(saved)
        taken = heir.state()
        assert all(equal(taken[part], saved[part]) for part in taken)
        trainer.train(3, rank)
        heir.train(3, rank)
        mine, its = trainer.state(), heir.state()
        names = parameters_of(trainer, mine)
        for name in names:
            torch.testing.assert_close(its["model"][name], mine["model"][name], rtol=1e-4, atol=1e-6)


def hand_over_adam(rank: int, folder: Path) -> None:
    """Its state to the bit, also of weights that are channels-last, as `package.build` makes them."""
    trainers = {strategy: Trainer(strategy, WORLD, "adamw") for strategy in ("ddp", "fsdp")}
    for strategy, other in [("ddp", "fsdp"), ("fsdp", "ddp")]:
        trainers[strategy].train(0, rank)
        state = trainers[strategy].state()
        trainers[other].load(state)
        assert state["optimizer"]["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(equal(value, state[part]) for part, value in trainers[other].state().items())


def listen(rank: int, folder: Path) -> None:
    """The hook changes no bit, and tells once in each step, which is over only later."""
    plain, heard, told = Trainer("ddp", WORLD), Trainer("ddp", WORLD), []
    tell_when_waiting(heard.step, lambda: told.append(step))
    for step in range(2):
        plain.train(step, rank)
        heard.train(step, rank)
    assert equal(plain.state(), heard.state())
    assert told == [0, 1]


def compare_models(rank: int, folder: Path) -> None:
    """The gradients of each."""
    for name in LEARNING:
        found = {}
        for strategy in ("ddp", "fsdp"):
            model = build(name).train()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()  # of the smallest maps there are hardly statistics, which magnifies roundings
            step = parallel.wrap(Step(model), strategy=strategy, world=WORLD, device=CPU)
            torch.manual_seed(rank)
            loss = step(images_of(2, seed=rank))
            loss.backward()
            gradients = {key: snapshot.whole(p.grad) for key, p in model.named_parameters()}
            found[strategy] = (loss.item(), parallel.clip(model, 0.0).item(), gradients)
        (*ddp, expected), (*fsdp, taken) = found["ddp"], found["fsdp"]
        assert ddp == pytest.approx(fsdp, rel=1e-4), name
        errors = {key: (taken[key] - value).norm() / (value.norm() + 1e-2) for key, value in expected.items()}
        assert max(errors.values()) < 2e-3, (name, max(errors, key=errors.get), max(errors.values()))


@pytest.mark.slow
class TestTwoWorkers:
    def test_they_train_as_one_does_and_hand_over_to_one_another(self, tmp_path):
        in_workers(train_and_hand_over, tmp_path, folder=tmp_path)
        alone = Trainer("ddp", 1)
        told = [alone.train(step, 0) for step in range(3)]
        expected = parameters_of(alone, alone.state())
        for strategy in ("ddp", "fsdp"):
            saved = torch.load(tmp_path / f"{strategy}.pt", weights_only=True)
            assert saved["losses"] == pytest.approx([loss for loss, _ in told], rel=1e-4)
            assert saved["norms"] == pytest.approx([norm for _, norm in told], rel=1e-3)
            for name, value in expected.items():
                torch.testing.assert_close(saved["model"][name], value, rtol=1e-3, atol=1e-5)
            one = Trainer("ddp", 1)
            one.load(saved)
            assert all(equal(value, saved[part]) for part, value in one.state().items())

    def test_they_hand_over_the_state_of_adam(self, tmp_path):
        in_workers(hand_over_adam, tmp_path, folder=tmp_path)

    def test_to_listen_to_the_gradients_changes_nothing(self, tmp_path):
        in_workers(listen, tmp_path, folder=tmp_path)

    def test_every_model_can_be_cut_into_parts(self, tmp_path):
        in_workers(compare_models, tmp_path, folder=tmp_path)


def test_alone_nothing_is_wrapped():
    step = Step(build("unet"))
    assert parallel.wrap(step, strategy="fsdp", world=1, device=CPU) is step
    with parallel.accumulating(step):
        pass
    tell_when_waiting(step, lambda: pytest.fail("there is nobody to wait for"))


@pytest.mark.parametrize("limit", [0.0, 0.5])
def test_gradients_are_clipped_by_their_norm(limit):
    model = nn.Linear(2, 2)
    model.weight.grad, model.bias.grad = torch.full((2, 2), 3.0), torch.zeros(2)
    assert parallel.clip(model, limit).item() == pytest.approx(6.0)
    assert model.weight.grad.norm().item() == pytest.approx(limit or 6.0)


def test_statistics_over_all_workers_are_refused_on_a_cpu():
    with pytest.raises(ConfigError, match=r"train\.sync_batch_norm: torch has it for CUDA only.*\ndo: set"):
        parallel.synchronise_batch_norm(build("unet"), CPU)


def test_batch_norms_of_every_kind_are_converted_with_their_weights():
    model = build("bisenet")
    before = dict(model.named_parameters())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    converted = parallel.synchronise_batch_norm(model, torch.device("cuda"))
    assert len([m for m in converted.modules() if isinstance(m, nn.SyncBatchNorm)]) == len(norms) > 0
    assert not [m for m in converted.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(p is before[name] for name, p in converted.named_parameters())


@pytest.mark.parametrize("name", LEARNING)
def test_blocks_are_apart_and_nearly_all_of_an_encoder(name):
    step = Step(build(name))
    held = [p for block in parallel.blocks(step) for p in block.parameters()]
    assert len(set(held)) == len(held)
    encoder = set(encoder_of(step).parameters())
    assert set(held) <= encoder
    assert sum(p.numel() for p in held) > 0.9 * sum(p.numel() for p in encoder)


# timm's name -> how many blocks its paper's table counts, stems and downsamplings left aside
@pytest.mark.parametrize(
    ("name", "count"), [("resnet50", 16), ("convnext_tiny", 18), ("swin_tiny_patch4_window7_224", 12)]
)
def test_a_block_is_one_of_the_paper_s(name, count):
    with torch.device("meta"):
        model = nn.ModuleDict({"encoder": timm.create_model(name, features_only=True)})
    kinds = [type(block).__name__ for block in parallel.blocks(model)]
    assert count * 3 // 4 <= sum("Block" in kind or "Bottleneck" in kind for kind in kinds) <= count  # small ones not
