"""How many exchanged labels --stage=check finds: the figures of docs/own_data.md.

    python -m benchmarks.exchanged_sides [--hidden=0.3]

In 2 % of the 4,000 training samples of mh_mocap, one limb or a part of one has its
labels exchanged; with ``--hidden``, that share of all landmarks is removed first.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from benchmarks.common import DATA, finish, parse_args, summarise
from input_pipeline.checks.suspects import exchanges, suspected_swaps
from input_pipeline.skeleton import H36M_17

SPOILED = 0.02


def main() -> None:
    """Prints the shares found and falsely flagged, over seeds."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--hidden", type=float, default=0.0, help="share removed")
        parser.add_argument("--seeds", type=int, default=5)

    options = parse_args(__doc__, add)
    keypoints = read_keypoints()
    shares = np.array(
        [
            found_and_flagged(keypoints, hidden=options.hidden, seed=seed)
            for seed in range(1 if options.quick else options.seeds)
        ]
    )
    case = f"mh_mocap, {options.hidden:.0%} hidden"
    rows = [
        summarise("exchanged sides", case, "Gaussian", name, "%", 100 * values)
        for name, values in zip(("found", "others flagged"), shares.T, strict=True)
    ]
    finish(rows, options.json)


def read_keypoints() -> np.ndarray:
    """(N, 17, 2) pixels."""
    path = DATA / "mh_mocap" / "person_keypoints_train.json"
    record = json.loads(path.read_text("utf-8"))
    rows = [annotation["keypoints"] for annotation in record["annotations"]]
    return np.reshape(rows, (-1, 17, 3))[..., :2].astype(np.float64)


def found_and_flagged(
    keypoints: np.ndarray, *, hidden: float, seed: int
) -> tuple[float, float]:
    """Share of the spoiled samples that is told, share of the others that is."""
    rng = np.random.default_rng(seed)
    labelled = rng.random(keypoints.shape[:2]) >= hidden
    spoiled = rng.choice(len(keypoints), round(SPOILED * len(keypoints)), replace=False)
    groups = exchanges(H36M_17)
    labels, shown = keypoints.copy(), labelled.copy()
    for row in spoiled:
        for pair in groups[rng.integers(len(groups))]:
            labels[row, list(pair)] = labels[row, list(pair[::-1])]
            shown[row, list(pair)] = shown[row, list(pair[::-1])]
    told = np.zeros(len(keypoints), bool)
    told[[swap.row for swap in suspected_swaps(labels, shown, H36M_17)]] = True
    others = np.setdiff1d(np.arange(len(keypoints)), spoiled)
    return float(told[spoiled].mean()), float(told[others].mean())


if __name__ == "__main__":
    main()
