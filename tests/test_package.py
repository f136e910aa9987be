"""The wheel installs probattn with its models, inference and lens, and nothing else at the top."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jaxtyping
import pytest

import probattn

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("probattn", "models", "inference", "lens"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    command = [sys.executable, *build, out, source]
    built = subprocess.run(
        [str(word) for word in command], check=True, capture_output=True, text=True
    )
    assert "would be ignored" not in built.stdout + built.stderr
    return next(out.glob("*.whl"))


def test_wheel_holds_one_top_level_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"probattn"}
    for folder, prefix in (
        ("probattn", ""),
        ("models", "models/"),
        ("inference", "inference/"),
        ("lens", "lens/"),
    ):
        for path in (ROOT / folder).rglob("*.py"):
            name = path.relative_to(ROOT / folder).as_posix()
            if not name.startswith(
                ("models/", "inference/", "lens/")
            ):  # where they are installed in a checkout
                assert f"probattn/{prefix}{name}" in names
    assert "probattn/inference/report/templates/report.html" in names
    assert "probattn/lens/templates/lens.html" in names
    assert {
        "probattn/py.typed",
        "probattn/__init__.pyi",
        "probattn/inference/__init__.pyi",
        "probattn/lens/__init__.pyi",
    } <= set(names)
    assert not [name for name in names if "test" in name]


@pytest.mark.parametrize(
    "imports",
    [
        "import arviz, probattn; probattn.AttentionProcess",
        "import arviz, probattn.attention.process",
        "import probattn, arviz; probattn.AttentionProcess",
        "import probattn, arviz, probattn.models",
        "import probattn, arviz, probattn.inference.fitting.map",
    ],
)
def test_arviz_may_be_imported_first(imports):
    """It leaves a lazy numpyro behind, whose submodules go missing unless it is loaded before
    them."""
    code = f"""{imports}; import sys
for name, module in sys.modules.items():
    parent, _, child = name.rpartition(".")
    lazy = parent.split(".")[0] == "numpyro"
    if lazy and getattr(sys.modules[parent], child, None) is not module:
        print(name)"""
    assert run(code) == ""


HEAVY = {
    "jax",
    "numpy",
    "scipy",
    "numpyro",
    "optax",
    "optimistix",
    "arviz",
    "pandas",
    "xarray",
    "matplotlib",
    "zarr",
}


@pytest.mark.parametrize(
    ("code", "light"),
    [
        ("import probattn", HEAVY),
        ("from probattn.cli.app import app; app(['--help'], standalone_mode=False)", HEAVY),
        ("from probattn.cli.app import app; app(['fit', '--help'], standalone_mode=False)", HEAVY),
        (
            "from probattn import Attention, stability_margin",
            HEAVY - {"jax", "numpy", "scipy", "numpyro"},
        ),
        (
            "from probattn.inference import fit_map",
            {"arviz", "pandas", "xarray", "matplotlib", "zarr"},
        ),
        (
            "from probattn.inference import sample_posterior",
            {"arviz", "pandas", "xarray", "matplotlib"},
        ),
    ],
)
def test_what_is_not_asked_for_is_not_loaded(code, light):
    loaded = run(f"import sys; {code}; print(*sys.modules)").splitlines()[-1].split()
    assert "probattn" in loaded
    assert not light & set(loaded)


def test_names_load_when_they_are_asked_for():
    """`compare` is a function, and the module that it is in."""
    code = (
        "import probattn.inference.report.comparing; from probattn.inference import compare; "
        "print(callable(compare))"
    )
    assert run(code) == "True\n"
    code = (
        "from probattn import *; print(Attention.__name__, inference.fit_map.__name__, "
        "models.LanguageModel.__name__)"
    )
    assert run(code) == "Attention fit_map LanguageModel\n"
    for package in (probattn, probattn.models, probattn.inference, probattn.lens):
        assert set(package.__all__) <= set(dir(package))
        assert not hasattr(package, "no_such_name")


def run(code):
    """What Python prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_shapes_and_types_are_checked_in_the_tests():
    with pytest.raises(jaxtyping.TypeCheckError):
        probattn.stability_margin("no attention", [[0.0]])


@pytest.mark.parametrize("package", ["inference", "lens", "models"])
def test_the_library_speaks_of_arguments_and_not_of_options(package):
    """The command line turns the one into the other (`in_options`)."""
    files = sorted((ROOT / package).rglob("*.py"))
    found = {
        f"{file}: {word}"
        for file in files
        for word in re.findall(r"[\s(\"`]--[a-z][a-z-]*", file.read_text("utf-8"))
    }
    assert files
    assert not found
