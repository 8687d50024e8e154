"""Figures show the numbers of the dataset, mark the critical point, and can be told apart without colour."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from test_report import SIGMA, drop, study

from critjax import studies
from critjax.plotting import style
from critjax.report import figure_png
from critjax.studies.criticality import figures_fields, figures_spectral
from critjax.studies.criticality.figures import FIGURES


def luminance(colour):
    red, green, blue = mpl.colors.to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def errorbars(axes):
    return [c for c in axes.containers if isinstance(c, mpl.container.ErrorbarContainer)]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_units_and_the_noise_axis_runs_downward(name):
    figure = FIGURES[name].draw(study())
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
    figures_spectral.softest_mode_figure(study())
    assert dict(mpl.rcParams) == before
    package = Path(studies.__file__).parent
    for path in (Path(style.__file__), *package.glob("*/figures*.py"), *package.glob("*/marks.py")):
        source = path.read_text(encoding="utf-8")
        assert "import matplotlib.pyplot" not in source and "plt." not in source


#: What a matplotlibrc can do to a figure.
HOSTILE = {
    "image.origin": "lower",
    "text.usetex": True,
    "axes.prop_cycle": mpl.cycler(color=["yellow"]),
    "axes.formatter.use_locale": True,
    "axes.unicode_minus": False,
    "axes.xmargin": 0.4,
    "font.family": ["no such font"],
    "savefig.format": "pdf",
    "savefig.transparent": True,
    "savefig.bbox": "tight",
    "savefig.facecolor": "black",
    "figure.facecolor": "black",
    "figure.dpi": 5,
    "figure.constrained_layout.use": False,
    "lines.linewidth": 0.0,
    "lines.marker": "o",
    "xtick.labelsize": 40,
    "legend.loc": "center",
    "path.sketch": (5, 10, 1),
    "toolbar": "None",
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_matplotlibrc_changes_a_figure(name):
    dataset = study()
    expected = figure_png(FIGURES[name].draw(dataset), 40)
    with mpl.rc_context(HOSTILE):
        assert figure_png(FIGURES[name].draw(dataset), 40) == expected


def test_softest_mode_shows_theory_as_lines_and_measurement_as_points():
    dataset = study()
    axes = figures_spectral.softest_mode_figure(dataset).axes[0]
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
    with_null = figures_spectral.softest_mode_figure(study(lambda_null_softest=(("sigma",), null))).axes[0]
    line = {line.get_label(): line for line in with_null.lines}["Gaussian null model"]
    np.testing.assert_allclose(line.get_ydata(), null)
    without = figures_spectral.softest_mode_figure(study()).axes[0]
    assert "Gaussian null model" not in {line.get_label() for line in without.lines}


def test_critical_points_are_marked_where_they_are():
    for kind in ("softest-mode", "linear-check", "correlation-length", "condensation"):
        axes = FIGURES[kind].draw(study()).axes[0]
        vertical = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1]
        assert {4.0, 2.0, 2.01} <= {float(v) for v in vertical}, kind
    nowhere = dict.fromkeys((f"critical_sigma_{n}" for n in ("bare", "closure", "measured")), np.nan)
    unmarked = figures_spectral.softest_mode_figure(study(**nowhere)).axes[0]
    assert not [line for line in unmarked.lines if len(set(line.get_xdata())) == 1]


def shaded(axes):
    """Ranges of noise (high, low) marked as unstable, in order, and the names in the legend."""
    bands = [p for p in axes.patches if isinstance(p, mpl.patches.Rectangle) and p.get_y() == 0]
    bands = [p for p in bands if p.get_height() == 1 and p.get_transform() != axes.transData]
    ends = [sorted((p.get_x(), p.get_x() + p.get_width()), reverse=True) for p in bands]
    return ends, [p.get_label() for p in bands if not p.get_label().startswith("_")]


AGAINST_NOISE = ("softest-mode", "growth-rate", "linear-check", "correlation-length")


@pytest.mark.parametrize("kind", AGAINST_NOISE)
def test_figures_of_bare_theory_are_shaded_where_the_uniform_state_is_unstable(kind):
    draw = FIGURES[kind].draw
    ends, names = shaded(draw(study()).axes[0])
    assert names == ["uniform state unstable"]
    # The rate passes zero at 4: between two levels, linear in the logarithm.
    assert len(ends) == 1 and ends[0] == pytest.approx([4.0, SIGMA[-1]], rel=0.01)
    above, below = SIGMA[SIGMA > 3.0][-1], SIGMA[SIGMA < 3.0][0]
    twice = np.where((SIGMA < 3.0) & (SIGMA > 1.0), 0.3, np.where(SIGMA < 0.6, 0.1, -0.1))
    ends, names = shaded(draw(study(homogeneous_growth_rate=twice)).axes[0])
    assert len(ends) == 2 and names == ["uniform state unstable"]
    assert ends[0][0] == pytest.approx(above * (below / above) ** 0.25)
    assert ends[1] == pytest.approx([0.6, SIGMA[-1]], rel=0.1)
    assert shaded(draw(study(homogeneous_growth_rate=0.5)).axes[0])[0] == [
        pytest.approx([SIGMA[0], SIGMA[-1]])
    ]
    assert shaded(draw(study(homogeneous_growth_rate=-0.5)).axes[0]) == ([], [])
    assert shaded(draw(drop(study(), "homogeneous_growth_rate")).axes[0]) == ([], [])


def legend_names(figure):
    """Names in the legend below a figure."""
    return {text.get_text() for text in figure.legends[0].get_texts()}


def test_structure_factors_of_an_unstable_state_are_dotted():
    def styles(dataset):
        figure = figures_spectral.structure_factor_figure(dataset)
        lines = figure.axes[0].lines
        drawn = [line for line in lines if len(line.get_xdata()) == 6 and line.get_linestyle() in "-:"]
        return [line.get_linestyle() for line in drawn], legend_names(figure)

    dotted = "the same, uniform state unstable"
    kinds, names = styles(study())  # levels at sigma^2/16 = 4, 2, about 1, 0.5, 0.2
    assert kinds[:2] == ["-", "-"] and kinds[-2:] == [":", ":"] and dotted in names
    for stable in (study(homogeneous_growth_rate=-0.1), drop(study(), "homogeneous_growth_rate")):
        kinds, names = styles(stable)
        assert set(kinds) == {"-"} and dotted not in names


@pytest.mark.parametrize("closure", [9.0, 3.8, 2.2, 2.001, 1.9, 0.5, np.nan])
def test_names_of_critical_points_never_overlap(closure):
    figure = figures_spectral.softest_mode_figure(study(critical_sigma_closure=closure))
    figure.canvas.draw()
    axes = figure.axes[0]
    names = [text for text in axes.texts if r"\sigma_c" in text.get_text() or "reg" in text.get_text()]
    assert len(names) == (3 if np.isfinite(closure) else 2)
    boxes = [text.get_window_extent() for text in (*names, axes._left_title)]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    for name in names:  # each at its own line
        line = axes.transData.transform((name.xy[0], 0))[0]
        box = name.get_window_extent()
        assert box.x0 - 6 <= line <= box.x1 + 6


def test_growth_rate_figure_draws_the_theoretical_zero_line():
    dataset = study()
    axes = figures_spectral.growth_rate_figure(dataset).axes[0]
    contours = [c for c in axes.collections if isinstance(c, mpl.contour.ContourSet)]
    vertices = np.concatenate([path.vertices for path in contours[0].get_paths()])
    at_zero = vertices[np.argmin(vertices[:, 1])]
    assert at_zero[1] == 0 and at_zero[0] == pytest.approx(4.0, rel=0.01)
    measured = errorbars(axes)[0].lines[0]
    np.testing.assert_allclose(measured.get_xdata()[:2], dataset.lambda_reg_crossing[:2])


def test_structure_factor_compares_like_with_like():
    dataset = study()
    axes = figures_spectral.structure_factor_figure(dataset).axes[0]
    theory = [line for line in axes.lines if len(line.get_xdata()) == 6 and line.get_linestyle() in "-:"]
    measured = errorbars(axes)
    assert len(theory) == len(measured) >= 4
    for line, bars in zip(theory, measured, strict=True):
        assert line.get_color() is not None
        ratio = bars.lines[0].get_ydata() / line.get_ydata()
        expected = dataset.structure_factor_cleaned[0] / dataset.structure_factor_linear[0]
        np.testing.assert_allclose(ratio, expected)


def test_closure_is_dashed_beside_linear_theory():
    dataset = study()
    figure = figures_spectral.structure_factor_figure(dataset)
    axes = figure.axes[0]
    dashed = [line for line in axes.lines if len(line.get_xdata()) == 6 and line.get_linestyle() == "--"]
    solid = [line for line in axes.lines if len(line.get_xdata()) == 6 and line.get_linestyle() in "-:"]
    assert len(dashed) == len(solid) >= 4
    for closure, linear in zip(dashed, solid, strict=True):
        assert closure.get_color() is not None and np.array_equal(closure.get_color(), linear.get_color())
        expected = dataset.structure_factor_closure[0] / dataset.structure_factor_linear[0]
        np.testing.assert_allclose(closure.get_ydata() / linear.get_ydata(), expected)
    assert {"linear theory", "Gaussian closure"} <= legend_names(figure)
    check = figures_spectral.linear_check_figure(dataset).axes[0]
    curves = [line for line in check.lines if len(line.get_xdata()) == 24 and line.get_linestyle() == "--"]
    assert len(curves) == 10
    np.testing.assert_allclose(curves[3].get_ydata(), dataset.closure_ratio[:, 3])
    lengths = {
        line.get_label(): line for line in figures_fields.correlation_length_figure(dataset).axes[0].lines
    }
    swept = lengths["second moment, closure"]
    np.testing.assert_allclose(swept.get_ydata(), dataset.xi_second_moment_closure)
    assert swept.get_linestyle() == "--"
    without = drop(dataset, "structure_factor_closure", "closure_ratio")
    assert "Gaussian closure" not in legend_names(figures_spectral.structure_factor_figure(without))


def test_equilibrium_length_is_measured_beside_its_theory():
    lengths = np.where(SIGMA > 3.0, 1e3, 1.5)
    both = {"xi_eq_measured": (("sigma",), lengths), "xi_eq_measured_error": (("sigma",), lengths / 3)}
    figures = [figures_fields.correlation_length_figure(dataset) for dataset in (study(), study(**both))]
    before, after = (errorbars(figure.axes[0]) for figure in figures)
    assert len(after) == len(before) + 1 and "xi_{eq}" in after[-1].get_label()
    np.testing.assert_allclose(after[-1].lines[0].get_ydata(), np.where(SIGMA > 3.0, np.nan, 1.5))
    segments = np.array([s for s in after[-1].lines[2][0].get_segments() if len(s)])
    np.testing.assert_allclose(segments[:, 1, 1] - segments[:, 0, 1], 1.0)
    assert figures[0].axes[0].get_ylim() == figures[1].axes[0].get_ylim()


def test_gaussianity_shows_the_measured_kurtosis_the_closure_and_three():
    dataset = study()
    axes = figures_fields.gaussianity_figure(dataset).axes[0]
    bars = errorbars(axes)[0]
    np.testing.assert_allclose(bars.lines[0].get_ydata(), dataset.soft_kurtosis)
    segments = np.array(bars.lines[2][0].get_segments())
    np.testing.assert_allclose((segments[:, 1, 1] - segments[:, 0, 1]) / 2, 0.03)
    lines = {line.get_label(): line for line in axes.lines}
    closure = lines["closure, first order beyond Gaussian"]
    np.testing.assert_allclose(closure.get_ydata(), dataset.kurtosis_closure)
    level = [line for line in axes.lines if set(line.get_ydata()) == {3.0} and len(line.get_ydata()) == 2]
    assert level and "Gaussian" in {text.get_text() for text in axes.texts}
    band = next(c for c in axes.collections if len(c.get_paths()[0].vertices) > 2 * len(SIGMA))
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(3.05) and heights.min() == pytest.approx(0.45)


def test_curves_differ_without_colour():
    """Each pair differs by line style, marker or luminance."""
    dataset = study(lambda_null_softest=(("sigma",), SIGMA**-2))
    for figure in (
        figures_spectral.softest_mode_figure(dataset),
        figures_fields.correlation_length_figure(dataset),
    ):
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
    dataset = drop(study(), "film_reduced", "film_closure")
    figure = figures_fields.film_strip_figure(dataset)
    pictures = [axes.images[0].get_array() for axes in figure.axes]
    assert len(pictures) == 2 * 2 * 3
    np.testing.assert_allclose(pictures[0], dataset.film_x[0, 0, :, :, 0])
    np.testing.assert_allclose(pictures[3], dataset.film_denoised[0, 0, :, :, 0])


def test_reduced_models_stand_under_the_sample_of_their_noise():
    dataset = study()
    figure = figures_fields.film_strip_figure(dataset)
    assert len(figure.axes) == 3 * 6
    names = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert names == ["x", "D(x)", "reduced,\nbare", "reduced,\nclosure", "x", "D(x)"]
    for column in range(2):
        image = figure.axes[6 + column].images[0]
        field = dataset.film_reduced[column].values
        np.testing.assert_allclose(image.get_array(), field)
        assert image.get_clim()[1] == pytest.approx(2 * np.sqrt((field**2).mean()))  # its own grey scale
    lost = figure.axes[8]
    assert not lost.images and [text.get_text() for text in lost.texts] == ["diverged"]
    np.testing.assert_allclose(figure.axes[11].images[0].get_array(), dataset.film_closure[2])
    fewer = drop(dataset, "film_reduced", "film_closure")
    assert len(figures_fields.film_strip_figure(fewer).axes) == 3 * 4


def test_colour_film_is_in_range():
    dataset = study()
    wide = np.random.default_rng(0).normal(size=(2, 3, 6, 6, 3)) * 3
    dims = ("film_sample", "film_sigma", "y", "x", "channel")
    dataset = drop(dataset, "film_x", "film_denoised").assign(film_x=(dims, wide), film_denoised=(dims, wide))
    picture = figures_fields.film_strip_figure(dataset).axes[0].images[0].get_array()
    assert picture.shape == (6, 6, 3) and picture.min() >= 0 and picture.max() <= 1


def test_figures_without_their_data_are_left_out():
    names = set(studies.figures(study()))
    assert names == set(FIGURES)
    fewer = drop(study(), "draw_critical_uniform", "effective_patches")
    assert names - set(studies.figures(fewer)) == {"bank-spread", "condensation"}
    nothing = study(effective_patches=np.nan)
    assert "condensation" not in studies.figures(nothing)
