"""The folder of a study: begun once, gone on with what it was begun with, and nothing else."""

import json

import pytest

from probattn import InputError
from probattn.cli.study_folder import open_study

GIVEN = {"seed": 0, "sizes": [10, 20]}


def test_it_keeps_what_it_was_begun_with_and_refuses_another(tmp_path):
    folder = tmp_path / "study"
    open_study(folder, GIVEN, "learning curve")
    assert json.loads((folder / "study.json").read_text()) == GIVEN
    open_study(folder, GIVEN, "learning curve")
    with pytest.raises(InputError, match="seed: the study has 0, now 1"):
        open_study(folder, GIVEN | {"seed": 1}, "learning curve")
    assert json.loads((folder / "study.json").read_text()) == GIVEN


@pytest.mark.parametrize(
    ("was", "now", "set_to"), [("float64", "float32", 1), ("float32", "float64", 0)]
)
def test_a_study_in_the_other_precision_says_how_to_set_it(tmp_path, was, now, set_to):
    open_study(tmp_path / "study", GIVEN | {"precision": was}, "learning curve")
    message = f"the study has {was}, now {now}: set JAX_ENABLE_X64={int(was == 'float64')}"
    with pytest.raises(InputError, match=message):
        open_study(tmp_path / "study", GIVEN | {"precision": now}, "learning curve")


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_record_is_said(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(InputError, match="is damaged"):
        open_study(tmp_path, GIVEN, "learning curve")


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    (tmp_path / "else.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is no learning curve"):
        open_study(tmp_path, GIVEN, "learning curve")
    assert [path.name for path in tmp_path.iterdir()] == ["else.txt"]
