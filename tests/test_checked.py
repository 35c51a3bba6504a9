"""The checks of types that all other tests run under: they see what is wrong, also where they were made before."""

from collections.abc import Callable
from typing import Any

import checked
import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor

under_check = jaxtyped(typechecker=checked.beartype)


def doubling(factor: float) -> Callable[..., Any]:
    """A function inside a function, made and checked anew at every call of this one."""

    @under_check
    def double(value: Tensor, *, times: float = factor) -> Tensor:
        return value * times if factor else value.tolist()

    return double


def made(hint: Any) -> Callable[..., Any]:
    @under_check
    def takes(value: hint) -> None:  # type: ignore[valid-type]
        pass

    return takes


def test_a_function_made_again_is_checked_without_a_new_check_and_keeps_its_own_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ones = torch.ones(2, 3)
    assert doubling(2.0)(ones).sum() == 12
    monkeypatch.setattr(checked.maker, "beartype", None)
    assert doubling(5.0)(ones).sum() == 30
    assert doubling(5.0)(ones, times=1.0).sum() == 6
    monkeypatch.undo()
    for call in (lambda: doubling(5.0)("x"), lambda: doubling(5.0)(ones, times="x")):
        with pytest.raises(TypeCheckError, match=r"checking the parameters of .*double"):
            call()
    with pytest.raises(TypeCheckError, match=r"checking the return value of .*double"):
        doubling(0.0)(ones)


def test_shapes_are_checked_each_time() -> None:
    for _ in range(2):
        takes = made(Float[Tensor, "batch pos"])
        takes(torch.ones(2, 3))
        with pytest.raises(TypeCheckError):
            takes(torch.ones(2))


def test_another_signature_has_another_check() -> None:
    made(int)(3)
    made(str)("x")
    with pytest.raises(TypeCheckError):
        made(int)("x")
    with pytest.raises(TypeCheckError):
        made(str)(3)

    def named(optional: bool) -> Callable[..., Any]:
        if optional:

            @under_check
            def each(value: int = 3) -> int:
                return value
        else:

            @under_check
            def each(value: int) -> int:
                return value

        return each

    assert named(False)(4) == 4
    assert named(True)() == 3
    with pytest.raises(TypeError, match="value"):
        named(False)()


def test_the_package_is_under_these_checks() -> None:
    import posneurons as pn

    with pytest.raises(TypeCheckError, match=r"checking the parameters of posneurons\.neurons"):
        pn.NeuronSet.parse(3)  # type: ignore[arg-type]
