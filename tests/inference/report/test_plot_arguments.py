"""What figures take: fits alone or by name, or what was computed of them."""

import pytest
from predictors import TRUTH, fit_of

from probattn import InputError
from probattn.inference.report.plot_arguments import fits_by_name, results_by_name


def test_what_is_no_fit_is_refused():
    for wrong in ({}, {"a": 1}, 3):
        with pytest.raises(InputError, match="expected at least one fit, alone or by name"):
            fits_by_name(wrong)


def test_a_single_fit_is_named_by_its_method():
    assert list(fits_by_name(fit_of([TRUTH]))) == ["map"]


def test_results_are_computed_once():
    fits = {"one": fit_of([TRUTH]), "two": fit_of([TRUTH, TRUTH])}
    found = results_by_name(fits, str, lambda fit: fit.method)
    assert found == {"one": "map", "two": "ensemble"}
    assert results_by_name(found, str, pytest.fail) == found
