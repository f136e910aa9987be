"""The command line, from a fit to a page, and every bad input: one line, exit code 2, nothing
half-made."""

import json
import os
import shutil

import pytest

from probattn.cli import app
from probattn.cli.printing import in_options
from probattn.inference.fitting.posterior_store import PosteriorStore
from probattn.inference.fitting.run_directory import reserved

WORDS = "\n".join(f"{a}{b}{c}" for a in "wxyz" for b in "wxyz" for c in "wxyz")
CHAINS = ["--num-warmup", "10", "--num-samples", "14", "--num-chains", "2", "--start", "random"]
# All of one model and of as many words: what is compiled for one fit serves the others.
SMALL = {
    "map": ["--dim", "1", "--num-steps", "20"],
    "laplace": ["--dim", "1", "--num-samples", "20"],
    "ensemble": ["--dim", "1", "--num-steps", "20", "--num-members", "2"],
    "posterior": ["--dim", "1", *CHAINS],
}
EMISSION = ["--model", "emission", "--dim", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a corpus, and a MAP and a posterior run on it."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "words.txt").write_text(WORDS)
    for method in ("map", "posterior"):
        assert (
            call(
                "fit",
                folder / "words.txt",
                "--method",
                method,
                "--out",
                folder / method,
                *SMALL[method],
            )
            == 0
        )
    return folder


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        app.main([str(argument) for argument in arguments])
    return ended.value.code


def test_fit_keeps_config_versions_hash_and_seed(folder):
    config = json.loads((folder / "posterior" / "config.json").read_text())
    assert config["settings"]["seed"] == 0
    assert config["settings"]["num_samples"] == 14
    assert len(config["corpus"]["sha256"]) == 64
    assert {"jax", "numpyro", "probattn"} <= set(config["versions"])
    assert config["model"]["length"] == 4


def test_compare_writes_page_and_json(folder, tmp_path, capsys):
    assert (
        call("compare", folder / "map", folder / "posterior", "--out", tmp_path / "report.html")
        == 0
    )
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "report.json").read_text())
    for entry in found["scores"]:
        assert f"{-entry['per_token']['value']:.4f}" in printed
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert {"map", "posterior", "unigram", "bigram"} == {entry["name"] for entry in found["scores"]}


def test_compare_takes_other_texts_and_writes_figures(folder, tmp_path, capsys):
    (folder / "other.txt").write_text("zz\nyz\nz\nzzz\nquite foreign\n")
    page, figures = tmp_path / "report.html", tmp_path / "figures"
    options = ["--elsewhere", folder / "other.txt", "--figures", figures, "--out", page]
    assert call("compare", folder / "map", *options) == 0
    assert "from other.txt" in capsys.readouterr().out
    found = json.loads((tmp_path / "report.json").read_text())
    assert list(found["detection"]) == ["shuffled", "reversed", "from other.txt"]
    assert found["about"]["sequences from other.txt"] == 3
    unknown = "1 of 5 sequences of other.txt (20.0%) have a symbol that no training sequence has"
    assert any(unknown in note for note in found["notes"])
    drawn = {path.stem for path in figures.iterdir()}
    assert {"scores", "calibration", "margins"} <= drawn
    assert len(list(figures.iterdir())) == 2 * len(drawn)


@pytest.mark.filterwarnings("default:.*have a symbol that no training")
def test_what_is_left_out_is_counted_where_it_is_read_and_in_the_report(tmp_path, capsys):
    words = tmp_path / "rare.txt"
    words.write_text(
        "\n".join([*WORDS.split(), *(f"{letter}x" for letter in "abcdefghijklmnopqrstu")])
    )
    run, page = tmp_path / "run", tmp_path / "report.html"
    assert call("fit", words, "--method", "map", "--out", run, *SMALL["map"]) == 0
    said = capsys.readouterr().err
    assert said.count("have a symbol that no training sequence has, and are left out") == 1
    sentence = said[said.index("rare.txt: ") + len("rare.txt: ") :].split("\n")[0]
    assert call("compare", run, "--out", page) == 0
    assert capsys.readouterr().out.count(sentence) == 1
    assert page.read_text().count(sentence) == 1
    assert json.loads((tmp_path / "report.json").read_text())["notes"] == [f"{sentence}."]


def test_an_emission_model_takes_the_same_commands(folder, tmp_path, capsys):
    latent, few = tmp_path / "latent", [*EMISSION, *CHAINS, "--num-particles", "20"]
    assert call("fit", folder / "words.txt", "--method", "posterior", "--out", latent, *few) == 0
    config = json.loads((latent / "config.json").read_text())
    assert config["model"]["name"] == "EmissionModel"
    assert config["model"]["num_particles"] == 20
    run = [*EMISSION, "--coordinates", "noise", "--method", "map", "--num-steps", "10"]
    assert call("fit", folder / "words.txt", *run, "--out", tmp_path / "noise") == 0
    assert (
        json.loads((tmp_path / "noise" / "config.json").read_text())["model"]["coordinates"]
        == "noise"
    )
    page = tmp_path / "report.html"
    both = ["compare", folder / "map", latent, "--num-particles", "40", "--out", page]
    assert call(*both) == 2
    assert "fits of different densities" in capsys.readouterr().err
    assert call(*both, "--mix-densities") == 0
    printed = capsys.readouterr()
    assert "They are different densities: EmissionModel and LanguageModel" in printed.out
    assert "UserWarning" not in printed.err
    assert "num_particles=40" in page.read_text()
    assert call("generate", latent, "-n", "2", "--margins", "--plot", tmp_path / "words.png") == 0
    assert "start" not in capsys.readouterr().out
    assert call("generate", latent, "--top-k", "2") == 2
    assert "which lacks candidates" in capsys.readouterr().err
    assert call("margins", latent, "xyz") == 0
    rows = [
        line.split("│")
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("│") and " to" in line
    ]
    assert [row[1].strip() for row in rows] == ["1", "2", "3", "4"]  # x, y, z and the end


def test_generate_prints_sequences_of_known_symbols(folder, capsys):
    for run in ("map", "posterior"):
        assert call("generate", folder / run, "-n", "6", "--seed", "3") == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 6
        assert set("".join(lines)) <= set("wxyz")
    assert call("generate", folder / "posterior", "-n", "6", "--seed", "3") == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_generate_draws_others_with_another_seed(folder, capsys):
    """Of a mode, whose parameters are the same for any seed."""
    printed = []
    for seed in ("3", "4"):
        assert call("generate", folder / "map", "-n", "6", "--seed", seed) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] != printed[1]


def test_generate_prints_and_draws_margins(folder, tmp_path, capsys):
    plot = tmp_path / "words.png"
    assert (
        call(
            "generate", folder / "posterior", "-n", "9", "--seed", "3", "--margins", "--plot", plot
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert printed.count("support token so far") == 9
    assert printed.count("log probability ") == 18
    assert "0 start" in printed
    assert "plot of 8 of 9 sequences" in printed
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert call("generate", folder / "map", "--plot", tmp_path / "words.svg", "-n", "1") == 0
    assert "<svg" in (tmp_path / "words.svg").read_text()[:2000]


def test_generate_decodes_and_shows_candidates(folder, tmp_path, capsys):
    plot = tmp_path / "candidates.svg"
    greedy = ("generate", folder / "map", "-n", "3", "--top-k", "1")
    assert call(*greedy, "--temperature", "0.5") == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert others == [first, first]
    assert call(*greedy, "--candidates", "2", "--candidate-plot", plot) == 0
    printed = capsys.readouterr().out
    assert printed.count("the 2 most") == 3
    assert printed.count(" 1.000") > 0  # at the first two positions the margin is 1
    assert "<svg" in plot.read_text()[:2000]
    for wrong, message in (
        (("--top-k", "0"), "expected a whole number of at least 1, got 0"),
        (("--nucleus", "2"), "nucleus: expected a number from 1e-06 to 1, got 2.0"),
        (("--temperature", "nan"), "temperature: expected a number from 1e-06 to 1e+06, got nan"),
        (("--candidates", "0"), "expected a whole number of at least 1, got 0"),
    ):
        assert call("generate", folder / "map", *wrong) == 2
        assert message in capsys.readouterr().err


def test_margins_prints_a_row_a_position(folder, capsys):
    assert call("margins", folder / "posterior", "xyz") == 0
    posterior = capsys.readouterr().out
    assert all(symbol in posterior for symbol in ("start", "x", "y", "z", "probability"))
    assert call("margins", folder / "map", "xyz") == 0
    printed = capsys.readouterr().out
    assert printed.count("yes") == 2  # by sigma_min and by log det
    assert "log det J_t does not" in printed


@pytest.mark.parametrize("method", ["laplace", "ensemble"])
def test_other_methods_fit_and_compare(method, folder, tmp_path, capsys):
    assert (
        call(
            "fit",
            folder / "words.txt",
            "--method",
            method,
            "--out",
            tmp_path / method,
            *SMALL[method],
        )
        == 0
    )
    assert f"{method} (" in capsys.readouterr().out
    page = tmp_path / "report.html"
    assert call("compare", tmp_path / method, folder / "map", "--out", page) == 0
    assert method in capsys.readouterr().out


def test_strict_makes_the_verdict_an_exit_code(folder, tmp_path, capsys):
    for run in ("map", "posterior"):
        assert call("diagnose", folder / run) == 0
        assert "not converged" in capsys.readouterr().out
        assert call("diagnose", folder / run, "--strict") == 3
    capsys.readouterr()
    assert call("diagnose", folder / "posterior") == 0
    printed = capsys.readouterr().out
    assert all(
        word in printed
        for word in ("raw", "identified", "predictive", "leave-one-out", "near the origin")
    )
    assert call("compare", folder / "map", "--out", tmp_path / "report.html", "--strict") == 3
    enough = ["--method", "map", "--dim", "1", "--strict"]
    assert call("fit", folder / "words.txt", "--out", tmp_path / "mode", *enough) == 0


def test_resume_goes_on_and_refuses_what_cannot(folder, tmp_path, capsys):
    shutil.copytree(folder / "posterior", tmp_path / "run")
    assert call("resume", tmp_path / "run", "--num-samples", "18") == 0
    assert "18 draws a chain" in capsys.readouterr().out
    assert call("resume", tmp_path / "run") == 0
    assert "nothing was left to do" in capsys.readouterr().out
    assert call("resume", folder / "map") == 2
    assert "is a fit by map" in capsys.readouterr().err
    for path in (tmp_path / "run" / "store" / "chunks").iterdir():
        path.unlink()
    assert call("diagnose", tmp_path / "run") == 2
    assert "holds no draw" in capsys.readouterr().err
    assert (
        call("fit", folder / "words.txt", "--method", "posterior", "--out", tmp_path / "run") == 2
    )
    assert "resume it with `probattn resume" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on(folder, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    shutil.copytree(folder / "posterior", tmp_path / "run")
    monkeypatch.setattr("probattn.inference.resume_posterior", interrupted)
    assert call("resume", tmp_path / "run") != 0
    assert f"resume it with `probattn resume {tmp_path / 'run'}`" in capsys.readouterr().err


def test_calibrate_draws_ranks(tmp_path, capsys):
    plot = tmp_path / "ranks.png"
    few = ["--num-simulations", "60", "--dim", "1", "--length", "3", "--out", plot]
    assert call("calibrate", "latent", "--method", "map", *few, "--strict") == 3
    assert "quantities leave their bands: interaction" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_prior_and_check_hold_new_data_beside_the_corpus(folder, tmp_path, capsys):
    plot = tmp_path / "check.png"
    few = ["--num-draws", "20"]
    assert call("check", folder / "posterior", "--sequences", "10", *few) == 0
    printed = capsys.readouterr().out
    assert "10 sequences, and as many of each of 20 draws" in printed
    assert "new sequences (posterior):" in printed
    words = [folder / "words.txt", "--train-size", "12", "--dim", "1"]
    assert call("prior", *words, *few, "--plot", plot) == 0
    printed = capsys.readouterr().out
    assert "12 sequences, and as many of each of 20 draws" in printed
    assert "symbols per sequence" in printed
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_prior_and_check_refuse_bad_input_before_they_work(folder, tmp_path, capsys):
    for arguments, said in (
        (["check", folder / "map", "--num-draws", "1"], "num_draws: expected"),
        (["check", folder / "map", "--sequences", "0"], "sequences: expected"),
        (["check", folder / "map", "--plot", tmp_path / "check.txt"], "expected a name that ends"),
        (["check", tmp_path / "none"], "none"),
        (["prior", folder / "none.txt"], "none.txt"),
        (["prior", folder / "words.txt", "--num-draws", "1"], "num_draws: expected"),
        (["prior", folder / "words.txt", "--dim", "0"], "dim: expected"),
        (
            ["prior", folder / "words.txt", "--model", "emission", "--barrier-weight", "1"],
            "leave --barrier-weight out",
        ),
    ):
        assert call(*arguments) == 2, arguments
        assert said in capsys.readouterr().err


def test_evidence_compares_models_of_a_corpus(folder, tmp_path, capsys):
    pytest.importorskip("blackjax")
    out = tmp_path / "evidence.json"
    words = [folder / "words.txt", "--train-size", "5", "--out", out, "--num-steps", "2"]
    assert call("evidence", *words, "--dim", "1", "--heads", "1,2", "--num-particles", "64") == 0
    printed = capsys.readouterr().out
    assert "nats of 5 sequences" in printed
    numbers = json.loads(out.read_text())["models"]
    assert list(numbers) == [f"dim 1, heads {heads}, barrier weight 0" for heads in (1, 2)]
    for one in numbers.values():
        assert f"{one['log_evidence']:.1f} ± {one['standard_error']:.1f}" in printed
        assert all(each[-1] == 1 for each in one["temperatures"])
    values = sorted(one["log_evidence"] for one in numbers.values())
    assert f"{values[0] - values[1]:+.1f} ±" in printed


def test_evidence_refuses_bad_input_before_it_works(folder, tmp_path, capsys):
    for options, said in (
        (["--dim", "1,1"], "dim: expected different numbers"),
        (["--heads", "two"], "heads: expected different numbers"),
        (["--dim", "0"], "dim: expected"),
        (["--num-particles", "7"], "multiple of the chain length"),
        (["--out", tmp_path], "is a folder"),
    ):
        assert call("evidence", folder / "words.txt", *options) == 2, options
        assert said in capsys.readouterr().err


def test_env_tells_versions_devices_and_precision(capsys):
    assert call("env") == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("jax", "numpyro", "devices:", "precision: float"))


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "prior",
        "fit",
        "resume",
        "diagnose",
        "check",
        "compare",
        "evidence",
        "calibrate",
        "generate",
        "margins",
        "env",
    ],
)
def test_help_gives_an_example(command, capsys):
    assert call(command, "--help") == 0
    printed = capsys.readouterr().out
    assert f"Example: probattn {command}" in printed.replace("`", "")
    assert not set(printed) & set("{}")


def test_the_usage_names_arguments_without_braces_and_errors_have_no_words_of_a_library(capsys):
    assert call("fit", "words.txt", "--method", "mop", "--out", "new") == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert "fit [OPTIONS] CORPUS " in printed
    assert "Invalid value for '--method': 'mop' is not one of 'map'" in printed


def test_bad_input_names_the_option_that_it_was_given_to(folder, capsys):
    for option in ("--elsewhere", "--learning-curve"):
        assert call("compare", folder / "map", option, folder / "none") == 2
        assert capsys.readouterr().err.startswith(f"probattn: {option} {folder / 'none'}")


def test_arguments_of_the_library_are_options_on_the_command_line():
    said = in_options(
        "a\x1b; `format=csv:COLUMN`, `train_size`,\n`keep_space=True` or `probattn env`"
    )
    assert said == "a\\x1b; --format csv:COLUMN, --train-size, --keep-space or `probattn env`"


def test_one_margin_has_one_name(folder, capsys):
    """`generate` shows with a token the margin of the position that predicts it, the one before."""
    assert call("generate", folder / "map", "-n", "1", "--seed", "3", "--margins") == 0
    cells = [line.split("│") for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in row[1:-1]] for row in cells if len(row) > 3]
    text = "".join(row[1] for row in rows if row[1] != "<end>")
    assert call("margins", folder / "map", text) == 0
    printed = capsys.readouterr().out
    own = [line.split("│")[3].strip() for line in printed.splitlines() if line.count("│") > 3]
    assert [row[3] for row in rows] == own[: len(rows)]


def test_generate_names_the_margin_that_it_shows(folder, capsys):
    assert call("generate", folder / "map", "-n", "1", "--margins") == 0
    assert "margin before it" in " ".join(capsys.readouterr().out.split())


BAD = {
    "no such file": (["fit", "{}/none.txt", "--method", "map", "--out", "{}/new"], "no such file"),
    "empty file": (
        ["fit", "{}/empty.txt", "--method", "map", "--out", "{}/new"],
        "there is no text in the file",
    ),
    "one symbol": (
        ["fit", "{}/one.txt", "--method", "map", "--out", "{}/new"],
        "at least two different symbols",
    ),
    "few lines": (
        ["fit", "{}/nine.txt", "--method", "map", "--out", "{}/new"],
        "at least 10 different sequences, two of them to hold out, got 9",
    ),
    "unknown format": (
        ["fit", "{}/words.txt", "--method", "map", "--format", "tsv", "--out", "{}/new"],
        "format: expected lines, words, fasta, csv:COLUMN or jsonl:FIELD, got 'tsv'",
    ),
    "dim": (
        ["fit", "{}/words.txt", "--method", "map", "--dim", "0", "--out", "{}/new"],
        "dim: expected a whole number",
    ),
    "weight": (
        ["fit", "{}/words.txt", "--method", "map", "--barrier-weight", "nan", "--out", "{}/new"],
        "barrier_weight",
    ),
    "chains": (
        ["fit", "{}/words.txt", "--method", "posterior", "--num-chains", "0", "--out", "{}/new/x"],
        "num_chains",
    ),
    "option of another model": (
        ["fit", "{}/words.txt", "--method", "map", "--coordinates", "noise", "--out", "{}/new"],
        (
            "coordinates: is an option of the emission model, not of --model language; leave "
            "--coordinates out"
        ),
    ),
    "barrier of an emission model": (
        [
            "fit",
            "{}/words.txt",
            "--method",
            "map",
            *EMISSION,
            "--barrier-weight",
            "1",
            "--out",
            "{}/new",
        ],
        "barrier_weight: is an option of the language model",
    ),
    "one particle": (
        [
            "fit",
            "{}/words.txt",
            "--method",
            "map",
            *EMISSION,
            "--num-particles",
            "1",
            "--out",
            "{}/new",
        ],
        "num_particles: expected a whole number of at least 2, got 1",
    ),
    "particles of no emission model": (
        ["compare", "{}/map", "--num-particles", "9"],
        "leave --num-particles out",
    ),
    "out exists": (["fit", "{}/words.txt", "--method", "map", "--out", "{}/map"], "exists already"),
    "out below a file": (
        ["fit", "{}/words.txt", "--method", "map", *SMALL["map"], "--out", "{}/words.txt/new"],
        "cannot be made",
    ),
    "more devices than there are": (
        ["fit", "{}/words.txt", "--method", "map", "--devices", "9", "--out", "{}/new"],
        "devices: expected at most the 2 that there are (cpu), got 9",
    ),
    "unknown symbol": (["margins", "{}/map", "xqz"], "unknown symbol 'q'"),
    "text too long": (
        ["margins", "{}/map", "wxyzw"],
        "has 5 symbols, a model of length 4 takes 3",
    ),
    "plot format": (
        ["generate", "{}/map", "--plot", "{}/words.txt"],
        "expected a name that ends in .png, .svg, .pdf",
    ),
    "plot folder": (["generate", "{}/map", "--plot", "{}/none/words.png"], "cannot be written"),
    "option of another method": (
        ["fit", "{}/words.txt", "--method", "map", "--num-warmup", "9", "--out", "{}/new"],
        "num_warmup: is no option of --method map; leave --num-warmup out",
    ),
    "batch too large": (
        [
            "fit",
            "{}/words.txt",
            "--method",
            "map",
            *SMALL["map"],
            "--batch-size",
            "999",
            "--out",
            "{}/new",
        ],
        "batch_size: expected at most the",
    ),
    "calibration figure": (
        ["calibrate", "latent", "--out", "{}/ranks.txt"],
        "expected a name that ends in",
    ),
    "barrier of a latent model": (
        ["calibrate", "latent", "--barrier-weight", "1"],
        "leave --barrier-weight out",
    ),
    "resume nothing": (["resume", "{}/none"], "no run directory"),
    "no run": (["generate", "{}/none"], "no run directory"),
    "compare a file": (["compare", "{}/words.txt"], "no run directory"),
    "given twice": (["compare", "{}/map", "{}/map"], "given twice"),
    "page is a folder": (["compare", "{}/map", "--out", "{}"], "is a folder"),
    "no learning curve": (["compare", "{}/map", "--learning-curve", "{}/none"], "no such file"),
    "no other text": (
        ["compare", "{}/map", "--elsewhere", "{}/none.txt"],
        "none.txt: no such file; expected the path of a text file",
    ),
    "device": (
        ["fit", "/dev/null", "--method", "map", "--out", "{}/new"],
        "/dev/null: is a device or a pipe, and no file",
    ),
    "no length": (
        ["fit", "{}/words.txt", "--stream", "--method", "map", "--out", "{}/new"],
        "running text needs one; give --length",
    ),
    "foreign text": (
        ["compare", "{}/map", "--elsewhere", "{}/one.txt"],
        "at least two sequences in the symbols of",
    ),
    "figures are a file": (["compare", "{}/map", "--figures", "{}/words.txt"], "is no folder"),
    "other data": (["compare", "{}/map", "{}/other"], "holds other data"),
    "demo over something else": (
        ["demo", "--quick", "--out", "{}"],
        "exists and is no earlier demo",
    ),
}


def test_fits_into_one_folder_are_refused_but_the_first(folder, capsys):
    fit = ["fit", folder / "words.txt", "--method", "map", *SMALL["map"], "--out", folder / "new"]
    with reserved(folder / "new"):
        assert call(*fit) == 2
    assert f"{folder / 'new'}: another process is fitting into it" in capsys.readouterr().err
    assert not (folder / "new").exists()
    store = PosteriorStore(folder / "posterior" / "store")
    store.open(store.config)
    assert call("resume", folder / "posterior") == 2
    store.close()
    assert "another process is sampling into it; wait" in capsys.readouterr().err


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_code_2_and_leaves_nothing(folder, name, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])  # put back what --devices makes of it
    (folder / "empty.txt").write_text("")
    (folder / "one.txt").write_text("a\naa\naaa\n")
    (folder / "nine.txt").write_text("\n".join(a + b for a in "xyz" for b in "xyz"))
    if name == "other data" and not (folder / "other").exists():
        words = WORDS.split()
        (folder / "others.txt").write_text(
            "\n".join([word[:2] for word in words[::4]] + words[16:])
        )
        assert (
            call(
                "fit",
                folder / "others.txt",
                "--method",
                "map",
                "--out",
                folder / "other",
                *SMALL["map"],
            )
            == 0
        )
        capsys.readouterr()
    arguments, message = BAD[name]
    before = sorted(path.name for path in folder.iterdir())
    assert call(*(argument.replace("{}", str(folder)) for argument in arguments)) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("probattn: ")
    assert printed.err.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before
