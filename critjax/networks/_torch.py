"""PyTorch modules as denoisers: values and derivatives cross over by host callbacks."""

from __future__ import annotations

import contextlib
import importlib
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from critjax._checks import check, check_option, message
from critjax._typing import Array, DenoiseFn
from critjax.networks._adapters import adapt

MODES = ("auto", "forward", "double-backward")

#: Forward-mode levels and the choice of attention kernels are global in torch; JAX may call from several threads.
_LOCK = threading.RLock()


class _Host(NamedTuple):
    """Maps between numpy arrays ``x (..., H, W, C), t (...)``: one call of the module for all leading axes."""

    value: Callable[..., np.ndarray]
    tangent: Callable[..., np.ndarray]
    cotangent: Callable[..., np.ndarray]
    slope: Callable[..., np.ndarray]


def torch_denoiser(
    module: Any,
    *,
    parameterisation: str = "edm",
    schedule: str | None = None,
    num_timesteps: int | None = None,
    time_fn: Callable[[Array], Array] | None = None,
    call: Callable[..., Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    mode: str = "auto",
) -> DenoiseFn:
    r"""Return a PyTorch module as a denoiser, with derivatives of both modes.

    Parameters
    ----------
    module : torch.nn.Module
        Maps (B, C, H, W) images and (B,) times to (B, C, H, W), in evaluation mode; `jax_denoiser` tells what
        they mean. An output with an attribute ``sample``, or the first of a tuple, is taken.
    parameterisation : "edm", "vp-epsilon" or "v"
        What the module takes and predicts.
    schedule, num_timesteps, time_fn : optional
        How its time follows from sigma, as in `jax_denoiser`.
    call : callable, optional
        ``(module, x, t, **arguments) -> output``, for modules with another signature; default
        ``module(x, t, **arguments)``.
    arguments : mapping, optional
        More keyword arguments, such as class labels. Tensors without axes or with a first axis of one are expanded to
        the batch and moved to the module's device.
    mode : "auto", "forward" or "double-backward"
        How ``J v`` is computed: by forward-mode derivatives, by differentiating ``u -> J^T u``, or by the latter once
        the former turns out to be unsupported by one of the module's operations.

    Returns
    -------
    DenoiseFn
        ``(x (H, W, C), sigma ()) -> (H, W, C)`` in the dtype of x; computed on the device and in the precision of the
        module's parameters. Under `jax.vmap` a batch is one call of the module.

    Raises
    ------
    ImportError
        If torch is not installed.
    ValueError, TypeError
        For an unknown option, a schedule where no timestep is asked for, an object that is no module, a module in
        training mode, wrong shapes, or a concrete sigma that has no finite time. While running, the same as JAX's
        runtime error: an output of wrong shape or cut from its input, a traced sigma without a finite time, and the
        derivative in sigma of a module that rounds its time.

    Notes
    -----
    Exact derivatives, first order only: a second one raises. One forward pass a call; J v costs two to three, J^T u
    two to three; a derivative in sigma one J v more. Attention runs by its plain kernel in J v, since the
    fused ones lack them. Parameters are constants. Host callbacks: nothing is sharded, and every call moves the image.

    Example
    -------
    >>> import torch
    >>> class Shrink(torch.nn.Module):
    ...     def forward(self, x, sigma):
    ...         return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)
    >>> denoise = torch_denoiser(Shrink().eval())
    >>> x = jnp.ones((4, 6, 3))
    >>> value, tangent = jax.jvp(lambda x: denoise(x, 2.0), (x,), (5 * x,))
    >>> print(value[0, 0, 0], tangent[0, 0, 0])
    0.2 1.0
    """
    torch = _import_torch()
    if not isinstance(module, torch.nn.Module):
        got = type(module).__name__
        raise TypeError(message("module", "a torch.nn.Module", got, "wrap functions in a module"))
    check_option("mode", mode, MODES)
    _check_evaluating(module)
    host = _host_functions(module, call or _plain_call, dict(arguments or {}), mode)
    return adapt(_differentiable(host), parameterisation, schedule, num_timesteps, time_fn)


def _import_torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError:
        advice = "install it with pip install critjax[torch]"
        raise ImportError(message("torch_denoiser", "PyTorch", "no module named torch", advice)) from None


def _plain_call(module: Any, x: Any, t: Any, **arguments: Any) -> Any:
    return module(x, t, **arguments)


def _check_evaluating(module: Any) -> None:
    training = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
    got = f"training mode in {', '.join(training[:3])}"
    advice = "call module.eval(): dropout would draw another Jacobian at every product"
    check(not training, "module", "evaluation mode", got, advice)


# The JAX side --------------------------------------------------------------------------------------------------


def _differentiable(host: _Host) -> Callable[[Array, Array], Array]:
    """Return ``(x (H, W, C), t ()) -> (H, W, C)`` with rules for jvp, vjp and vmap."""

    def callback(function: Callable[..., np.ndarray], *arrays: Array) -> Array:
        shape = jax.ShapeDtypeStruct(arrays[0].shape, arrays[0].dtype)
        return jax.pure_callback(function, shape, *arrays, vmap_method="expand_dims")

    @jax.custom_jvp
    def apply(x: Array, t: Array) -> Array:
        return callback(host.value, x, t)

    def rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
        x, t = _once_differentiable(*primals)
        x_dot, t_dot = tangents
        out = apply(*primals)
        total = jnp.zeros_like(out)
        if not isinstance(x_dot, SymbolicZero):
            # J x_dot as "the solution y of y = x_dot whose solver is J": this is the one public operation of JAX to
            # which a transpose can be given (a solver of the transposed system) and which can be batched, too.
            total += jax.lax.custom_linear_solve(
                lambda y: y,
                x_dot,
                lambda _, v: callback(host.tangent, x, t, v),
                lambda _, u: callback(host.cotangent, x, t, u),
            )
        if not isinstance(t_dot, SymbolicZero):
            total += t_dot * callback(host.slope, x, t)
        return out, total

    apply.defjvp(rule, symbolic_zeros=True)
    return apply


@jax.custom_jvp
def _once_differentiable(x: Array, t: Array) -> tuple[Array, Array]:
    """Return x and t as they are, and refuse derivatives, which `custom_linear_solve` would take for zero."""
    return x, t


def _refuse(primals: Any, tangents: Any) -> Any:
    del primals, tangents
    advice = "use first derivatives only"
    raise ValueError(message("torch_denoiser", "first derivatives", "a derivative of a derivative", advice))


_once_differentiable.defjvp(_refuse)


# The torch side ------------------------------------------------------------------------------------------------


def _host_functions(module: Any, call: Callable[..., Any], arguments: dict[str, Any], mode: str) -> _Host:
    torch = _import_torch()
    forward_ad = torch.autograd.forward_ad
    with warnings.catch_warnings(), forward_ad.dual_level():
        # The first forward derivative loads a part of torch that warns of a deprecation of its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))
    settled = mode  # "auto" until forward mode fails once

    def evaluate(x: Any, t: Any) -> Any:
        expanded = {name: _expand(torch, value, x) for name, value in arguments.items()}
        out = _tensor(torch, call(module, x, t, **expanded))
        got = f"shape {tuple(out.shape)}"
        advice = "select the channels of the prediction with call=..."
        check(out.shape == x.shape, "module", f"an output of shape {tuple(x.shape)}", got, advice)
        return out

    def forward(x: Any, t: Any, x_dot: Any, t_dot: Any) -> Any:
        """Return the derivative along x_dot or t_dot (the other is None); None if the output is cut from that input."""
        with torch.no_grad(), forward_ad.dual_level():
            x = x if x_dot is None else forward_ad.make_dual(x, x_dot)
            t = t if t_dot is None else forward_ad.make_dual(t, t_dot)
            return forward_ad.unpack_dual(evaluate(x, t)).tangent

    def backward(x: Any, t: Any, with_x: bool, **options: Any) -> Any:
        """Return ``u -> J^T u`` for one input and the output, or None if the output is cut from that input."""
        variable = (x if with_x else t).requires_grad_()
        out = evaluate(x, t)
        if not out.requires_grad:
            return None, out
        return lambda u: torch.autograd.grad(out, variable, u, allow_unused=True, **options)[0], out

    def double_backward(x: Any, t: Any, x_dot: Any, t_dot: Any) -> Any:
        with torch.enable_grad():
            pull, out = backward(x, t, x_dot is not None, create_graph=True)
            u = torch.zeros_like(out, requires_grad=True)
            pulled = None if pull is None else pull(u)
            if pulled is None or not pulled.requires_grad:
                return None
            return torch.autograd.grad(pulled, u, x_dot if t_dot is None else t_dot)[0]

    def derivative(x: Any, t: Any, x_dot: Any = None, t_dot: Any = None) -> Any:
        nonlocal settled
        if settled != "double-backward":
            try:
                return forward(x, t, x_dot, t_dot)
            except (RuntimeError, NotImplementedError):
                # How torch tells that an operation lacks forward derivatives. "auto" goes on to the other mode, which
                # raises again if the module itself is at fault; only its success settles the mode.
                if settled == "forward":
                    raise
        result = double_backward(x, t, x_dot, t_dot)
        settled = "double-backward"
        return result

    def value(x: Any, t: Any) -> Any:
        with torch.no_grad():
            return evaluate(x, t)

    def tangent(x: Any, t: Any, x_dot: Any) -> Any:
        with _plain_attention(torch):
            return _connected(derivative(x, t, x_dot=x_dot))

    def cotangent(x: Any, t: Any, u: Any) -> Any:
        with torch.enable_grad():
            pull, _ = backward(x, t, True)
            return _connected(None if pull is None else pull(u))

    def slope(x: Any, t: Any) -> Any:
        with _plain_attention(torch):
            found = derivative(x, t, t_dot=torch.ones_like(t))
            found = torch.zeros_like(x) if found is None else found
            if not found.any():
                _check_timeless(
                    value(x.detach(), t.detach()), value(x.detach(), _other_time(torch, t.detach()))
                )
            return found

    def on_host(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
        def run(x: Any, t: Any, *rest: Any) -> np.ndarray:
            arrays = [np.asarray(a) for a in (x, t, *rest)]
            _check_evaluating(module)
            finite = bool(np.all(np.isfinite(arrays[1])))
            advice = "stay within the noise levels of the schedule, or pass time_fn"
            check(finite, "sigma", "noise levels with a time", "one whose time is not finite", advice)
            leading = np.broadcast_shapes(arrays[1].shape, *(a.shape[:-3] for a in (arrays[0], *arrays[2:])))
            device, dtype = _place(torch, module, arrays[0].dtype)

            def images(array: np.ndarray) -> Any:
                whole = np.broadcast_to(array, (*leading, *array.shape[-3:]))
                flat = np.array(whole.reshape(-1, *array.shape[-3:]).transpose(0, 3, 1, 2), order="C")
                return torch.from_numpy(flat).to(device, dtype)

            times = torch.from_numpy(np.array(np.broadcast_to(arrays[1], leading)).reshape(-1)).to(
                device, dtype
            )
            with _LOCK:
                out = function(images(arrays[0]), times, *map(images, arrays[2:]))
            kept = torch.promote_types(out.dtype, torch.float32)
            out = out.detach().to("cpu", kept).numpy().transpose(0, 2, 3, 1)
            return np.ascontiguousarray(out.reshape(*leading, *arrays[0].shape[-3:]), arrays[0].dtype)

        return run

    return _Host(*(on_host(function) for function in (value, tangent, cotangent, slope)))


@contextlib.contextmanager
def _plain_attention(torch: Any) -> Iterator[None]:
    """Choose the attention kernel that has derivatives of both modes."""
    attention = importlib.import_module("torch.nn.attention")
    with attention.sdpa_kernel(attention.SDPBackend.MATH):
        yield


def _place(torch: Any, module: Any, dtype: Any) -> tuple[Any, Any]:
    """Return device and dtype of the first floating parameter or buffer."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.from_numpy(np.zeros((), dtype)).dtype


def _expand(torch: Any, value: Any, x: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    value = value.to(x.device)
    if value.ndim == 0 or value.shape[0] == 1:
        return value.expand(x.shape[0], *value.shape[1:])
    return value


def _tensor(torch: Any, output: Any) -> Any:
    for candidate in (output, getattr(output, "sample", None)):
        if isinstance(candidate, torch.Tensor):
            return candidate
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], torch.Tensor):
        return output[0]
    got = type(output).__name__
    raise TypeError(
        message("module", "a tensor, or an output with one as .sample", got, "extract it with call=...")
    )


def _connected(derivative: Any) -> Any:
    advice = "remove detach() and no_grad() from the module"
    expected = "an output that depends differentiably on the image"
    check(derivative is not None, "module", expected, "one cut from it", advice)
    return derivative


def _other_time(torch: Any, t: Any) -> Any:
    """Return times that differ from t by one or more: not the same after rounding."""
    return torch.where(t >= 2, t / 2, t + 2)


def _check_timeless(out: Any, other: Any) -> None:
    """Tell a module without a time, whose derivative is zero, from one that rounds it."""
    advice = "keep sigma fixed in derivatives, or let the module interpolate its time"
    expected = "a time that can be differentiated"
    check(bool((out == other).all()), "module", expected, "one that is rounded or detached", advice)
