r"""The comparison study: a trained network, or any denoiser, beside patch models, the Gaussian model and the closure.

Three parts, saved one by one: ``measurement`` (`critjax.studies.measure` on the denoiser), ``patches`` (the same noisy
images through LS and ELS models of every window size, and the symbols of the best ones) and ``films`` (trajectories of
the denoiser, of the best patch models and of the ideal denoiser from the same noise).

>>> CompareSettings(network="local-11", sizes=(5, 3)).sizes
(3, 5)

THEORY section 7; Kamb & Ganguli 2024, arXiv:2412.20292.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from critjax._checks import check
from critjax._typing import Array, DenoiseFn
from critjax.banks import ImageBank
from critjax.closed_form import gaussian_symbol, ideal_denoiser, image_spectrum
from critjax.data import load_dataset
from critjax.eigenmodes import leading_modes
from critjax.noise import geometric_sigmas
from critjax.observables import fit_gap, radial_average
from critjax.patch_score import patch_denoiser, patch_denoisers, scheduled_denoiser
from critjax.sampling import sample
from critjax.spectra import leading_eigenvalue, measured_symbol
from critjax.studies._compare_settings import CompareSettings
from critjax.studies._cost import RUNTIME_BYTES, time_evaluation
from critjax.studies._versions import versions
from critjax.studies.measure import measure

__all__ = ["MODELS", "CompareSettings", "estimate_cost", "run", "settings_of"]

#: Patch models: positions of their patches -> name.
MODELS = {"all": "ELS", "same": "LS"}
SIGMA_MAX, SIGMA_MIN = 10.0, 0.1
#: Sampler of the films.
FILM_MAX, FILM_MIN, FILM_STEPS = 20.0, 0.1, 16
#: Ladder of the measurement.
_SPAN, _NUM_LADDER, _NUM_QUICK = (20.0, 0.05), 21, 9
#: Images of the network's timed batch.
_COST_BATCH = 8
_MODE_LEVELS = 4
#: Fields at which the Jacobian of the best patch model is probed: it costs far more than a network's.
_PATCH_PROBES = 4

Progress = Callable[[str, int, int], None]
#: ``(part, its dataset)``; called after every part.
Checkpoint = Callable[[str, xr.Dataset], None]


class _Problem(NamedTuple):
    denoise: DenoiseFn
    bank: Array
    queries: Array
    window: int | None
    """Receptive field, if it is known to be smaller than the image."""
    description: str


def _load(settings: CompareSettings, denoise_fn: DenoiseFn | None) -> _Problem:
    """Load network and images."""
    count, queries = settings.num_images or 0, settings.num_queries or 0
    wanted = count + max(queries, settings.num_samples or 0)
    found = load_dataset(settings.data)
    images = np.asarray(found.images[:wanted])
    least = count + queries
    advice = "lower num_images or pass more images"
    check(len(images) >= least, "data", f"at least {least} images", len(images), advice)
    expected = f"windows up to {min(images.shape[1:3])}"
    check(
        max(settings.sizes) <= min(images.shape[1:3]),
        "sizes",
        expected,
        max(settings.sizes),
        "use smaller ones",
    )
    description, window = "a denoiser that was passed", None
    if denoise_fn is None:
        from critjax.networks import load_network, network_denoiser

        stored = load_network(settings.network)
        config = stored.config
        check(
            images.shape[-1] == config.channels,
            "data",
            f"{config.channels} channels, those of the network",
            images.shape[-1],
            "pass images like those of training",
        )
        denoise_fn = network_denoiser(config, stored.params, settings.class_label)
        reach = config.receptive_field
        window = reach if reach and reach <= min(images.shape[1:3]) else None
        description = f"{config.architecture} network, receptive field {reach or 'unbounded'}"
    return _Problem(denoise_fn, jnp.asarray(images[:count]), jnp.asarray(images[count:]), window, description)


def run(
    settings: CompareSettings | None = None,
    denoise_fn: DenoiseFn | None = None,
    *,
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
        settings.
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
        ``mean_jacobian_patch``, ``mean_jacobian_gaussian``
            Symbols (shells) of the best ELS model on the same noised images and of the Gaussian model with the spectrum
            of the bank; ``gap_*`` and ``xi_eq_*`` from their lowest shells.

        and ``film`` with ``film_correlation``: pixelwise correlation of the network's denoised fields with those of the
        other two, from the same noise. Interrupted after the first part it holds the parts that are done.

    Raises
    ------
    ValueError, FileNotFoundError
        If a setting is illegal or a file is missing.
    KeyboardInterrupt
        If interrupted before the first part was done.

    Notes
    -----
    THEORY section 7.
    """
    settings = (settings or CompareSettings()).resolved()
    report = progress or (lambda stage, done, total: None)
    started = time.perf_counter()
    problem = _load(settings, denoise_fn)
    parts: dict[str, xr.Dataset] = {}
    status, seconds = "complete", {}
    steps: dict[str, Callable[[], xr.Dataset]] = {
        "measurement": lambda: _measurement(problem, settings, report),
        "patches": lambda: _patches(problem, settings, report),
        "films": lambda: _films(problem, settings, parts["patches"], report),
    }
    for name, step in steps.items():
        try:
            if saved and name in saved:
                parts[name] = saved[name]
                continue
            began = time.perf_counter()
            parts[name] = step()
            seconds[name] = round(time.perf_counter() - began, 1)
            if on_checkpoint is not None:
                on_checkpoint(name, parts[name])
        except KeyboardInterrupt:
            if not parts:
                raise
            status = "interrupted"
            break
    result = xr.merge(parts.values(), combine_attrs="drop", join="exact", compat="no_conflicts")
    for name in ("sigma", "level_sigma", "film_sigma", "mode_sigma"):
        if name in result:
            result[name].attrs["units"] = "image units (data in [-1, 1])"
    result.attrs = {
        "study": "compare",
        "title": f"critjax compare: {settings.label}",
        "settings": settings.to_json(),
        "status": status,
        "network": problem.description,
        "cost": json.dumps({k: parts["measurement"].attrs[k] for k in ("evaluations", "jacobian_products")}),
        "versions": json.dumps(versions()),
        "seconds": json.dumps({**seconds, "all": round(time.perf_counter() - started, 1)}),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return result


def _measurement(problem: _Problem, settings: CompareSettings, report: Progress) -> xr.Dataset:
    found = measure(
        problem.denoise,
        problem.queries,
        sigmas=np.geomspace(*_SPAN, _NUM_QUICK if settings.quick else _NUM_LADDER),
        num_samples=settings.num_samples or 0,
        probe_samples=settings.probe_samples or 0,
        closure_samples=settings.closure_samples,
        window=problem.window,
        seed=settings.seed,
        progress=report,
    )
    if settings.num_modes:
        found = found.merge(_modes(problem, settings, report), combine_attrs="override")
    return found


def _modes(problem: _Problem, settings: CompareSettings, report: Progress) -> xr.Dataset:
    """Leading eigenmodes at one noised image, from high noise to low."""
    sigmas = np.geomspace(5.0, 0.2, _MODE_LEVELS)
    noise = jax.random.normal(jax.random.key(settings.seed), problem.queries.shape[1:])
    found = []
    for number, sigma in enumerate(sigmas):
        report("eigenmodes", number, _MODE_LEVELS)
        x = problem.queries[0] + float(sigma) * noise
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
    )


def _patches(problem: _Problem, settings: CompareSettings, report: Progress) -> xr.Dataset:
    """Put the same noised images through the network, all patch models and the ideal denoiser."""
    sizes, bank = tuple(settings.sizes), problem.bank
    clean = problem.queries[: settings.num_queries]
    levels = np.geomspace(SIGMA_MAX, SIGMA_MIN, settings.num_levels or 0)
    models = {name: patch_denoisers(bank, sizes, positions=p, boundary="zero") for p, name in MODELS.items()}

    @jax.jit
    def through(x: Array, sigma: Array) -> dict[str, Array]:
        found = {name: denoise(x, sigma) for name, denoise in models.items()}
        weights = jax.nn.softmax(-0.5 * jnp.sum((bank - x) ** 2, axis=(1, 2, 3)) / sigma**2)
        entropy = -jnp.sum(jax.scipy.special.xlogy(weights, weights))
        ideal = jnp.tensordot(weights, bank, 1)
        return {**found, "ideal": ideal, "entropy": entropy, "network": problem.denoise(x, sigma)}

    rows: dict[str, list[np.ndarray]] = {}
    noised = []
    for number, sigma in enumerate(levels):
        key = jax.random.fold_in(jax.random.key(settings.seed), 1000 + number)
        x = clean + float(sigma) * jax.random.normal(key, clean.shape, clean.dtype)
        noised.append(x)
        found = []
        for query, image in enumerate(x):
            report("patches", number * len(x) + query, len(levels) * len(x))
            found.append(jax.tree.map(np.asarray, through(image, jnp.asarray(sigma, x.dtype))))
        for name in found[0]:
            rows.setdefault(name, []).append(np.stack([f[name] for f in found]))
    report("patches", len(levels) * len(clean), len(levels) * len(clean))
    variables = _errors({n: np.stack(v) for n, v in rows.items()}, np.asarray(clean), sizes)
    best = np.asarray(variables["best_size"][1])[0].astype(int)
    variables.update(_symbols(problem, noised, levels, best, settings, report))
    coordinates = {"model": list(MODELS.values()), "size": list(sizes), "level_sigma": levels}
    return xr.Dataset(variables, coordinates)


def _errors(rows: dict[str, np.ndarray], clean: np.ndarray, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Relative errors between network and models, the best sizes, and losses; rows (level, query, ...)."""
    network = rows["network"].astype(np.float64)
    pixels = tuple(range(2, network.ndim))

    def unexplained(difference: np.ndarray, total: np.ndarray) -> np.ndarray:
        return np.sqrt(difference.sum(1) / total.sum(1)[(...,) + (None,) * (difference.ndim - 2)])

    def with_jackknife(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Value, standard error and values with one query left out (query first); difference (level, query, ...)."""
        value, count = unexplained(difference, variance), difference.shape[1]
        left = np.stack(
            [unexplained(np.delete(difference, i, 1), np.delete(variance, i, 1)) for i in range(count)]
        )
        return value, np.sqrt((count - 1) / count * ((left - left.mean(0)) ** 2).sum(0)), left

    # About the mean over queries and pixels: a constant image explains nothing.
    centre = network.mean(axis=(1, *pixels), keepdims=True)
    variance = ((network - centre) ** 2).sum(pixels)
    patches = np.stack([rows[name] for name in MODELS.values()], axis=2).astype(np.float64)
    difference = ((patches - network[:, :, None, None]) ** 2).sum(
        axis=(-3, -2, -1)
    )  # level, query, model, size
    error, spread, left = with_jackknife(difference)
    ideal, ideal_error, _ = with_jackknife(((rows["ideal"] - network) ** 2).sum(pixels))
    best = np.asarray(sizes)[error.argmin(-1)]
    others = np.asarray(sizes)[left.argmin(-1)]  # query, level, model
    loss = ((patches - clean[None, :, None, None]) ** 2).mean(axis=(-3, -2, -1))
    dims = ("model", "level_sigma", "size")

    def first(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, 1, 0)

    count = loss.shape[1]
    result = {
        "relative_error": (dims, first(error)),
        "relative_error_error": (dims, first(spread)),
        "best_size": (("model", "level_sigma"), first(best)),
        "best_size_low": (("model", "level_sigma"), first(others.min(0))),
        "best_size_high": (("model", "level_sigma"), first(others.max(0))),
        "relative_error_ideal": (("level_sigma",), ideal),
        "relative_error_ideal_error": (("level_sigma",), ideal_error),
        "effective_images": (("level_sigma",), np.exp(rows["entropy"].mean(1))),
        "loss": (dims, first(loss.mean(1))),
        "loss_error": (dims, first(loss.std(1, ddof=1) / np.sqrt(count))),
    }
    for name in ("network", "ideal"):
        values = ((rows[name] - clean) ** 2).mean(pixels)
        result[f"loss_{name}"] = (("level_sigma",), values.mean(1))
        result[f"loss_{name}_error"] = (("level_sigma",), values.std(1, ddof=1) / np.sqrt(count))
    return result


def _symbols(problem, noised, levels, best, settings, report) -> dict[str, Any]:
    """Symbols of the best ELS model at every level, by probes, and of the Gaussian model."""
    spectrum = image_spectrum(problem.bank)
    gaussian_fn = gaussian_symbol(spectrum)
    programs: dict[int, Any] = {}
    rows: dict[str, list[Any]] = {}
    for number, (sigma, size) in enumerate(zip(levels, best, strict=True)):
        report("symbols", number, len(levels))
        if size not in programs:
            denoise = patch_denoiser(ImageBank(problem.bank, int(size), positions="all"), boundary="zero")

            def one(x: Array, sigma: Array, key: Array, denoise: DenoiseFn = denoise) -> tuple[Array, Array]:
                uniform = jax.jvp(lambda y: denoise(y, sigma), (x,), (jnp.ones_like(x),))[1].mean()
                found = measured_symbol(denoise, x[None], sigma, key, num_probes=2)
                return leading_eigenvalue(found.symbol).real, uniform

            programs[size] = jax.jit(one)
        fields = noised[number][:_PATCH_PROBES]
        keys = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), 2000 + number), len(fields))
        found = [programs[size](x, jnp.asarray(sigma, x.dtype), k) for x, k in zip(fields, keys, strict=True)]
        symbols, uniform = (
            np.stack([np.asarray(part, np.float64) for part in p]) for p in zip(*found, strict=True)
        )
        gaussian = leading_eigenvalue(gaussian_fn(jnp.asarray(sigma, spectrum.real.dtype))).real
        mean, error = symbols.mean(0), symbols.std(0, ddof=1) / np.sqrt(len(symbols))
        mean[0, 0], error[0, 0] = uniform.mean(), uniform.std(ddof=1) / np.sqrt(len(uniform))
        shells = np.asarray(jax.vmap(radial_average)(jnp.asarray(symbols)))
        shell_mean, shell_error = shells.mean(0), shells.std(0, ddof=1) / np.sqrt(len(shells))
        shell_mean[0], shell_error[0] = mean[0, 0], error[0, 0]
        fits = {
            "patch": fit_gap(jnp.asarray(mean), jnp.asarray(np.maximum(error, 1e-7))),
            "gaussian": fit_gap(gaussian),
        }
        row = {
            "mean_jacobian_patch": shell_mean,
            "mean_jacobian_patch_error": shell_error,
            "mean_jacobian_gaussian": np.asarray(radial_average(gaussian)),
        }
        for name, fit in fits.items():
            row |= {f"gap_{name}": float(fit.gap), f"xi_eq_{name}": float(fit.correlation_length)}
        row |= {"gap_patch_error": float(fits["patch"].gap_error)}
        row |= {"xi_eq_patch_error": float(fits["patch"].correlation_length_error)}
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    report("symbols", len(levels), len(levels))
    return {
        name: (("level_sigma", "wavenumber") if np.ndim(values[0]) else ("level_sigma",), np.stack(values))
        for name, values in rows.items()
    }


def _films(problem: _Problem, settings: CompareSettings, patches: xr.Dataset, report: Progress) -> xr.Dataset:
    """Follow network, patch models of the best size at every noise, and ideal denoiser from the same noise."""
    best = patches["best_size"].sel(model="ELS").values.astype(int)
    levels = patches["level_sigma"].values
    changes = np.flatnonzero(np.diff(best))
    edges = np.sqrt(levels[changes] * levels[changes + 1])
    sizes = [int(size) for size in best[np.append(changes, len(best) - 1)]]
    models = [
        patch_denoiser(ImageBank(problem.bank, size, positions="all"), boundary="zero") for size in sizes
    ]
    following = scheduled_denoiser(models, edges) if len(models) > 1 else models[0]
    denoisers = {"network": problem.denoise, "ELS at p*": following, "ideal": ideal_denoiser(problem.bank)}
    sigmas = geometric_sigmas(FILM_MAX, FILM_MIN, FILM_STEPS, dtype=problem.bank.dtype)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), 3000), settings.num_films or 0)
    height, width, channels = problem.bank.shape[1:]
    rows = []
    for row, (_, denoise) in enumerate(denoisers.items()):
        follow = jax.jit(
            lambda key, denoise=denoise: sample(denoise, key, (height, width, channels), sigmas).denoised
        )
        found = []
        for number, key in enumerate(keys):
            report("films", row * len(keys) + number, len(denoisers) * len(keys))
            found.append(np.asarray(follow(key)))
        rows.append(np.stack(found))
    report("films", len(denoisers) * len(keys), len(denoisers) * len(keys))
    films = np.stack(rows)  # denoiser, sample, level, H, W, C
    flat = films.reshape(*films.shape[:3], -1)
    flat = flat - flat.mean(-1, keepdims=True)
    norm = np.sqrt((flat**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (flat[:1] * flat).sum(-1) / (norm[:1] * norm)  # NaN for uniform fields
    others = slice(1, None)
    count = correlation.shape[1]
    # Of the final images: how much of the variance of the network's pixels the other model explains.
    left_over = ((films[others, :, -1] - films[:1, :, -1]) ** 2).sum(axis=(-3, -2, -1)) / norm[0, :, -1] ** 2
    return xr.Dataset(
        {
            "film": (("film_row", "film_sample", "film_sigma", "y", "x", "channel"), films),
            "film_correlation": (("film_other", "film_sigma"), correlation[others].mean(1)),
            "film_correlation_error": (
                ("film_other", "film_sigma"),
                correlation[others].std(1, ddof=1) / np.sqrt(count),
            ),
            "film_explained": (("film_other", "film_sample"), 1 - left_over),
        },
        {
            "film_row": list(denoisers),
            "film_other": list(denoisers)[1:],
            "film_sigma": np.asarray(sigmas, np.float64),
        },
    )


def estimate_cost(settings: CompareSettings) -> dict[str, float]:
    """Predict wall time and memory of a run by timing the network and one pass of the patch models.

    Returns
    -------
    dict
        ``seconds`` in all, ``seconds_per_evaluation`` of a batch of the network, ``evaluations`` (of batches of the
        network), ``bytes`` resident at most, ``overhead`` seconds (compilation, figures), the last from experience.
    """
    settings = settings.resolved()
    problem, sizes = _load(settings, None), tuple(settings.sizes)
    shape, dtype = problem.bank.shape[1:], problem.bank.dtype
    network = time_evaluation(problem.denoise, (_COST_BATCH, *shape), dtype)
    patches = time_evaluation(patch_denoisers(problem.bank, sizes), (1, *shape), dtype)
    middle = patch_denoiser(ImageBank(problem.bank, sizes[len(sizes) // 2], positions="all"), boundary="zero")
    single = time_evaluation(middle, (1, *shape), dtype)
    levels, queries = settings.num_levels or 0, settings.num_queries or 0
    samples, probes = settings.num_samples or 0, settings.probe_samples or 0
    ladder = _NUM_QUICK if settings.quick else _NUM_LADDER
    # A Jacobian-vector product costs some three evaluations, and probes go field by field.
    evaluations = ladder * (3 * samples + settings.closure_samples + 3 * 16 * probes) / _COST_BATCH
    films = 2 * FILM_STEPS * (settings.num_films or 0)
    seconds = levels * queries * patches + (films + 9 * _PATCH_PROBES * levels) * single
    overhead = 100.0
    pairs = float(np.prod(problem.bank.shape))
    return {
        "seconds": overhead + evaluations * network + seconds,
        "seconds_per_evaluation": network,
        "evaluations": evaluations,
        "bytes": RUNTIME_BYTES + 400 * 2**20 + 40 * pairs * dtype.itemsize,
        "overhead": overhead,
    }


def settings_of(dataset: xr.Dataset) -> CompareSettings:
    """Read the settings back from a result, to repeat its run.

    Raises
    ------
    ValueError
        If the dataset carries no settings of this study.
    """
    good = dataset.attrs.get("study") == "compare" and "settings" in dataset.attrs
    check(good, "dataset", "a result of the comparison study", sorted(dataset.attrs), "pass its results.nc")
    return CompareSettings.from_json(str(dataset.attrs["settings"]))
