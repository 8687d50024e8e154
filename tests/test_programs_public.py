"""No public function escapes the count of programs."""

import inspect

import test_programs_fluctuations
import test_programs_linear_theory
import test_programs_patch_score

import critjax

# They look a table up and sort on the host.
PLAIN = {"available_methods", "extract_patches"}


def test_every_public_function_is_counted():
    counted = set().union(
        *(
            module.CALLS
            for module in (
                test_programs_fluctuations,
                test_programs_linear_theory,
                test_programs_patch_score,
            )
        )
    )
    public = {name for name in critjax.__all__ if not inspect.isclass(getattr(critjax, name))}
    assert public - counted == PLAIN
