"""The guidance study: schedules of one budget compared, to see whether a push is best spent where modes soften."""

from typing import Any

from critjax.studies._engine.study import Study
from critjax.studies.guide.figures import figures
from critjax.studies.guide.findings import content
from critjax.studies.guide.run import PRIMARY, GuideSettings, estimate_cost, run

__all__ = ["PRIMARY", "STUDY", "GuideSettings", "estimate_cost", "run", "settings_of"]


def _describe(full: Any) -> list[tuple[str, str]]:
    """Tell what a run would do, from resolved settings."""
    return [
        ("model", str(full.model)),
        ("images", f"{full.num_samples} a schedule, budgets {', '.join(map(str, full.budgets))}"),
    ]


STUDY = Study(
    name="guide",
    settings=GuideSettings,
    run=run,
    figures=figures,
    content=content,
    estimate_cost=estimate_cost,
    describe=_describe,
    folder="guide-MODEL",
    parts="parts",
    extra="networks",
    description="""\
Ask whether a push is best spent where modes soften: guidance schedules of one budget, the same seeds for all.

The command
  1. writes down every schedule, seed and the primary statistic, before anything is sampled;
  2. measures the softening of the uniform mode on the model's own trajectories and recommends from it alone a pulse,
     the critical pulse, and a window;
  3. predicts the response to a pulse: linear theory, Gaussian closure, regression; differentiates the sampler;
  4. samples: no guidance, constant, pulses along the ladder, random positions, the best interval of a search on other
     seeds, critical pulse and window; judges response, diversity and distance to real images;
  5. reports: a table here; report.html, figures/*.png and results.nc in the output folder.
""",
    examples="""\
examples:
  critjax guide                              plus and minus domains, where everything is known (a minute or two)
  critjax guide ideal --eta 1                classes of Fashion-MNIST under the reverse SDE, exact posterior
  critjax guide els                          the same by patches
  critjax guide unet-classes                 a shipped class-conditional network, judged by a shipped classifier
  critjax guide unet-classes --num-samples 500 --num-search 100 --num-levels 18 --budgets 0.5,1,2 \\
      --susceptibility-samples 32            the full experiment (over an hour); a killed run goes on
""",
)
settings_of = STUDY.settings_of
