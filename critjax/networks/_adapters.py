"""Models of other conventions as denoisers: one conversion for all of them, and the adapter of JAX callables."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from critjax._checks import check, check_floating, check_option, is_concrete, message
from critjax._typing import Array, DenoiseFn
from critjax.closed_form._inputs import prepare
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
        neither image nor time closed over.
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
    >>> print(f"{denoise(jnp.ones((4, 6, 3)), 2.0)[0, 0, 0]:.4f}")  # x/(1 + sigma^2)
    0.2000
    """
    if not callable(function):
        advice = "close over parameters, e.g. lambda x, t: model.apply(parameters, x, t)"
        raise TypeError(message("function", "a callable (images, times)", type(function).__name__, advice))
    check_option("layout", layout, LAYOUTS)
    batched, planes = layout.startswith("N"), layout.endswith("CHW")

    def predict(x: Array, t: Array) -> Array:
        image = jnp.moveaxis(x, -1, 0) if planes else x
        images, times = (image[None], t[None]) if batched else (image, t)
        output: Any = function(images, times)
        shape = getattr(output, "shape", None)
        got = type(output).__name__ if shape is None else f"shape {tuple(shape)}"
        advice = f"return the prediction alone, as {layout}"
        check(shape == images.shape, "function", f"an output of shape {images.shape}", got, advice)
        check_floating("output of function", output)
        output = output[0] if batched else output
        output = jnp.moveaxis(output, 0, -1) if planes else output
        return jnp.where(jnp.isfinite(t), output, jnp.nan)

    return adapt(predict, parameterisation, schedule, num_timesteps, time_fn)


def adapt(
    predict: Callable[[Array, Array], Array],
    parameterisation: str,
    schedule: str | None,
    num_timesteps: int | None,
    time_fn: Callable[[Array], Array] | None,
) -> DenoiseFn:
    """Return a model of single images, ``(x (H, W, C), t ()) -> (H, W, C)``, as a denoiser, see `jax_denoiser`."""
    check_option("parameterisation", parameterisation, PARAMETERISATIONS)
    time = _time(parameterisation, schedule, num_timesteps, time_fn)

    def denoise(x: Any, sigma: Any) -> Array:
        y, noise = prepare(x, sigma, None)
        t = time(sigma, noise)
        if parameterisation == "edm":
            return predict(y, t).astype(x.dtype)
        signal = 1 / jnp.sqrt(1 + noise**2)  # sqrt(alpha_bar); sqrt(1 - alpha_bar) = noise signal
        y_vp = signal * y
        output = predict(y_vp, t)
        clean = y - noise * output if parameterisation == "vp-epsilon" else signal * (y_vp - noise * output)
        return clean.astype(x.dtype)

    return denoise


def _time(
    parameterisation: str,
    schedule: str | None,
    num_timesteps: int | None,
    time_fn: Callable[[Array], Array] | None,
) -> Callable[[Any, Array], Array]:
    """Return ``(sigma as given, sigma in the dtype of the computation) -> t``."""
    if time_fn is not None or parameterisation == "edm":
        instead = "parameterisation 'edm'" if time_fn is None else "time_fn"
        for name, value in (("schedule", schedule), ("num_timesteps", num_timesteps)):
            check(value is None, name, f"none beside {instead}", repr(value), "leave one of the two out")
        convert = (lambda noise: noise) if time_fn is None else time_fn
        expected = "a noise level with a finite time"
    else:
        ddpm: dict[str, Any] = {
            "schedule": "linear" if schedule is None else schedule,
            "num_timesteps": 1000 if num_timesteps is None else num_timesteps,
        }
        convert = functools.partial(sigma_to_ddpm_timestep, **ddpm)
        low, high = ddpm_sigma_range(**ddpm)
        expected = f"a noise level of the schedule, {low:.4g} ... {high:.4g}"

    def time(sigma: Any, noise: Array) -> Array:
        # The time of a known sigma is known inside jit, too.
        now = jax.ensure_compile_time_eval() if is_concrete(sigma) else contextlib.nullcontext()
        with now:
            t = jnp.asarray(convert(jnp.asarray(sigma).astype(noise.dtype))).astype(noise.dtype)
        check(t.shape == (), "time_fn", "a scalar", f"shape {t.shape}", "return one time for one sigma")
        if is_concrete(sigma) and is_concrete(t):
            advice = "choose another noise level, schedule or time_fn"
            check(bool(np.isfinite(t)), "sigma", expected, float(sigma), advice)
        return t

    return time
