"""Several devices played on the CPU: tensors carry the name of a place, and work across places is refused."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from posneurons import hooked


def of(tensor: torch.Tensor) -> str:
    return str(tensor.__dict__.get("place", "cpu"))


def put(tensor: torch.Tensor, place: Any) -> torch.Tensor:
    tensor.__dict__["place"] = str(place)
    return tensor


def spread(model: Any, n_devices: int) -> None:
    """Put every weight and buffer of a HookedTransformer where it is on so many devices."""
    model.cfg.device, model.cfg.n_devices = "xpu:0", n_devices  # a kind whose memory nobody asks for
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        put(tensor, hooked.place(model.cfg, name))


class Places(TorchFunctionMode):
    """Inside it tensors have places; `moves` counts those from one place to another."""

    moves = 0

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:  # each look gives a new wrapper
            return torch.device(of(args[0]))
        if func in (torch.Tensor.to, torch.Tensor.cpu):
            return self._moved(args, kwargs if func is torch.Tensor.to else {"device": "cpu"})
        if func is torch.autograd.grad:
            found = func(*args, **kwargs)
            inputs = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
            return tuple(put(each, of(like)) for each, like in zip(found, inputs, strict=True))
        place = self._place(func, args, kwargs)
        if kwargs.get("device") is not None:
            place, kwargs["device"] = str(kwargs["device"]), "cpu"
        found = func(*args, **kwargs)
        for each in tensors(found):
            put(each, place)
        return found

    def _moved(self, args: Any, kwargs: Any) -> torch.Tensor:
        tensor, *rest = args
        place, dtype = of(tensor), tensor.dtype
        for each in (*rest, *kwargs.values()):
            if isinstance(each, torch.dtype):
                dtype = each
            elif isinstance(each, torch.Tensor):
                place, dtype = of(each), each.dtype
            elif isinstance(each, (str, torch.device)):
                place = str(each)
        if (place, dtype) == (of(tensor), tensor.dtype):
            return tensor  # type: ignore[no-any-return]
        self.moves += place != of(tensor)
        return put(tensor.type(dtype) if dtype != tensor.dtype else tensor.clone(), place)

    def _place(self, func: Callable[..., Any], args: Any, kwargs: Any) -> str:
        everything = list(tensors((args, kwargs)))
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):  # CUDA takes indices of the CPU too
            everything = [each for each in everything if each is args[0] or of(each) != "cpu"]
        places = {of(each) for each in everything if each.ndim or of(each) != "cpu"} or {"cpu"}
        if len(places) > 1:
            raise AssertionError(f"{func.__name__}: expected all tensors to be on the same device, found {places}")
        return places.pop()


def tensors(values: Any) -> Iterator[torch.Tensor]:
    return (each for each in pytree.tree_leaves(values) if isinstance(each, torch.Tensor))
