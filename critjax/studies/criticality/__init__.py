"""The criticality study: predict, simulate and measure how structure appears as the noise falls."""

from typing import Any

from critjax.studies._engine.study import Study
from critjax.studies.criticality.content import content
from critjax.studies.criticality.figures import figures
from critjax.studies.criticality.run import CriticalitySettings, estimate_cost, ladder_ends, run

__all__ = ["STUDY", "CriticalitySettings", "estimate_cost", "ladder_ends", "run", "settings_of"]


def _describe(full: Any) -> list[tuple[str, str]]:
    """Tell what a run would do, from resolved settings."""
    return [
        ("bank", f"{full.label}, p = {full.size}"),
        (
            "samples",
            f"{full.num_samples} in batches of {full.batch_size}, {full.num_levels} noise levels",
        ),
    ]


STUDY = Study(
    name="criticality",
    settings=CriticalitySettings,
    run=run,
    figures=figures,
    content=content,
    estimate_cost=estimate_cost,
    describe=_describe,
    folder="criticality-BANK",
    parts="batches",
    extra="",
    description="""\
Predict, simulate and measure when structure appears while noise is turned into images.

For one bank of patches the command
  1. predicts: growth rates, the critical noise and wavelength, the structure factor (linear theory), and the
     effective critical noise (Gaussian closure);
  2. simulates: many samples from pure noise down a ladder of noise levels with the exact patch score;
  3. measures: structure factor, regression symbol, mean Jacobian, correlation lengths, order, with errors;
  4. reports: a table here; report.html (self-contained), figures/*.png and results.nc in the output folder.
""",
    examples="""\
examples:
  critjax criticality                                   random patterns, p = 9, M = 8, 64 x 64 (a minute)
  critjax criticality --quick                           the same, small: a look within seconds
  critjax criticality --bank two-pattern --eta 1        the ferromagnet under the reverse SDE
  critjax criticality --bank fashion-mnist --size 7     patches of 100 real images (some minutes)
  critjax criticality --bank photos/ --size 5           your own images: a folder, .npy or .npz
  critjax criticality --bank fashion-mnist --dry-run    predicted time and memory, nothing else
  critjax criticality --from run/results.nc --out again repeat a run from its result

Noise levels are standard deviations in image units (data in [-1, 1]); the table gives every critical noise
also as t_ou, alpha-bar and log-SNR. Ctrl-C ends the run and keeps the batches that are done: the same command goes
on from there. A second one ends it at once. Exit status: 0 done, 2 wrong input, 130 interrupted, 143 terminated.
""",
)
settings_of = STUDY.settings_of
