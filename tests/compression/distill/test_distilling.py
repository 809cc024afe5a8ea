"""Students that learn from a teacher, in the whole loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.compression.distill.distilling import distill
from modelwright.compression.distill.student import shallower
from modelwright.data import Splits
from modelwright.data.memory import splits_of
from modelwright.models.change import Change
from modelwright.models.gpt import GPT
from modelwright.objectives.classification import Classification
from modelwright.objectives.distillation.features import Features
from modelwright.objectives.distillation.logits import Logits
from modelwright.optim.adamw import AdamW
from modelwright.training.settings import Budget


def network(width: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def digits(labels: bool = True) -> Splits:
    images, targets = load_digits(return_X_y=True)
    inputs, classes = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(targets)
    learnt = classes[:1200] if labels else torch.zeros(1200, dtype=torch.int64)
    return splits_of((inputs[:1200], learnt), (inputs[1200:], classes[1200:]))


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    found = distill(
        network(64, 1), network(64, 1), digits(), task=Classification(), budget=Budget(epochs=15),
        by=(Logits(weight=0.0),), optimizer=AdamW(lr=1e-2), quiet=True,
    )  # fmt: skip
    assert found.after["accuracy"] > 0.9 > found.before["accuracy"]
    return found.model


def taught(teacher: nn.Module, **settings: Any) -> Any:
    given = {"task": Classification(), "budget": Budget(epochs=6), "optimizer": AdamW(lr=1e-2), "quiet": True}
    return distill(network(16, 2), teacher, **{"data": digits(), **given, **settings})


def test_a_student_learns_from_its_teacher_alone(teacher: nn.Module) -> None:
    found = taught(teacher, data=digits(labels=False), task_weight=0.0, by=(Logits(temperature=2.0),))
    assert found.before["accuracy"] < 0.3 and found.after["accuracy"] > 0.85
    assert found.steps == 6 * 1200 // 32
    silent = taught(teacher, data=digits(labels=False), task_weight=0.0, by=(Logits(weight=0.0),))
    assert silent.after["accuracy"] < 0.3  # nobody taught, and the targets do not count


def test_models_that_are_given_stay_as_they_are(teacher: nn.Module) -> None:
    student = network(16, 2)
    before = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in (student, teacher)]
    found = distill(
        student, teacher, digits(), task=Classification(), budget=Budget(steps=3), quiet=True, optimizer=AdamW(lr=1e-2)
    )
    for model, tensors in zip((student, teacher), before, strict=True):
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert not torch.equal(found.model[0].weight, student[0].weight)  # type: ignore[index]
    assert Change.from_json(found.change.to_json()) == found.change


def test_features_of_other_widths_are_projected_and_the_projection_is_left_behind(teacher: nn.Module) -> None:
    found = taught(teacher, by=(Features(pairs={"1": "1"}, weight=4.0),), task_weight=0.0)
    assert list(found.model.state_dict()) == list(network(16, 2).state_dict())
    assert error(found.model, teacher) < 0.5 * error(network(16, 2), teacher)


def error(student: nn.Module, teacher: nn.Module) -> float:
    """What no linear map of the student's features tells of the teacher's, as a part of their variance."""
    inputs = digits().held_out.arrays["inputs"]  # type: ignore[union-attr]
    own, wished = (model[:2](torch.as_tensor(inputs)).detach().double() for model in (student, teacher))  # type: ignore[index]
    design = torch.cat([own, torch.ones(len(own), 1)], 1)
    left = wished - design @ (torch.linalg.pinv(design) @ wished)  # units may be dead
    return (left.square().sum() / (wished - wished.mean(0)).square().sum()).item()


def test_images_are_projected_by_their_channels() -> None:
    torch.manual_seed(0)
    student, teacher = (
        nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)) for width in (2, 5)
    )
    inputs, targets = torch.randn(16, 1, 6, 6), torch.randint(10, (16,))
    for model in (student, teacher):
        model(inputs)
    by = (Features(pairs={"1": "1"}),)
    found = distill(
        student, teacher, splits_of((inputs, targets), None), task=Classification(), budget=Budget(steps=2), by=by,
        batch=8, quiet=True,
    )  # fmt: skip
    assert found.before == found.after == {} and found.steps == 2


def test_modules_that_see_other_positions_are_refused() -> None:
    student, teacher = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), nn.Sequential(Doubled(), nn.Linear(4, 3))
    data = splits_of((torch.randn(8, 4), torch.randint(3, (8,))), None)
    with pytest.raises(ModelwrightError, match="differ in more than their width"):
        distill(
            student, teacher, data, task=Classification(), budget=Budget(steps=1), quiet=True, batch=4,
            by=(Features(pairs={"0": "0.inner"}),),
        )  # fmt: skip


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.stack([x, x], 1)).sum(1)


def test_a_student_of_the_teachers_own_layers() -> None:
    torch.manual_seed(0)
    teacher = GPT(vocabulary=11, layers=5, width=8, heads=2).build()
    student, change = shallower(teacher, 3)
    assert [id(b) for b in teacher.blocks] and len(teacher.blocks) == 5  # type: ignore[union-attr,arg-type]
    kept = {f"blocks.{new}.": f"blocks.{old}." for new, old in enumerate((0, 2, 4))}
    for name, tensor in student.state_dict().items():
        source = next((name.replace(new, old) for new, old in kept.items() if name.startswith(new)), name)
        assert torch.equal(tensor, teacher.state_dict()[source])
    again = GPT(vocabulary=11, layers=5, width=8, heads=2).build()
    Change.from_json(change.to_json()).apply(again)
    again.load_state_dict(student.state_dict())
    inputs = torch.randint(11, (2, 6))
    torch.testing.assert_close(again(inputs), student(inputs), rtol=0, atol=0)


@pytest.mark.parametrize(("keep", "layers", "wrong"), [(9, None, "of 3 layers 9"), ((1, 0), "0", "cannot be kept")])
def test_layers_that_are_not_there_are_refused(keep: Any, layers: str | None, wrong: str) -> None:
    model = nn.Sequential(nn.Sequential(*[nn.Linear(3, 3) for _ in range(3)]), nn.Linear(3, 1))
    with pytest.raises(ModelwrightError, match=wrong):
        shallower(model, keep, layers=layers)
    with pytest.raises(ModelwrightError, match="no list of layers of one class"):
        shallower(nn.Linear(3, 3), 1)
