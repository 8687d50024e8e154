"""Functions as arguments of compiled programs.

A public function of critjax with the work of more than a few operations is one program: `program` at module level,
with hashable static options. Functions that it takes, such as denoisers, enter as arguments. What critjax returns is a
pytree over its arrays, so that one program serves every bank of a shape; a function of the user's has no arrays that
JAX can see, and is part of the program: the same object compiles once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from critjax._checks import check


def program(function: Any = None, /, **options: Any) -> Any:
    """Compile a function as `jax.jit` does, under the rules of promotion that critjax is written for.

    Callers who have set others, such as ``jax_numpy_dtype_promotion="strict"``, keep theirs for their own code.
    """
    if function is None:
        return functools.partial(program, **options)

    @functools.wraps(function)
    def ruled(*arguments: Any, **named: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*arguments, **named)

    return jax.jit(ruled, **options)


@dataclasses.dataclass(frozen=True)
class Static:
    """A function whose first arguments are static, hashable options; equal to another of the same two.

    ``Partial(Static(function, options), *arrays)`` is how critjax returns functions: those of one function, one set of
    options and arrays of one shape share their programs.
    """

    function: Callable[..., Any]
    options: Any

    def __call__(self, *arguments: Any) -> Any:
        """Call ``function(options, *arguments)``."""
        return self.function(self.options, *arguments)


class _ByIdentity:
    """A callable without a hash, told from others by identity."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __hash__(self) -> int:
        return id(self.function)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and self.function is other.function


def as_pytree(name: str, function: Any) -> Any:
    """Return a callable that can be an argument of a jitted function.

    Parameters
    ----------
    name : str
        Name of the argument, for the error.
    function : callable
        A registered pytree, such as `jax.tree_util.Partial`, is returned as it is; its arrays are arguments of the
        program. Anything else becomes a `Partial` without arrays, equal to that of the same object.

    Returns
    -------
    callable
        A pytree.

    Raises
    ------
    ValueError
        If ``function`` is not callable.
    """
    check(callable(function), name, "a function", type(function).__name__, "pass a callable")
    if not jax.tree_util.treedef_is_leaf(jax.tree.structure(function)):
        return function
    try:
        hash(function)
    except TypeError:
        function = _ByIdentity(function)
    return Partial(function)


def as_argument(values: Any) -> Any:
    """Return numbers and arrays as they are, and lists as NumPy arrays: arguments of a program."""
    return values if hasattr(values, "dtype") or isinstance(values, (int, float)) else np.asarray(values)
