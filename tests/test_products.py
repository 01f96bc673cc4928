"""Products by the faster library are exact, and torch's own setting comes back."""

import pytest
import torch

from kshot.models import products
from kshot.models.products import fast_products


def setting() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.fixture
def anew():
    products._is_exact.cache_clear()
    yield
    products._is_exact.cache_clear()


def test_products_inside_are_float32(anew):
    drawn = torch.Generator().manual_seed(1)
    left, right = (torch.randn(300, 300, generator=drawn) for _ in range(2))
    with fast_products():
        found = left @ right
    exact = left.double() @ right.double()
    assert (found - exact).abs().max() / exact.abs().max() < 1e-5


def test_the_setting_comes_back_after_an_error_and_when_nested(anew):
    before = setting()
    with pytest.raises(ValueError, match="inside"), fast_products(), fast_products():
        raise ValueError("inside")
    assert setting() == before


def test_a_library_that_rounds_is_not_used(anew, monkeypatch):
    """A trial product that is as wrong as bfloat16's leaves everything as it is."""
    before, plain = setting(), torch.Tensor.__matmul__
    rounded = lambda a, b: plain(a.bfloat16(), b.bfloat16()).float() if setting() == "bf16" else plain(a, b)  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    with fast_products():
        assert setting() == before


def test_a_torch_without_the_setting_multiplies_as_ever(anew, monkeypatch):
    monkeypatch.delattr(type(torch.backends.mkldnn), "matmul")
    with fast_products():
        assert torch.equal(torch.eye(2) @ torch.ones(2, 2), torch.ones(2, 2))
