"""Public entry points: which variants exist, and the denoisers built from them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from critjax._checks import (
    check,
    check_count,
    check_finite,
    check_floating,
    check_option,
    check_rank,
    is_concrete,
    message,
    on_host,
)
from critjax._programs import Static
from critjax._typing import Array, ArrayLike, DenoiseFn
from critjax.banks import ImageBank, PatchBank
from critjax.patch_score._blocks import least_overlap
from critjax.patch_score._images import strip_width
from critjax.patch_score._plan import Plan
from critjax.patch_score._posterior import entropy, posterior
from critjax.patch_score._windows import overlap_mean

#: Every legal variant: (kind of bank, positions, boundary, readout) -> methods, the preferred one of many last.
LEGAL: dict[tuple[str, str | None, str, str], tuple[str, ...]] = {
    ("patches", None, "periodic", "centre"): ("convolution", "product"),
    ("patches", None, "periodic", "average"): ("convolution", "product"),
    ("images", "all", "periodic", "centre"): ("product", "box"),
    ("images", "all", "periodic", "average"): ("product",),
    ("images", "all", "zero", "centre"): ("product",),
    ("images", "interior", "periodic", "centre"): ("product", "box"),
    ("images", "interior", "periodic", "average"): ("product",),
    ("images", "same", "periodic", "centre"): ("box",),
    ("images", "same", "periodic", "average"): ("box",),
    ("images", "same", "zero", "centre"): ("box",),
    ("images", "same", "zero", "average"): ("box",),
}
#: Patches a block, images a block of positions "same", and columns of training windows (images times width) that all
#: pixels meet at a time: 560 columns fit of images 28 wide and 576 of 32, multiples of 16, without which products slow
#: down (benchmarks/README.md).
PATCH_TARGET, SAME_TARGET, ROW_TARGET = 512, 32, 576
#: How many times those columns box sums of whole strips take on a CPU: a step is short there, and starting it costs as
#: much as in a longer one (benchmarks/README.md).
WHOLE_STRIP_FACTOR = 2
#: In float32 scores are compensated, or float64, below sigma^2 = factor * p^2 C * max|phi|^2. Above, plain sums err on
#: noised images by at most some 1e-5 of the range, with colour 2e-5 (benchmarks/README.md). "box" also rounds the sums
#: it carries.
SPLIT_FACTORS = {"convolution": 2.2e-3, "product": 2.2e-3, "box": 5.5e-3}
METHODS = ("auto", "convolution", "product", "box")


def _variant(bank: Any, boundary: str, readout: str) -> tuple[str, str | None, str, str]:
    if not isinstance(bank, (PatchBank, ImageBank)):
        raise TypeError(
            message("bank", "a PatchBank or an ImageBank", type(bank).__name__, "build one of the two")
        )
    check_option("boundary", boundary, ("periodic", "zero"))
    check_option("readout", readout, ("centre", "average"))
    kind, positions = ("patches", None) if isinstance(bank, PatchBank) else ("images", bank.positions)
    variant = (kind, positions, boundary, readout)
    if variant not in LEGAL:
        same_bank = [f"boundary={b!r}, readout={r!r}" for k, p, b, r in LEGAL if (k, p) == (kind, positions)]
        named = f"{type(bank).__name__}" + (f" with positions={positions!r}" if positions else "")
        expected = f"for a {named}: " + "; ".join(same_bank)
        got = f"boundary={boundary!r}, readout={readout!r}"
        raise ValueError(message("variant", expected, got, "choose a listed combination or another bank"))
    if readout == "centre":
        check(
            bank.size % 2 == 1,
            "size",
            "an odd window for readout='centre'",
            bank.size,
            "use readout='average'",
        )
    return variant


def available_methods(bank: PatchBank | ImageBank, *, boundary: str = "periodic", readout: str = "centre"):
    """List the evaluation methods that a variant has, all equal to round-off.

    Returns
    -------
    tuple of str
        Names that `patch_denoiser` accepts as ``method`` besides ``"auto"``.

    Raises
    ------
    ValueError
        If the combination of bank, boundary and readout is not a patch score model of THEORY section 2.

    Example
    -------
    >>> from critjax import two_pattern_bank
    >>> available_methods(two_pattern_bank(3))
    ('convolution', 'product')
    """
    return LEGAL[_variant(bank, boundary, readout)]


def _choose_method(bank: PatchBank | ImageBank, methods: tuple[str, ...]) -> str:
    """Pick the fastest method by the measured crossovers of benchmarks/routes.py."""
    if len(methods) == 1:
        return methods[0]
    if isinstance(bank, PatchBank):
        return "convolution" if bank.patches.shape[-4] <= PATCH_TARGET else "product"
    return "box" if bank.size**2 * bank.channels > 20 else "product"


def _choose_block(bank: PatchBank | ImageBank, block_size: int | None, times: int = 1) -> int:
    """Translate a number of candidates a block into patches or images a block; by default ``times`` the target."""
    if isinstance(bank, PatchBank):
        count, per_item, target = bank.patches.shape[-4], 1, PATCH_TARGET
    elif bank.positions == "same":
        count, per_item, target = bank.images.shape[-4], 1, SAME_TARGET
    else:
        count, height, width = bank.images.shape[-4:-1]
        lost = bank.size - 1 if bank.positions == "interior" else 0
        # All pixels meet one training row of the block at a time.
        per_item, target = (height - lost) * (width - lost), times * ROW_TARGET * (height - lost)
    if block_size is None:
        return least_overlap(count, target) if per_item == 1 else min(count, max(1, target // per_item))
    block_size = check_count("block_size", block_size, least=1, advice="it counts candidates a block")
    return min(count, max(1, block_size // per_item))


def _make_plan(bank, boundary, readout, method, block_size, mesh, axis) -> Plan:
    variant = _variant(bank, boundary, readout)
    check_option("method", method, METHODS)
    methods = LEGAL[variant]
    got = repr(method)
    check(
        method == "auto" or method in methods,
        "method",
        f"'auto' or one of {methods}",
        got,
        "use method='auto'",
    )
    chosen = _choose_method(bank, methods) if method == "auto" else method
    if mesh is not None:
        check(
            axis in mesh.axis_names, "axis", f"one of the mesh axes {mesh.axis_names}", repr(axis), "name it"
        )
    on_cpu = variant[1] in ("all", "interior") and _on_cpu()
    num_rows, strip = 0, bank.size
    block = derivative_block = _choose_block(bank, block_size)
    if variant[1] in ("all", "interior"):
        lost = bank.size - 1 if bank.positions == "interior" else 0
        num_rows = bank.images.shape[-3] - lost
        derivative_block = -(-block // 2)
        if chosen == "box" and on_cpu:
            strip = strip_width(bank.size, bank.channels, bank.images.shape[-2] - lost)
            if strip == bank.size:
                block = _choose_block(bank, block_size, WHOLE_STRIP_FACTOR)
    if mesh is not None:
        count = (bank.patches if isinstance(bank, PatchBank) else bank.images).shape[-4]
        block, derivative_block = (min(n, -(-count // mesh.shape[axis])) for n in (block, derivative_block))
    split_limit = SPLIT_FACTORS[chosen] * bank.size**2 * bank.channels
    blocks = block, derivative_block
    return Plan(*variant, chosen, bank.size, *blocks, split_limit, strip, num_rows, mesh, axis, on_cpu)


def _on_cpu() -> bool:
    """Tell whether programs are written for one CPU.

    Several devices may share a batch, which evaluation one after the other would gather on each.
    """
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def check_query(x: Any, sigma: Any) -> Any:
    """Check a noisy image and its noise level; return the latter in the dtype of the computation."""
    check_floating("x", x)
    check_finite("x", x)
    check_rank("x", x, "H W C")
    shape = tuple(jnp.shape(sigma))
    check(shape == (), "sigma", "a scalar", f"shape {shape}", "batch with jax.vmap")
    if is_concrete(sigma):
        check(float(sigma) > 0, "sigma", "a standard deviation > 0", float(sigma), "denoising needs noise")
    return on_host(sigma, jnp.result_type(x.dtype, jnp.float32))


def _check_inputs(plan: Plan, candidates: ArrayLike, x: Any, sigma: Any) -> Any:
    sigma, channels = check_query(x, sigma), candidates.shape[-1]
    got = f"shape {tuple(x.shape)}"
    check(
        x.shape[-1] == channels,
        "x",
        f"{channels} channels, like the bank",
        got,
        "match the channels",
    )
    if plan.positions == "same" or plan.boundary == "zero":
        grid = tuple(candidates.shape[-3:-1])
        check(
            tuple(x.shape[:2]) == grid,
            "x",
            f"height and width {grid} of the training images",
            got,
            "resize it",
        )
    check(
        min(x.shape[:2]) >= plan.size,
        "x",
        f"at least {plan.size} x {plan.size} pixels",
        got,
        "use a smaller window",
    )
    return sigma


def _denoise(plan: Plan, candidates: ArrayLike, log_prior: ArrayLike, x: Any, sigma: Any) -> Array:
    return _denoised(plan, candidates, log_prior, x, _check_inputs(plan, candidates, x, sigma))


def _count(plan: Plan, candidates: ArrayLike, log_prior: ArrayLike, x: Any, sigma: Any) -> Array:
    return _effective(plan, candidates, log_prior, x, _check_inputs(plan, candidates, x, sigma))


@functools.partial(jax.jit, static_argnums=0)
def _denoised(plan: Plan, candidates: Array, log_prior: Array, x: Array, sigma: Array) -> Array:
    mean = posterior(plan, x.astype(sigma.dtype), sigma, _as(sigma.dtype, candidates, log_prior)).mean
    if plan.readout == "average":
        shape = (x.shape[0], x.shape[1])
        mean = overlap_mean(mean, plan.size, x.shape[-1], shape, periodic=plan.boundary == "periodic")
    return mean.astype(x.dtype)


@functools.partial(jax.jit, static_argnums=0)
def _effective(plan: Plan, candidates: Array, log_prior: Array, x: Array, sigma: Array) -> Array:
    nats = entropy(plan, x.astype(sigma.dtype), sigma, _as(sigma.dtype, candidates, log_prior))
    return jnp.exp(nats).astype(x.dtype)


def _as(dtype: Any, candidates: Array, log_prior: Array) -> tuple[Array, Array]:
    return candidates.astype(dtype), log_prior.astype(dtype)


def _bound(function: Callable[..., Array], plan: Plan, bank: PatchBank | ImageBank) -> Partial:
    candidates = bank.patches if isinstance(bank, PatchBank) else bank.images
    return Partial(Static(function, plan), candidates, bank.log_prior)


def patch_denoiser(
    bank: PatchBank | ImageBank,
    *,
    boundary: str = "periodic",
    readout: str = "centre",
    method: str = "auto",
    block_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    axis: str | None = None,
) -> DenoiseFn:
    r"""Build the exact patch score denoiser of a bank.

    With ``x_i`` the window of the noisy image around pixel i,

    .. math::
        w_\mu(i) \propto \pi_\mu \exp(-|x_i - \phi_\mu|^2 / 2\sigma^2), \qquad D_i = \sum_\mu w_\mu(i)\, \phi_\mu(0)

    (``readout="centre"``), or the mean over the windows that cover i of their whole posterior-mean patch
    (``readout="average"``). All weights are exact softmaxes over the whole bank.

    Parameters
    ----------
    bank : PatchBank or ImageBank
        Candidates and prior. `PatchBank`: the same patches at every pixel. `ImageBank`: every patch (ELS, positions
        "all" or "interior") or the patch at the same position (LS, "same") of each training image.
    boundary : "periodic" or "zero"
        How windows continue beyond the image. "zero": padding is noiseless, so that border pixels are compared with
        training patches of the same distance to the border (positions "all"), or pixels outside drop out of the
        distance (positions "same").
    readout : "centre" or "average"
        Posterior mean of the patch centre, or average over covering windows. "centre" needs odd windows.
    method : "auto", "convolution", "product" or "box"
        Evaluation route, see `available_methods`; all agree to round-off. "auto" follows measured crossovers.
    block_size : int, optional
        Candidates a block; bounds memory, changes no number beyond round-off.
    mesh, axis : jax.sharding.Mesh and str, optional
        Distribute the bank over this mesh axis; running sums merge exactly.

    Returns
    -------
    DenoiseFn
        ``(x (H, W, C), sigma ()) -> (H, W, C)``, dtype of ``x``; batch with `jax.vmap`. A pytree over the arrays of
        the bank: banks of one shape share compiled programs. NaN where the (traced) prior excludes every candidate.

    Raises
    ------
    ValueError, TypeError
        On an illegal combination, an unknown option, or (at the call) an image that does not fit the bank.

    Notes
    -----
    Exact. Cost O(H W M p^2 C) for "product" and "convolution", M the number of candidates; for "box" on image banks
    O(H W M p C), or on a CPU O(H W M (w C + p / w)), with strips of training rows w <= p pixels wide, chosen for least
    cost, so that it hardly depends on p; each derivative costs what "product" does.
    Memory O(H W) times a block of patches, or times one training row of a block of images, independent of M, also in
    forward and reverse mode. In float32 the scores switch to compensated sums at low noise, and to float64 for the
    values of image banks (positions "all" and "interior") on a CPU. There `jax.vmap` evaluates these one image after
    the other, because one fills the cache. (Not where the CPU is several JAX devices, which may share a batch.)
    Derivatives with respect to image, sigma, patches and prior are exact and nest.
    Source: Kamb & Ganguli 2024, arXiv:2412.20292; Niedoba et al. 2024, arXiv:2411.19339 (average readout);
    THEORY section 2.

    Example
    -------
    >>> from critjax import two_pattern_bank
    >>> denoise = patch_denoiser(two_pattern_bank(3))
    >>> round(float(denoise(jnp.full((4, 4, 1), 0.5), 2.0)[0, 0, 0]), 4)  # tanh(9 * 0.5 / 4)
    0.8093
    """
    return _bound(_denoise, _make_plan(bank, boundary, readout, method, block_size, mesh, axis), bank)


def effective_patches(
    bank: PatchBank | ImageBank,
    *,
    boundary: str = "periodic",
    readout: str = "centre",
    method: str = "auto",
    block_size: int | None = None,
) -> Callable[..., Array]:
    r"""Build the function that counts how many candidates share the posterior: exp(entropy of the weights).

    Parameters
    ----------
    bank, boundary, readout, method, block_size
        As for `patch_denoiser`.

    Returns
    -------
    callable
        ``(x (H, W, C), sigma ()) -> (H, W)``, or one value a window for windows inside the image; between 1
        (condensed on one candidate) and M.

    Notes
    -----
    Two passes over the bank. Condensation: Biroli et al. 2024, arXiv:2402.18491; THEORY section 3.

    Example
    -------
    >>> from critjax import two_pattern_bank
    >>> count = effective_patches(two_pattern_bank(3))
    >>> round(float(count(jnp.zeros((4, 4, 1)), 2.0)[0, 0]), 6)
    2.0
    """
    return _bound(_count, _make_plan(bank, boundary, readout, method, block_size, None, None), bank)
