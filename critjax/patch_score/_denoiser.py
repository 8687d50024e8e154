"""Public entry points: which variants exist, and the denoisers built from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
    check_window,
    is_concrete,
    message,
    on_host,
)
from critjax._programs import Static, program
from critjax._typing import Array, ArrayLike, DenoiseFn
from critjax.banks import ImageBank, PatchBank
from critjax.patch_score._parts import estimate
from critjax.patch_score._plan import LEGAL, Plan
from critjax.patch_score._windows import overlap_mean

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


def _make_plan(
    bank, boundary, readout, method, memory_budget, mesh=None, axis=None, with_entropy=False
) -> Plan:
    variant = _variant(bank, boundary, readout)
    check_option("method", method, METHODS)
    methods = LEGAL[variant]
    expected = f"'auto' or one of {methods}"
    check(method == "auto" or method in methods, "method", expected, repr(method), "use method='auto'")
    if memory_budget is not None:
        memory_budget = check_count("memory_budget", memory_budget, least=1, advice="it counts bytes a block")
    if mesh is not None:
        expected = f"one of the mesh axes {mesh.axis_names}"
        check(axis in mesh.axis_names, "axis", expected, repr(axis), "name it")
    return Plan(*variant, bank.size, method, memory_budget, mesh, axis, with_entropy)


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


def _call_all(
    plans: tuple[Plan, ...], candidates: ArrayLike, log_prior: ArrayLike, x: Any, sigma: Any
) -> Any:
    for plan in plans:
        sigma = _check_inputs(plan, candidates, x, sigma)
    return _all(plans, candidates, log_prior, x, sigma)


@program(static_argnums=0)
def _denoised(plan: Plan, candidates: Array, log_prior: Array, x: Array, sigma: Array) -> Array:
    mean = estimate(plan, candidates, log_prior, x, sigma).mean
    if plan.readout == "average":
        shape = (x.shape[0], x.shape[1])
        mean = overlap_mean(mean, plan.size, x.shape[-1], shape, periodic=plan.boundary == "periodic")
    return mean.astype(x.dtype)


@program(static_argnums=0)
def _effective(plan: Plan, candidates: Array, log_prior: Array, x: Array, sigma: Array) -> Array:
    return jnp.exp(estimate(plan, candidates, log_prior, x, sigma).entropy).astype(x.dtype)


@program(static_argnums=0)
def _all(plans: tuple[Plan, ...], candidates: Array, log_prior: Array, x: Array, sigma: Array) -> Any:
    found = [estimate(plan, candidates, log_prior, x, sigma) for plan in plans]
    means = jnp.stack([one.mean for one in found]).astype(x.dtype)
    if not plans[0].with_entropy:
        return means
    return PatchEstimates(means, jnp.exp(jnp.stack([one.entropy for one in found])).astype(x.dtype))


def _bound(function: Callable[..., Array], plan: Plan, bank: PatchBank | ImageBank) -> Partial:
    candidates = bank.patches if isinstance(bank, PatchBank) else bank.images
    return Partial(Static(function, plan), candidates, bank.log_prior)


def patch_denoiser(
    bank: PatchBank | ImageBank,
    *,
    boundary: str = "periodic",
    readout: str = "centre",
    method: str = "auto",
    memory_budget: int | None = None,
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
    memory_budget : int, optional
        Bytes that one block of candidates may take, times the members of a batch of patch banks. Default: 16 MB on a
        CPU, what its cache holds, and 256 MB elsewhere. Changes no number beyond round-off.
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
    Exact, at every noise level. With M candidates and H W windows of the image, "product" and "convolution" cost
    O(H W M p^2 C), "box" O(H W M p C). With zero padding the windows inside meet each other alone,
    (H - p + 1)(W - p + 1) of each image. "auto" takes "box" for periodic images on a CPU and "product" on
    accelerators, chosen where the program runs. Derivatives cost two passes by "product". Memory O(H W) times a block,
    independent of M, also in forward and reverse mode.
    Scores are plain sums where their rounding cannot show, and split into an exact and a small part at lower noise. In
    float32 that part is rounded by about ``r^2 = 2^-26 (p^2 C)^(3/4) 2^-b``, in units of half the range squared, with
    b = (22 - log2 p^2 C)/2 bits of head: candidates whose scores differ by less than that are not told apart, and sigma
    counts as at least r (3e-5 at p = 7, 8e-4 at p = 45 with three channels).
    Half-precision images are computed in float32, and the result is rounded to their dtype.
    `jax.vmap` evaluates image banks one image after the other, because one keeps a processor busy; share a batch among
    devices by `critjax.sweeps.sweep`.
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
    return _bound(_denoise, _make_plan(bank, boundary, readout, method, memory_budget, mesh, axis), bank)


def effective_patches(
    bank: PatchBank | ImageBank,
    *,
    boundary: str = "periodic",
    readout: str = "centre",
    method: str = "auto",
    memory_budget: int | None = None,
) -> Callable[..., Array]:
    r"""Build the function that counts how many candidates share the posterior: exp(entropy of the weights).

    Parameters
    ----------
    bank, boundary, readout, method, memory_budget
        As for `patch_denoiser`.

    Returns
    -------
    callable
        ``(x (H, W, C), sigma ()) -> (H, W)``, or one value a window for windows inside the image; between 1
        (condensed on one candidate) and M.

    Notes
    -----
    One pass over the bank. Condensation: Biroli et al. 2024, arXiv:2402.18491; THEORY section 3.

    Example
    -------
    >>> from critjax import two_pattern_bank
    >>> count = effective_patches(two_pattern_bank(3))
    >>> round(float(count(jnp.zeros((4, 4, 1)), 2.0)[0, 0]), 6)
    2.0
    """
    plan = _make_plan(bank, boundary, readout, method, memory_budget, with_entropy=True)
    return _bound(_count, plan, bank)


def _check_sizes(sizes: Sequence[Any], grid: tuple[int, int]) -> tuple[int, ...]:
    found = tuple(check_window(size) for size in sizes)
    check(len(found) > 0, "sizes", "at least one window size", "none", "pass e.g. (3, 5, 7)")
    even = [size for size in found if size % 2 == 0]
    check(not even, "sizes", "odd windows, which have a centre", even, "use odd sizes")
    check(len(set(found)) == len(found), "sizes", "different window sizes", found, "list each size once")
    fits = f"windows that fit the {grid[0]} x {grid[1]} images"
    check(max(found) <= min(grid), "sizes", fits, max(found), "use smaller windows")
    return found


class PatchEstimates(NamedTuple):
    """What `patch_denoisers` finds with ``with_effective``, in the order of the sizes."""

    denoised: Array  # (sizes, H, W, C)
    effective: Array  # (sizes, H, W): exp(entropy of the weights)


def patch_denoisers(
    bank: PatchBank | ImageBank,
    sizes: Sequence[Any],
    *,
    boundary: str = "periodic",
    with_effective: bool = False,
    memory_budget: int | None = None,
) -> Callable[..., Any]:
    r"""Build the exact patch score denoisers of several window sizes, in one program.

    For every window size p in ``sizes``, with squared differences summed over channels,

    .. math::
        w_\mu(i) \propto \pi_\mu \exp\Big(-\frac{1}{2\sigma^2} \sum_{r \in \Omega_p} |x(i+r) - y_\mu(r)|^2\Big), \qquad
        D_i = \sum_\mu w_\mu(i)\, y_\mu(0),

    the same as ``patch_denoiser(ImageBank(images, p, positions=positions), boundary=boundary)``.

    Parameters
    ----------
    bank : ImageBank
        Training images (N, H, W, C), their prior, and which patches of each are candidates. The size of the bank itself
        is not used.
    sizes : sequence of int
        Different odd window sizes, at most ``min(H, W)``, in any order.
    boundary : "periodic" or "zero"
        How windows continue beyond the image, as for `patch_denoiser`; positions "interior" need "periodic".
    with_effective : bool
        Return exp(entropy of the weights) as well, at the cost of one more running sum.
    memory_budget : int, optional
        As for `patch_denoiser`.

    Returns
    -------
    callable
        ``(x (H, W, C), sigma ()) -> (len(sizes), H, W, C)`` in the order of ``sizes``, dtype of ``x``; with
        ``with_effective`` a NamedTuple of it, ``denoised``, and of the numbers of patches that share the posterior,
        ``effective`` (len(sizes), H, W). NaN where the prior excludes every image.

    Raises
    ------
    ValueError, TypeError
        On sizes that are even, repeated or too large, an illegal combination or option, another bank, or (at the call)
        an image whose shape is not that of the training images.

    Notes
    -----
    Exact; cost and memory are those of `patch_denoiser`, one size after the other. Identical patches count each time
    that they occur, as in a bank. Source: Kamb & Ganguli 2024, arXiv:2412.20292; THEORY section 2.

    Example
    -------
    >>> images = np.linspace(-1, 1, 2 * 6 * 5, dtype=np.float32).reshape(2, 6, 5, 1)
    >>> denoise = patch_denoisers(ImageBank(images, 1), (1, 3, 5))
    >>> denoise(np.zeros((6, 5, 1), np.float32), 0.5).shape
    (3, 6, 5, 1)
    """
    if not isinstance(bank, ImageBank):
        raise TypeError(
            message("bank", "an ImageBank", type(bank).__name__, "a list of patches has one size")
        )
    check_option("boundary", boundary, ("periodic", "zero"))
    check(
        ("images", bank.positions, boundary, "centre") in LEGAL,
        "boundary",
        f"'periodic' with positions={bank.positions!r}",
        repr(boundary),
        "choose positions='all' for noiseless padding",
    )
    height, width = bank.images.shape[-3:-1]
    sizes = _check_sizes(sizes, (height, width))
    plans = tuple(
        _make_plan(
            bank.replace(size=size),
            boundary,
            "centre",
            "auto",
            memory_budget,
            with_entropy=bool(with_effective),
        )
        for size in sizes
    )
    return Partial(Static(_call_all, plans), bank.images, bank.log_prior)
