"""The table of planted faults: each can be planted in the tree as it is, and names tests that are
there."""

from collections import Counter

import pytest

from tests import where
from tools.mutants import ROOT, table

FAULTS = table()


def test_names_are_unique_and_every_package_has_faults():
    assert not [
        name for name, number in Counter(fault.name for fault in FAULTS).items() if number > 1
    ]
    assert len(FAULTS) >= 60
    packages = Counter(fault.file.partition("/")[0] for fault in FAULTS)
    assert set(packages) == {"probattn", "models", "inference", "lens"}
    assert min(packages.values()) >= 10


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_it_can_be_planted(fault):
    assert fault.stale() == ""
    assert fault.old != fault.new
    assert fault.tests
    for name in fault.tests:
        assert where.runs(
            name.removeprefix("tests/"), "default", "float64" if fault.float64 else "float32"
        ), name
        path, _, test = name.partition("::")
        source = (ROOT / path).read_text("utf-8")
        assert not test or f"\ndef {test.partition('[')[0]}(" in source
