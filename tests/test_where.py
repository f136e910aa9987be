"""The table of where tests run names what there is, and nothing else says where a test runs."""

import ast
from pathlib import Path

from tests import where

HERE = Path(__file__).parent


def functions_in(path):
    return [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]


def test_every_entry_names_something():
    jobs = [entry for entries in where.JOBS.values() for entry in entries]
    assert len(set(jobs)) == len(jobs)
    for entry in (
        *where.BOTH,
        *where.FLOAT32,
        *where.FLOAT64,
        *where.NOT_FAST,
        *where.OPTIMISED,
        *where.LONGEST,
        *jobs,
    ):
        path, _, test = entry.partition("::")
        assert (HERE / path).exists(), entry
        assert not test or test in functions_in(HERE / path), entry
    assert set(where.LIMITS) == {"default", *where.JOBS}


def test_the_longest_name_that_fits_counts():
    assert where.job_of("inference/fitting/test_kill.py::test_anything") == "kill"
    assert where.job_of("test_examples.py::test_it_runs_and_learns") == "examples"
    assert where.job_of("test_examples.py::test_it_runs_and_learns_more") == "default"
    assert where.precisions_of("models/test_priors.py::test_anything") == ("float32", "float64")
    assert where.precisions_of("probattn/emission/test_emission_process.py::test_anything") == (
        "float32",
    )
    assert where.precisions_of("cli/test_commands.py::test_anything") == ("float32",)
    assert where.precisions_of("inference/fitting/test_fits.py::test_anything") == ("float64",)
    assert where.runs("models/test_priors.py::test_anything", "fast", "float32")
    assert not where.runs("models/test_priors.py::test_anything", "fast", "float64")
    assert not where.runs("cli/test_commands.py::test_anything", "fast", "float32")


def test_nothing_else_says_where_a_test_runs():
    for path in set(HERE.rglob("test_*.py")) - {Path(__file__)}:
        text = path.read_text()
        assert "mark.slow" not in text, path
        assert "skipif(jax.config" not in text, path
