"""What studies share: their record, the runner, its folder, results and costs; banks on a grid, critical points."""
