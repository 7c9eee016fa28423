"""ToST on real digits: every variant, several seeds, and what each block does to the rate before and after training.

    python -m experiments.tost_digits --seeds 3    some six minutes on two cores

Writes data/results/tost_digits.json. Rebuild after a new run: lesson 8 and the README.
"""

import argparse
import json
import platform
import sys
import time

import torch
from tqdm import tqdm

from experiments import record
from kit.tost import VARIANTS, ToST, compression, digits, fit

RESULT = record.RESULTS / "tost_digits.json"


def main() -> None:
    """Train every variant with every seed and write the result file."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tost_digits", description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--out", type=record.place, default=RESULT)
    args = parser.parse_args()
    if args.seeds < 1 or args.epochs < 1:
        parser.error(f"expected --seeds and --epochs >= 1, got {args.seeds} and {args.epochs}")
    train, test = digits()
    runs = []
    for name, seed in tqdm([(v, s) for v in VARIANTS for s in range(args.seeds)], unit="model"):
        torch.manual_seed(seed)
        model = ToST(**VARIANTS[name])
        untrained, (*_, loss) = compression(model, test[0]), fit(model, *train, epochs=args.epochs)
        accuracy = (model(test[0]).argmax(-1) == test[1]).double().mean().item()
        runs.append(
            {
                "variant": name,
                "seed": seed,
                "accuracy": accuracy,
                "loss": loss,
                "untrained": untrained,
                "trained": compression(model, test[0]),
            }
        )
    about = {
        **record.manifest(" ".join(["python -m experiments.tost_digits", *sys.argv[1:]])),
        "seeds": args.seeds,
        "epochs": args.epochs,
        "machine": f"{torch.get_num_threads()} thread(s) of an {platform.machine()} CPU",
        "cpu_seconds": round(time.process_time()),
        "train": len(train[1]),
        "test": len(test[1]),
    }
    record.write(args.out, json.loads(json.dumps({**about, "runs": runs}), parse_float=lambda v: round(float(v), 5)))


if __name__ == "__main__":
    main()
