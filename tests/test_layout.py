"""The modules import one way down, the package is light, and nothing is exported that does not exist."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import critjax

PACKAGE = Path(critjax.__file__).parent
ROWS = [
    ("_typing", "_checks", "_status"),
    ("_programs",),
    ("_stored",),
    ("noise",),
    ("fourier",),
    ("banks",),
    ("patch_score",),
    ("closed_form",),
    ("sampling",),
    ("observables",),
    ("spectra",),
    ("landau",),
    ("fluctuations",),
    ("guidance",),
    ("eigenmodes",),
    ("store",),
    ("data", "sweeps"),
    ("networks",),
    ("plotting",),
    ("report",),
    ("studies",),
    ("cli",),
    ("__main__",),
]
ROW = {name: number for number, names in enumerate(ROWS) for name in names}


def room(path: Path) -> str:
    """Name the module or subpackage of the layout table that a file belongs to."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported_rooms(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "critjax":
                names = [f"critjax.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("critjax."):
                yield name.split(".")[1]


def test_modules_import_only_from_earlier_rows():
    arrows = []
    for path in PACKAGE.rglob("*.py"):
        here = room(path)
        if here == "__init__":
            continue
        assert here in ROW, f"{path} has no row in the layout"
        for there in imported_rooms(path):
            if there.startswith("__"):
                continue
            assert there in ROW, f"{path} imports critjax.{there}, which has no row"
            if there != here and ROW[there] >= ROW[here]:
                arrows.append(f"{here} -> {there} ({path.name})")
    assert not arrows, arrows


def test_every_exported_name_exists():
    for name in critjax.__all__:
        assert getattr(critjax, name).__doc__, name


def public_functions():
    """Yield module, name and function of everything callable, classes aside, that a public module exports."""
    for _, module, _ in pkgutil.walk_packages(critjax.__path__, "critjax."):
        if any(part.startswith("_") for part in module.split(".")):
            continue
        exports = vars(importlib.import_module(module))
        for name in exports.get("__all__", ()):
            if inspect.isroutine(inspect.unwrap(exports[name])):
                yield module, name, exports[name]


def test_every_public_function_has_an_example():
    found = {function: f"{module}.{name}" for module, name, function in public_functions()}
    assert len(found) > 100
    without = sorted(where for function, where in found.items() if ">>>" not in (function.__doc__ or ""))
    assert not without, f"public functions without an example: {', '.join(without)}"


def test_importing_the_package_loads_no_plotting_data_or_file_library():
    heavy = [
        "matplotlib",
        "xarray",
        "pandas",
        "scipy",
        "PIL",
        "h5netcdf",
        "tqdm",
        "platformdirs",
        "flax",
        "optax",
    ]
    # jax itself loads scipy lazily; what jax brings does not count.
    code = (
        "import jax, sys; before = set(sys.modules); import critjax; "
        f"print(sorted(m for m in {heavy!r} if m in sys.modules and m not in before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rooms_load_when_they_are_named():
    code = (
        "import sys, critjax; assert 'critjax.networks' not in sys.modules; critjax.networks.train\n"
        "print({'networks', 'studies'} <= set(dir(critjax)), 'critjax.networks' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True True"


def test_the_torch_adapter_loads_torch_only_when_used():
    code = (
        "import sys; from critjax.networks import torch_denoiser; assert 'torch' not in sys.modules\n"
        "sys.modules['torch'] = None\n"
        "try:\n    torch_denoiser(None)\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = "expected PyTorch, got no module named torch; install it with pip install critjax[torch]"
    assert expected in done.stdout


def test_building_blocks_of_reports_and_figures_import_no_study():
    code = (
        "import sys, critjax.report, critjax.plotting\n"
        "print([m for m in sys.modules if m.startswith('critjax.studies.')], 'critjax.studies' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def test_studies_share_their_engine_and_nothing_else():
    """A study imports its own folder and `_engine`; measurements of denoisers are an instrument of several."""
    shared = {"_engine", "measure", "__init__"}
    for path in (PACKAGE / "studies").glob("*/*.py"):
        own = path.parent.name
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("critjax.studies."):
                there = node.module.split(".")[2]
                assert there == own or there in shared, f"{path} imports critjax.studies.{there}"
