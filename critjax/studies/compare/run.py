r"""The comparison study: a trained network, or any denoiser, beside patch models, the Gaussian model and the closure.

Three parts, saved one by one: ``measurement`` (`critjax.studies.measure` on the denoiser), ``patches`` (the same noisy
images through LS and ELS models of every window size, and the symbols of the best ones) and ``films`` (trajectories of
the denoiser, of the best patch models and of the ideal denoiser from the same noise).

THEORY section 7; Kamb & Ganguli 2024, arXiv:2412.20292.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping

import jax
import numpy as np
import xarray as xr

from critjax._typing import DenoiseFn
from critjax.banks import ImageBank
from critjax.eigenmodes import leading_modes
from critjax.patch_score import patch_denoisers
from critjax.studies._engine.cost import RUNTIME_BYTES, time_evaluation
from critjax.studies._engine.results import attributes
from critjax.studies._engine.run import Checkpoint, Progress, Run
from critjax.studies.compare.films import FILM_STEPS, follow
from critjax.studies.compare.patches import MODELS, PATCH_FIELDS, compare_patches, els_denoiser
from critjax.studies.compare.problem import Problem, load
from critjax.studies.compare.settings import CompareSettings, ResolvedCompare
from critjax.studies.measure import measure

__all__ = ["MODELS", "CompareSettings", "estimate_cost", "run"]

#: Ladder of the measurement.
_SPAN, _NUM_LADDER, _NUM_QUICK = (20.0, 0.05), 21, 9
#: Images of the network's timed batch.
_COST_BATCH = 8
_MODE_LEVELS = 4


def run(
    settings: CompareSettings | None = None,
    denoise_fn: DenoiseFn | None = None,
    *,
    size: int | None = None,
    progress: Progress | None = None,
    on_checkpoint: Checkpoint | None = None,
    saved: Mapping[str, xr.Dataset] | None = None,
) -> xr.Dataset:
    """Run the comparison and return everything as one labelled dataset.

    Parameters
    ----------
    settings : CompareSettings, optional
        What to do.
    denoise_fn : DenoiseFn, optional
        Your own denoiser ``(x (H, W, C), sigma) -> (H, W, C)`` with forward derivatives; default the network of the
        settings, whose name is otherwise a mere title.
    size : int, optional
        Side of the receptive field of your own denoiser, pixels, if it is bounded: helps the closure.
    progress : callable, optional
        ``(stage, done, total)``, for a progress bar.
    on_checkpoint : callable, optional
        ``(part, dataset)`` after every part, for saving.
    saved : mapping, optional
        Parts of an earlier, identical run; they are not run again.

    Returns
    -------
    xarray.Dataset
        The variables of `critjax.studies.measure.measure`, and on the axes ``model`` ("ELS", "LS"), ``size`` and
        ``level_sigma``:

        ``relative_error``
            ||D - D_p|| / ||D - mean of D||, norms over all pixels of all noised images; jackknife errors. Its square is
            the fraction of the output's variance that the patch model leaves unexplained.
        ``best_size``, ``best_size_low``, ``best_size_high``
            p* of the smallest error; and the smallest and largest size that is best when one image is left out.
        ``relative_error_ideal``, ``effective_images``
            The same of the ideal denoiser of the bank; exp(entropy) of its weights, geometric mean.
        ``loss``, ``loss_ideal``, ``loss_network``
            Mean squared error per pixel against the clean images.
        ``loss_advantage``
            Loss of a ``rival`` minus that of the network, mean over the same noised images with standard error: of the
            ELS and the LS model of the size with the smallest loss, and of the ideal denoiser.
        ``mean_jacobian_patch``, ``mean_jacobian_gaussian``
            Symbols (shells) of the nearest patch model, ELS or LS (`nearest_patch_models`), on the same noised images
            and of the Gaussian model with the spectrum of the bank. ``gap_*`` and ``xi_eq_*`` as in `measure`.

        and ``film`` with ``film_correlation``: pixelwise correlation of the network's denoised fields with those of the
        other two, from the same noise.

    Raises
    ------
    ValueError, FileNotFoundError
        If a setting is illegal or a file is missing.

    Notes
    -----
    THEORY section 7.

    Example
    -------
    >>> settings = CompareSettings(network="local-11", sizes=(5, 3))
    >>> settings.sizes  # windows of the patch models that ``run(settings)`` compares
    (3, 5)
    """
    full = (settings or CompareSettings()).resolved()
    run = Run(progress, on_checkpoint, saved)
    if denoise_fn is not None and full.network == CompareSettings.network:
        full = dataclasses.replace(full, network="own-denoiser")
    with run.stage("images"):
        problem = load(full, denoise_fn, size)
    parts: dict[str, xr.Dataset] = {}
    steps: dict[str, Callable[[], xr.Dataset]] = {
        "measurement": lambda: _measurement(problem, full, run.report),
        "patches": lambda: compare_patches(problem, full, run.report),
        "films": lambda: follow(problem, full, parts["patches"], run.report),
    }
    names = list(steps)

    def compute(number: int) -> xr.Dataset:
        with run.stage(names[number]):
            return steps[names[number]]()

    for name, part in zip(names, run.parts("parts", names, compute, shown=False), strict=False):
        parts[name] = part
    result = xr.merge(parts.values(), combine_attrs="drop", join="exact", compat="no_conflicts")
    for name in ("sigma", "level_sigma", "film_sigma", "mode_sigma"):
        if name in result:
            result[name].attrs["units"] = "image units (data in [-1, 1])"
    cost = {n: int(parts["measurement"].attrs[n]) for n in ("evaluations", "jacobian_products")}
    result.attrs = attributes(
        "compare",
        full.label,
        full,
        run.seconds,
        network=problem.description,
        seen=int(problem.seen),
        cost=json.dumps(cost),
    )
    return result


def _measurement(problem: Problem, settings: ResolvedCompare, report: Progress) -> xr.Dataset:
    found = measure(
        problem.denoise,
        problem.queries,
        sigmas=np.geomspace(*_SPAN, _NUM_QUICK if settings.quick else _NUM_LADDER),
        num_samples=settings.num_samples,
        probe_samples=settings.probe_samples,
        closure_samples=settings.closure_samples,
        size=problem.size,
        seed=settings.seed,
        progress=report,
    )
    if settings.num_modes:
        modes = eigenmodes(problem, settings, report)
        products = found.attrs["jacobian_products"] + modes.attrs["num_products"]
        found = found.merge(modes, combine_attrs="override").assign_attrs(jacobian_products=products)
    return found


def eigenmodes(problem: Problem, settings: ResolvedCompare, report: Progress) -> xr.Dataset:
    """Leading eigenmodes at one noised image, from high noise to low."""
    sigmas = np.geomspace(5.0, 0.2, _MODE_LEVELS)
    image = problem.queries[0]
    noise = np.asarray(jax.random.normal(jax.random.key(settings.seed), image.shape, image.dtype))
    found = []
    for number, sigma in enumerate(sigmas):
        report("eigenmodes", number, _MODE_LEVELS)
        x = image + sigma.astype(image.dtype) * noise
        found.append(leading_modes(problem.denoise, x, float(sigma), num_modes=settings.num_modes))
    report("eigenmodes", _MODE_LEVELS, _MODE_LEVELS)
    modes = np.stack([np.real(np.asarray(f.mode)).mean(-1) for f in found])
    values = np.stack([np.asarray(f.eigenvalue, np.complex128) for f in found])
    return xr.Dataset(
        {
            "mode": (("mode_sigma", "mode_number", "y", "x"), modes),
            "mode_eigenvalue": (("mode_sigma", "mode_number"), values.real),
            "mode_frequency": (("mode_sigma", "mode_number"), values.imag),
        },
        {"mode_sigma": sigmas},
        {"num_products": sum(int(f.num_products) for f in found)},
    )


def estimate_cost(settings: CompareSettings) -> dict[str, float]:
    """Predict wall time and memory of a run by timing the network and one pass of the patch models.

    Returns
    -------
    dict
        ``seconds`` in all, ``seconds_per_evaluation`` of a batch of the network, ``evaluations`` (of batches of the
        network), ``bytes`` resident at most, ``overhead`` seconds (compilation, figures), the last from experience.

    Example
    -------
    >>> cost = estimate_cost(CompareSettings(network="local-11", num_images=2, sizes=(3, 5)))
    >>> cost["seconds"] > cost["overhead"]
    True
    """
    full = settings.resolved()
    problem, sizes = load(full), tuple(full.sizes)
    shape, dtype = problem.bank.shape[1:], problem.bank.dtype
    network = time_evaluation(problem.denoise, (_COST_BATCH, *shape), dtype)
    patches = time_evaluation(
        patch_denoisers(ImageBank(problem.bank, sizes[0]), sizes, boundary="zero"), (1, *shape), dtype
    )
    middle = els_denoiser(problem.bank, sizes[len(sizes) // 2])
    single = time_evaluation(middle, (1, *shape), dtype)
    levels, queries = full.num_levels, full.num_queries
    samples, probes = full.num_samples, full.probe_samples
    ladder = _NUM_QUICK if full.quick else _NUM_LADDER
    # `measure` takes 12 products a field by default, three evaluations each, and 36 for the lowest modes of a square
    # image, which share passes and cost little more than one.
    products = 3 * 12 + 1.3 * 36
    evaluations = ladder * (3 * samples + full.closure_samples + products * probes) / _COST_BATCH
    # The directions of a field share passes: together eleven (windows of 3) to eighteen (of 19) evaluations.
    films = 2 * FILM_STEPS * full.num_films
    seconds = levels * queries * patches + (films + 14 * PATCH_FIELDS * levels) * single
    overhead = 40.0
    pairs = float(np.prod(problem.bank.shape))
    # 1.4 to 1.5 GB were seen with 200 images; nearly all of it is the compiler's and the figures'.
    return {
        "seconds": overhead + evaluations * network + seconds,
        "seconds_per_evaluation": network,
        "evaluations": evaluations,
        "bytes": RUNTIME_BYTES + 1100 * 2**20 + 40 * pairs * dtype.itemsize,
        "overhead": overhead,
    }
