"""What a training step of each family of the trial costs beside the plain model's, in one run.

    python -m benchmarks.trial_steps

at the plan's size (width 64, two layers, pieces of 64 characters, minibatches of 32), families by
turns, the median over rounds. `Family.cost` in inference/study/trial_families.py has the ratios."""

import statistics

from probattn.inference.study.trial_families import PLAIN_FAMILY, TRIAL_FAMILIES, split
from probattn.inference.study.trial_order import FULL_TRIAL
from probattn.inference.study.trial_texts import trial_text
from probattn.inference.study.trial_training import train_trial
from probattn.models import TransformerLM

ROUNDS = 3
STEPS = (500, 30)  # of the schedule, and taken: three chunks, the first of which compiles


def main() -> None:
    """Print seconds of a step of each tuned family, and over the plain model's."""
    text = trial_text("prose", FULL_TRIAL.length)
    training, stopping = text.pieces("training"), text.pieces("stopping")[:32]
    size = {"dim": FULL_TRIAL.width, "layers": FULL_TRIAL.layers, "heads": FULL_TRIAL.heads}
    seconds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for one in TRIAL_FAMILIES:
            if one.of is None:
                fields, how = split(one.configurations(1)[0])
                trained = train_trial(
                    TransformerLM(text.vocab_size, FULL_TRIAL.length, **size, **fields),
                    training,
                    stopping,
                    seed=0,
                    num_steps=STEPS[0],
                    until=STEPS[1],
                    batch_size=FULL_TRIAL.batch_size,
                    **how,
                )
                seconds.setdefault(one.name, []).append(trained.seconds)
                print(f"{one.name}: {1000 * trained.seconds:.0f} ms", flush=True)
    plain = statistics.median(seconds[PLAIN_FAMILY])
    for name, several in seconds.items():
        each = statistics.median(several)
        print(f"{name}: {1000 * each:.0f} ms, {each / plain:.2f} times plain")


if __name__ == "__main__":
    main()
