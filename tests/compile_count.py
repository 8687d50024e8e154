"""Count what XLA compiles, file by file, and fail a default run that compiles more than its budget.

Compilation is most of what a cold test run costs. JAX announces every program that it compiles or reads from the
compilation cache; a test file that prepares inputs operation by operation shows up here with hundreds.
"""

from __future__ import annotations

import collections

import jax
import pytest

_EVENT = "/jax/core/compile/backend_compile_duration"


class CompileCount:
    """Pytest plugin: programs and seconds by test file, summed over the workers of pytest-xdist."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.place = "(collection)"
        self.found: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0.0])
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_) -> None:
        if event == _EVENT:
            self.found[self.place][0] += 1
            self.found[self.place][1] += seconds

    @property
    def programs(self) -> int:
        """Programs compiled so far, or read from the cache."""
        return int(sum(count for count, _ in self.found.values()))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.place = item.nodeid.split("::")[0]
        return (yield)

    def pytest_testnodedown(self, node) -> None:
        for place, (count, seconds) in getattr(node, "workeroutput", {}).get("compiled", {}).items():
            self.found[place][0] += count
            self.found[place][1] += seconds

    @property
    def _over_budget(self) -> str | None:
        budget = int(self.config.getini("compile_budget"))
        whole = self.config.getoption("markexpr") == self.config.getini("default_markers")
        if not whole or self.programs <= budget:
            return None
        return f"{self.programs} programs compiled, compile_budget is {budget}; share programs between cases"

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session) -> None:
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["compiled"] = dict(self.found)
        elif self._over_budget and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        total = sum(seconds for _, seconds in self.found.values())
        terminalreporter.section(f"{self.programs} programs compiled in {total:.0f} s")
        for place, (count, seconds) in sorted(self.found.items(), key=lambda row: -row[1][1]):
            terminalreporter.write_line(f"{count:6.0f} {seconds:7.1f} s  {place}")
        if self._over_budget:
            terminalreporter.write_line(f"FAILED {self._over_budget}", red=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the budget and the marker expression that it belongs to."""
    parser.addini("compile_budget", "most programs that a default run may compile")
    parser.addini("default_markers", "marker expression of a default run")
