"""What every study shares: the runner, its folder, results and costs."""
