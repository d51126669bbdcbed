"""What is asked of a machine's kernels before it serves a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.model.attention.tiny import BOTH_WAYS, tiny_model
from torch import Tensor

from hope_kernels.cpu.reader import Places, Reader
from hope_kernels.cpu.tangent import Column, Passes
from hope_kernels.packed_linear import PackedLinear
from hope_model.attention import repeatable
from hope_model.attention.repeatable import unrepeatable_products
from hope_model.attention.rows import SessionRows


@BOTH_WAYS
def test_this_machine_repeats(compiled: bool) -> None:
    assert unrepeatable_products(tiny_model(compiled=compiled)) == []


@pytest.mark.compiler
def test_a_kernel_that_knows_its_company_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = tiny_model(), Reader.read

    def mixed(self: Reader, places: Places, *rest: Any) -> Tensor:
        return read(self, places, *rest) + (len(places.tokens) > 20)

    monkeypatch.setattr(Reader, "read", mixed)
    assert unrepeatable_products(model) == ["compiled reading"]


@pytest.mark.compiler
def test_so_is_one_by_which_lessons_know_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tangent = tiny_model(), Passes.tangent

    def mixed(self: Passes, columns: Sequence[Column], *rest: Any) -> Any:
        inputs, slopes = tangent(self, columns, *rest)
        return inputs, {site: slope * len(columns) for site, slope in slopes.items()}

    monkeypatch.setattr(Passes, "tangent", mixed)
    assert unrepeatable_products(model) == ["compiled learning"]


def test_a_product_that_knows_its_company_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, product = tiny_model(), PackedLinear.__call__

    def mixed(self: PackedLinear, x: Tensor) -> Tensor:
        y = product(self, x)
        return y + 1 if self is model.backbone.layers[0].down and x.shape[-2] == 7 else y

    monkeypatch.setattr(PackedLinear, "__call__", mixed)
    down = model.backbone.layers[0].down
    assert unrepeatable_products(model) == [f"down {down.columns}x{down.rows}"]


@pytest.mark.parametrize(
    ("check", "named"), [("product_holds", "deltas "), ("served_attention_holds", "attention ")]
)
def test_so_are_deltas_and_attention(check: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeatable, check, lambda *sizes: False)
    products = unrepeatable_products(tiny_model())
    assert products
    assert all(product.startswith(named) for product in products)


def test_every_product_of_a_launch_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model, product = tiny_model(compiled=False), PackedLinear.__call__
    launched: set[tuple[int, int]] = set()

    def noted(self: PackedLinear, x: Tensor) -> Tensor:
        launched.add((self.columns, self.rows))
        return product(self, x)

    monkeypatch.setattr(PackedLinear, "__call__", noted)
    rows = SessionRows(model, 1, learn=True)
    rows.read(0, [1, 2, 3], ["user"] * 3)
    read = set(launched)
    launched.clear()
    assert unrepeatable_products(model) == []
    assert read
    assert read <= launched
