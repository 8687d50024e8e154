"""The comparison study: a trained network, or any denoiser, beside patch models, the Gaussian model and the closure."""

from typing import Any

from critjax.studies._engine.study import Study
from critjax.studies.compare.figures import figures
from critjax.studies.compare.findings import content
from critjax.studies.compare.run import MODELS, CompareSettings, estimate_cost, run

__all__ = ["MODELS", "STUDY", "CompareSettings", "estimate_cost", "run", "settings_of"]


def _describe(full: Any) -> list[tuple[str, str]]:
    """Tell what a run would do, from resolved settings."""
    return [
        ("network", str(full.network)),
        ("patch models", f"{full.num_images} images, windows {', '.join(map(str, full.sizes))}"),
    ]


STUDY = Study(
    name="compare",
    settings=CompareSettings,
    run=run,
    figures=figures,
    content=content,
    estimate_cost=estimate_cost,
    describe=_describe,
    folder="compare-NETWORK",
    parts="parts",
    extra="networks",
    description="""\
Measure a trained network with the instruments of the theory, and set it beside the models that theory knows.

The command
  1. measures: symbols of the mean Jacobian and of the regression, gap, lengths, receptive field and eigenmodes, along
     the network's own trajectories and on noised images, with the Gaussian closure computed from the network alone;
  2. puts the same noised images through LS and ELS patch models of every window size and through the ideal denoiser:
     relative errors, the best size at every noise level, losses;
  3. follows network, best patch models and ideal denoiser from the same noise;
  4. reports: a table here; report.html, figures/*.png and results.nc in the output folder.
""",
    examples="""\
examples:
  critjax compare local-11                           a shipped network beside 200 embedded images (some minutes)
  critjax compare local-11 --quick                   the same, small
  critjax compare my/network.safetensors --data photos/ --sizes 3,5,7,11
                                                     a network that `critjax train` wrote, with your own images

Other denoisers, in JAX or PyTorch: critjax.studies.compare.run(settings, denoise_fn) in Python.
""",
)
settings_of = STUDY.settings_of
