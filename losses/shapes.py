"""Shapes of one sample, read off the annotations, with messages for who forgot vmap."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

import jax.numpy as jnp

Taken = ParamSpec("Taken")
Given = TypeVar("Given")
_NAMED = re.compile(r"([a-z]+)(\d*)$")  # p, k; p2 is 2P


def of_one_sample(function: Callable[Taken, Given]) -> Callable[Taken, Given]:
    """A loss that refuses arrays of other shapes than it is annotated with.

    JAX broadcasts many of them: a batch given without ``jax.vmap`` would then be one
    number, which is the loss of no sample.

    Raises:
        ValueError: such a shape; names the argument, both shapes and the remedy.
    """
    signature, hints = inspect.signature(function), get_type_hints(function)

    @functools.wraps(function)
    def checked(*args: Taken.args, **kwargs: Taken.kwargs) -> Given:
        sizes: dict[str, int] = {}
        given = signature.bind(*args, **kwargs).arguments
        for name, value, hint in _flat(given, hints):
            shape, before = jnp.shape(value), dict(sizes)
            allowed = [h for h in (hint, *get_args(hint)) if hasattr(h, "dim_str")]
            allowed = [h.dim_str.split() for h in allowed]
            if allowed and not any(_fits(shape, dims, sizes) for dims in allowed):
                start = f"{function.__name__}: {name} has shape {shape}"
                raise ValueError(f"{start}; {_wanted(allowed[-1], before)}")
        return function(*args, **kwargs)

    return checked


def _flat(values: dict[str, Any], hints: dict[str, Any]) -> Iterator[tuple]:
    """Name, value and hint of each argument, and of the fields of a record."""
    for name, value in values.items():
        if hasattr(value, "_asdict"):
            fields = {f"{name}.{k}": v for k, v in value._asdict().items()}
            named = get_type_hints(type(value)).items()
            yield from _flat(fields, {f"{name}.{k}": v for k, v in named})
        elif value is not None and not callable(value):
            yield name, value, hints.get(name)


def _fits(shape: tuple[int, ...], dims: list[str], sizes: dict[str, int]) -> bool:
    """Whether a shape agrees with the others; adds the sizes it is first to give."""
    if len(shape) != len(dims):
        return False
    for size, dim in zip(shape, dims, strict=True):
        named = _NAMED.match(dim)
        name, factor = (named[1], int(named[2] or 1)) if named else (dim, int(dim))
        if size != factor * sizes.setdefault(name, size // factor if named else 1):
            return False
    return True


def _wanted(dims: list[str], sizes: dict[str, int]) -> str:
    """The shape of one sample, and what to do with another."""
    names = [_NAMED.sub(r"\2\1", dim).upper() for dim in dims]
    shape = ", ".join(names) + ("," if len(names) == 1 else "")
    known = [f"{n.upper()} = {sizes[n]}" for n in ("p", "k") if n in sizes]
    return (
        f"one sample has ({shape}){' with ' * bool(known)}{', '.join(known)}. "
        "Map a batch by jax.vmap. Landmarks are ordered u1 v1 u2 v2 ... (W.ravel()), "
        "rows of a dictionary x1 y1 z1 x2 y2 z2 ..."
    )
