"""A study in numpy alone: the mean square displacement of walks, for what the command line and the runner do."""

from critjax.studies._engine.study import Study
from toy_study.figures import figures
from toy_study.findings import content
from toy_study.run import estimate_cost, run
from toy_study.settings import ToySettings

STUDY = Study(
    name="toy",
    settings=ToySettings,
    run=run,
    figures=figures,
    content=content,
    estimate_cost=estimate_cost,
    describe=lambda full: [("walks", f"{full.num_walks} in {full.num_blocks} blocks")],
    description="Let walks go, and see how far they come.",
    examples="examples:\n  critjax toy --num-walks 8\n",
    folder="toy-KIND",
    parts="blocks",
)
settings_of = STUDY.settings_of
