"""The wheel installs probattn, probattn.models and probattn.inference, and nothing else at the top."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("probattn", "models", "inference"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_wheel_holds_one_top_level_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"probattn"}
    for folder, prefix in (("probattn", ""), ("models", "models/"), ("inference", "inference/")):
        for path in (ROOT / folder).glob("*.py"):
            assert f"probattn/{prefix}{path.name}" in names
    assert "probattn/inference/templates/report.html" in names
    assert "probattn/py.typed" in names
    assert not [name for name in names if "test" in name]


def test_arrows_point_one_way():
    for folder, banned in (
        ("probattn", ("probattn.models", "probattn.inference")),
        ("models", ("probattn.inference",)),
        ("inference", ("probattn.models",)),
    ):
        for path in (ROOT / folder).glob("*.py"):
            imports = [line for line in path.read_text().splitlines() if line.lstrip().startswith(("import ", "from "))]
            if not path.name.startswith("cli") and path.name != "__main__.py":
                assert not [line for line in imports if any(name in line for name in banned)], path


def test_arviz_may_be_imported_first():
    """It leaves a lazy numpyro behind, whose submodules go missing unless it is loaded before them."""
    code = "import arviz, probattn, numpyro; print(numpyro.distributions.distribution.Unit)"
    assert "Unit" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
