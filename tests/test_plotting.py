"""Figures show the numbers of the dataset, mark the critical point, and can be told apart without colour."""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from test_report import SIGMA, drop, study

from critjax import plotting


def luminance(colour):
    red, green, blue = mpl.colors.to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def errorbars(axes):
    return [c for c in axes.containers if isinstance(c, mpl.container.ErrorbarContainer)]


@pytest.mark.parametrize("name", plotting.FIGURES)
def test_every_figure_has_units_and_the_noise_axis_runs_downward(name):
    figure = plotting.FIGURES[name].draw(study())
    figure.canvas.draw()
    for axes in figure.axes:
        if name == "film-strip":
            continue
        label = axes.get_xlabel()
        if "noise standard deviation" in label:
            left, right = axes.get_xlim()
            assert left > right and axes.get_xscale() == "log"
        if axes.get_ylabel() and axes.get_xlabel():
            assert label


def test_no_global_plotting_state():
    before = dict(mpl.rcParams)
    plotting.softest_mode_figure(study())
    assert dict(mpl.rcParams) == before
    for module in ("_style", "_spectral", "_fields", "_freeze_out"):
        source = Path(sys.modules[f"critjax.plotting.{module}"].__file__).read_text(encoding="utf-8")
        assert "import matplotlib.pyplot" not in source and "plt." not in source


def test_softest_mode_shows_theory_as_lines_and_measurement_as_points():
    dataset = study()
    axes = plotting.softest_mode_figure(dataset).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["bare theory"].get_ydata(), dataset.lambda_bare_softest)
    np.testing.assert_allclose(lines["Gaussian closure"].get_ydata(), dataset.lambda_closure_softest)
    assert lines["bare theory"].get_marker() in ("None", "", None)
    bars = errorbars(axes)
    assert len(bars) == 2
    np.testing.assert_allclose(bars[0].lines[0].get_ydata(), dataset.lambda_reg_softest)
    assert bars[0].lines[0].get_linestyle() == "None"
    segments = np.array(bars[0].lines[2][0].get_segments())
    half = (segments[:, 1, 1] - segments[:, 0, 1]) / 2
    np.testing.assert_allclose(half, dataset.lambda_reg_softest_error)
    np.testing.assert_allclose(bars[1].lines[0].get_ydata(), dataset.mean_jacobian_softest)


def test_null_model_is_on_the_same_axes_for_images():
    null = SIGMA**-2 / 4
    with_null = plotting.softest_mode_figure(study(lambda_null_softest=(("sigma",), null))).axes[0]
    line = {line.get_label(): line for line in with_null.lines}["Gaussian null model"]
    np.testing.assert_allclose(line.get_ydata(), null)
    without = plotting.softest_mode_figure(study()).axes[0]
    assert "Gaussian null model" not in {line.get_label() for line in without.lines}


def test_critical_points_are_marked_where_they_are():
    for kind in ("softest-mode", "linear-check", "correlation-length", "condensation"):
        axes = plotting.FIGURES[kind].draw(study()).axes[0]
        vertical = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1]
        assert {4.0, 2.0} <= {float(v) for v in vertical}, kind
    unmarked = plotting.softest_mode_figure(
        study(critical_sigma_bare=np.nan, critical_sigma_measured=np.nan)
    ).axes[0]
    assert not [line for line in unmarked.lines if len(set(line.get_xdata())) == 1]


def test_growth_rate_figure_draws_the_theoretical_zero_line():
    dataset = study()
    axes = plotting.growth_rate_figure(dataset).axes[0]
    contours = [c for c in axes.collections if isinstance(c, mpl.contour.ContourSet)]
    vertices = np.concatenate([path.vertices for path in contours[0].get_paths()])
    at_zero = vertices[np.argmin(vertices[:, 1])]
    assert at_zero[1] == 0 and at_zero[0] == pytest.approx(4.0, rel=0.01)
    measured = errorbars(axes)[0].lines[0]
    np.testing.assert_allclose(measured.get_xdata()[:2], dataset.lambda_reg_crossing[:2])


def test_structure_factor_compares_like_with_like():
    dataset = study()
    axes = plotting.structure_factor_figure(dataset).axes[0]
    theory = [line for line in axes.lines if len(line.get_xdata()) == 6 and line.get_linestyle() == "-"]
    measured = errorbars(axes)
    assert len(theory) == len(measured) >= 4
    for line, bars in zip(theory, measured, strict=True):
        assert line.get_color() is not None
        ratio = bars.lines[0].get_ydata() / line.get_ydata()
        expected = dataset.structure_factor_cleaned[0] / dataset.structure_factor_linear[0]
        np.testing.assert_allclose(ratio, expected)


def test_curves_differ_without_colour():
    """Each pair differs by line style, marker or luminance."""
    dataset = study(lambda_null_softest=(("sigma",), SIGMA**-2))
    for figure in (plotting.softest_mode_figure(dataset), plotting.correlation_length_figure(dataset)):
        looks = []
        for line in figure.axes[0].lines:
            if not line.get_label().startswith("_"):
                looks.append(
                    (str(line.get_linestyle()), str(line.get_marker()), round(luminance(line.get_color()), 1))
                )
        for bars in errorbars(figure.axes[0]):
            line = bars.lines[0]
            looks.append(
                (str(line.get_linestyle()), str(line.get_marker()), round(luminance(line.get_color()), 1))
            )
        assert len(set(looks)) == len(looks)


def test_film_shows_the_fields():
    dataset = study()
    figure = plotting.film_strip_figure(dataset)
    pictures = [axes.images[0].get_array() for axes in figure.axes]
    assert len(pictures) == 2 * 2 * 3
    np.testing.assert_allclose(pictures[0], dataset.film_x[0, 0, :, :, 0])
    np.testing.assert_allclose(pictures[3], dataset.film_denoised[0, 0, :, :, 0])


def test_colour_film_is_in_range():
    dataset = study()
    wide = np.random.default_rng(0).normal(size=(2, 3, 6, 6, 3)) * 3
    dims = ("film_sample", "film_sigma", "y", "x", "channel")
    dataset = drop(dataset, "film_x", "film_denoised").assign(film_x=(dims, wide), film_denoised=(dims, wide))
    picture = plotting.film_strip_figure(dataset).axes[0].images[0].get_array()
    assert picture.shape == (6, 6, 3) and picture.min() >= 0 and picture.max() <= 1


def test_figures_without_their_data_are_left_out():
    names = set(plotting.available_figures(study()))
    assert names == set(plotting.FIGURES)
    fewer = drop(study(), "draw_critical_uniform", "effective_patches")
    assert names - set(plotting.available_figures(fewer)) == {"bank-spread", "condensation"}
    nothing = study(effective_patches=np.nan)
    assert "condensation" not in plotting.available_figures(nothing)
