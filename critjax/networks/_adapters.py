"""Models of other conventions as denoisers: one conversion for all of them, and the adapter of JAX callables."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import (
    as_scalar,
    check,
    check_floating,
    check_option,
    check_rank,
    is_concrete,
    message,
    widened,
)
from critjax._programs import as_pytree, program
from critjax._typing import Array, DenoiseFn
from critjax.noise import ddpm_sigma_range, sigma_to_ddpm_timestep

PARAMETERISATIONS = ("edm", "vp-epsilon", "v")
LAYOUTS = ("NHWC", "NCHW", "HWC", "CHW")


def jax_denoiser(
    function: Any,
    *,
    parameterisation: str = "edm",
    schedule: str | None = None,
    num_timesteps: int | None = None,
    time_fn: Callable[[Array], Array] | None = None,
    layout: str = "NHWC",
) -> DenoiseFn:
    r"""Return any JAX callable as a denoiser: EDM, epsilon and v prediction, batched or not.

    Three parameterisations are read, all for x = x0 + sigma n, with alpha_bar = 1/(1 + sigma^2) and x_vp =
    sqrt(alpha_bar) x:

    =================  =====================  ================================================
    parameterisation   model                  denoised image
    =================  =====================  ================================================
    ``"edm"``          (x, sigma) -> x0       D = output
    ``"vp-epsilon"``   (x_vp, t) -> noise     D = x - sigma output
    ``"v"``            (x_vp, t) -> v         D = sqrt(alpha_bar) x_vp - sqrt(1 - alpha_bar) v
    =================  =====================  ================================================

    with v = sqrt(alpha_bar) n - sqrt(1 - alpha_bar) x0.

    Parameters
    ----------
    function : callable
        ``(images, times) -> output`` in JAX, the output in the shape of the images: the apply function of a model of
        Flax, Equinox or Haiku, for example, in evaluation mode, with parameters, class labels and whatever else is
        neither image nor time closed over. It is compiled once; if it is a pytree, such as `jax.tree_util.Partial` over
        the parameters, once for all parameters of the same shapes.
    parameterisation : "edm", "vp-epsilon" or "v"
        What the function takes and predicts.
    schedule : "linear" or "cosine", optional
        For the last two: the DDPM schedule whose timestep, counted from 0 and fractional, is the function's time; see
        `sigma_to_ddpm_timestep`. Default: ``"linear"``.
    num_timesteps : int, optional
        Its length, at least 2. Default: 1000.
    time_fn : callable, optional
        ``sigma () -> t ()`` in JAX, in place of the schedule (and of t = sigma for ``"edm"``).
    layout : "NHWC", "NCHW", "HWC" or "CHW"
        Axes of the images. With N the function gets a batch of one and times of shape (1,), without N one image and
        a scalar.

    Returns
    -------
    DenoiseFn
        ``(x (H, W, C), sigma ()) -> (H, W, C)`` in the dtype of x and its units; the function gets at least float32. A
        traced sigma without a finite time, as outside the schedule, gives NaN, whatever the function makes of it.

    Raises
    ------
    ValueError, TypeError
        For an object that cannot be called, an unknown option, a schedule where no timestep is asked for, wrong shapes
        or dtypes, also of the output, or a concrete sigma that has no finite time.

    Notes
    -----
    One call of the function, under `jax.vmap` with one axis more. As exact as the function, and differentiable in x
    and sigma as it is, in both modes; of a function that rounds its time the derivative in sigma is that at fixed time.
    The denoiser is a pytree over what ``function`` and ``time_fn`` are pytrees over.
    EDM: Karras et al. 2022, arXiv:2206.00364; epsilon: Ho et al. 2020, arXiv:2006.11239; v: Salimans & Ho 2022,
    arXiv:2202.00512. THEORY section 1.

    Example
    -------
    White data of unit variance: the noise in x_vp is best predicted by sqrt(1 - alpha_bar) x_vp.

    >>> from critjax.noise import ddpm_timestep_to_sigma
    >>> def predict_noise(x_vp, t):
    ...     sigma = ddpm_timestep_to_sigma(t)
    ...     return x_vp * (sigma / jnp.sqrt(1 + sigma**2))[:, None, None, None]
    >>> denoise = jax_denoiser(predict_noise, parameterisation="vp-epsilon")
    >>> print(f"{np.mean(denoise(np.ones((4, 6, 3)), 2.0)):.4f}")  # x/(1 + sigma^2)
    0.2000
    """
    if not callable(function):
        advice = "close over parameters, e.g. lambda x, t: model.apply(parameters, x, t)"
        raise TypeError(message("function", "a callable (images, times)", type(function).__name__, advice))
    check_option("layout", layout, LAYOUTS)
    model = _Model(as_pytree("function", function), layout)
    return adapt(model, parameterisation, schedule, num_timesteps, time_fn)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["function"], meta_fields=["layout"])
@dataclasses.dataclass(frozen=True, eq=False)
class _Model:
    """A function of images in any layout as one of single images, ``(x (H, W, C), t ()) -> (H, W, C)``."""

    function: Any
    layout: Any

    def __call__(self, x: Array, t: Array) -> Array:
        batched, planes = self.layout.startswith("N"), self.layout.endswith("CHW")
        image = jnp.moveaxis(x, -1, 0) if planes else x
        images, times = (image[None], t[None]) if batched else (image, t)
        output: Any = self.function(images, times)
        shape = getattr(output, "shape", None)
        got = type(output).__name__ if shape is None else f"shape {tuple(shape)}"
        advice = f"return the prediction alone, as {self.layout}"
        check(shape == images.shape, "function", f"an output of shape {images.shape}", got, advice)
        check_floating("output of function", output)
        output = output[0] if batched else output
        output = jnp.moveaxis(output, 0, -1) if planes else output
        return jnp.where(jnp.isfinite(t), output, jnp.nan)


def adapt(
    predict: Callable[[Array, Array], Array],
    parameterisation: str,
    schedule: str | None,
    num_timesteps: int | None,
    time_fn: Callable[[Array], Array] | None,
) -> DenoiseFn:
    """Return a model of single images, ``(x (H, W, C), t ()) -> (H, W, C)``, as a denoiser, see `jax_denoiser`."""
    check_option("parameterisation", parameterisation, PARAMETERISATIONS)
    time, expected = None, "a noise level with a finite time"
    if time_fn is not None or parameterisation == "edm":
        instead = "parameterisation 'edm'" if time_fn is None else "time_fn"
        for name, value in (("schedule", schedule), ("num_timesteps", num_timesteps)):
            check(value is None, name, f"none beside {instead}", repr(value), "leave one of the two out")
        time = None if time_fn is None else as_pytree("time_fn", time_fn)
    else:
        steps = _Timesteps(
            "linear" if schedule is None else schedule, 1000 if num_timesteps is None else num_timesteps
        )
        low, high = ddpm_sigma_range(**dataclasses.asdict(steps))
        time, expected = (
            as_pytree("schedule", steps),
            f"a noise level of the schedule, {low:.4g} ... {high:.4g}",
        )
    return _Adapted(as_pytree("predict", predict), time, parameterisation, expected)


@dataclasses.dataclass(frozen=True)
class _Timesteps:
    """The timesteps of a DDPM schedule as a function of sigma; equal to that of another denoiser of the schedule."""

    schedule: str
    num_timesteps: int

    def __call__(self, sigma: Array) -> Any:
        return sigma_to_ddpm_timestep(sigma, schedule=self.schedule, num_timesteps=self.num_timesteps)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["predict", "time"],
    meta_fields=["parameterisation", "expected"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class _Adapted:
    """A model as a denoiser; ``time`` is None where the time is sigma itself."""

    predict: Any
    time: Any
    parameterisation: Any
    expected: Any

    def __call__(self, x: Any, sigma: Any) -> Array:
        """Denoise ``x (H, W, C)`` at the noise level ``sigma ()``."""
        check_floating("x", x)
        check_rank("x", x, "H W C")
        advice = "pass a standard deviation, and map over several with jax.vmap"
        sigma = as_scalar("sigma", sigma, "a finite number > 0", advice, good=lambda value: value > 0)
        t = None
        if is_concrete(sigma):
            sigma = np.asarray(sigma, widened(x.dtype))
        if is_concrete(sigma) and self.time is not None:
            # The time of a known sigma is known inside jit, too. Outside, constants are better left to the program.
            now = contextlib.nullcontext() if is_concrete(x) else jax.ensure_compile_time_eval()
            with now:
                t = _time(self.time, sigma)
            if is_concrete(t):
                advice = "choose another noise level, schedule or time_fn"
                check(bool(np.isfinite(t)), "sigma", self.expected, float(sigma), advice)
        return _denoise(self, x, sigma, t)


@program
def _time(time: Any, sigma: Array) -> Array:
    """Return the time of a noise level in the dtype of the computation."""
    t = jnp.asarray(time(sigma)).astype(sigma.dtype)
    check(t.shape == (), "time_fn", "a scalar", f"shape {t.shape}", "return one time for one sigma")
    return t


@program
def _denoise(model: _Adapted, x: Array, sigma: Array, t: Array | None) -> Array:
    work = jnp.promote_types(x.dtype, jnp.float32)
    y, noise = x.astype(work), sigma.astype(work)
    if t is None:
        t = noise if model.time is None else _time(model.time, noise)
    if model.parameterisation == "edm":
        return model.predict(y, t).astype(x.dtype)
    signal = 1 / jnp.sqrt(1 + noise**2)  # sqrt(alpha_bar); sqrt(1 - alpha_bar) = noise signal
    y_vp = signal * y
    output = model.predict(y_vp, t)
    if model.parameterisation == "vp-epsilon":
        return (y - noise * output).astype(x.dtype)
    return (signal * (y_vp - noise * output)).astype(x.dtype)
