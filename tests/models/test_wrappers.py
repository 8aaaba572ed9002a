"""The small modules around a network: right values, and all exportable."""

import warnings

import pytest
import torch
from torch import nn

from engine.errors import ModelError
from engine.models.wrappers import ArgMax, Compose, Named, Normalise, Quantise, Select, Softmax


def x() -> torch.Tensor:
    return torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "module",
    [
        Compose(nn.Conv2d(3, 2, 1), Softmax(), ArgMax()),  # a usual pipeline
        Softmax(),
        ArgMax(torch.int16),
        Quantise(-1, 1),
        Quantise(-1, 1, torch.int16),
        Normalise([1.0, 2.0, 3.0], [0.5, 1.0, 2.0]),
        Normalise(1.0, 2.0),
        Named(p=Softmax(), label=ArgMax()),
        Compose(Named(p=Softmax(), label=ArgMax()), Select("p")),
    ],
)
def test_a_wrapper_exports_and_gives_the_same(module: nn.Module) -> None:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(module.eval(), (x(),)).module()
    wanted, given = module(x()), program(x())
    if not isinstance(wanted, dict):
        wanted, given = {"output": wanted}, {"output": given}
    assert list(wanted) == list(given)
    for name, tensor in wanted.items():
        assert tensor.dtype == given[name].dtype
        assert torch.equal(tensor, given[name])
        assert tensor.float().std() > 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int8])
def test_quantised_values_come_back_to_half_a_step(dtype: torch.dtype) -> None:
    quantise = Quantise(-2.0, 3.0, dtype)
    values = torch.linspace(-2, 3, 1001)
    error = (quantise.dequantise(quantise(values)) - values).abs().max()
    assert 0 < error <= 0.5 * 5.0 / quantise.steps * 1.01
    assert torch.equal(quantise(torch.tensor([-9.0, 9.0])), quantise(torch.tensor([-2.0, 3.0])))


def test_normalise_keeps_the_dtype_of_its_input_and_takes_one_constant_per_channel() -> None:
    given = Normalise([1.0, 2.0, 3.0], 2.0)(x().double())
    wanted = (x().double() - torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)) / 2
    assert given.dtype == torch.float64
    assert torch.equal(given, wanted)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Quantise(1, 1), "low below high"),
        (lambda: Quantise(0, 1, torch.float32), "whole numbers"),
        (lambda: Normalise(0.0, [1.0, 0.0]), "positive std"),
        (lambda: Select("q")({"p": x()}), "no output 'q' among 'p'"),
        (lambda: Compose(Named(p=Softmax()), ArgMax())(x()), r"Put Select\('p'\)"),
    ],
)
def test_a_wrapper_refuses_what_makes_no_sense(make, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        make()


def test_a_lone_output_is_handed_on_by_compose() -> None:
    assert torch.equal(Compose(Named(output=Softmax()), ArgMax())(x()), x().argmax(1).to(torch.uint8))
