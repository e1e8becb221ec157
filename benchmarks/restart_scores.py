"""Scores that need no 3D, ranked against the true error of many restarts.

python benchmarks/restart_scores.py --dataset=cmu_mocap [--recipe=ours]
python benchmarks/restart_scores.py --runs=runs/benchmarks/cmu_mocap.jsonl

The first command trains restarts as one population and scores them by what
`objective.choose_member` uses, with one EM for all. The plain recipe is Eq. 4 alone
with the published dictionaries: its modes differ, and each restart may come out
mirrored as a whole, so score and error are those of its better global sign.
``--recipe=ours`` is that of configs/default.py. With ``--runs``: the seeds of the row
"teacher" that `benchmarks/nrsfm.py` has kept, each with its own EM.

Printed: Spearman's rank correlation of every score (lower is better) with the true
depth error and the flip fraction, over all restarts and over the coherent ones alone
(flip under 5 %), and the depth error of the restart that the score would have chosen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from scipy.stats import spearmanr

from benchmarks import nrsfm
from benchmarks.common import parse_args
from nrsfm_jax import teacher, train
from nrsfm_jax.gaussian_mixture import expected_pose
from nrsfm_jax.loss import Objective, member_terms

COHERENT = 0.05
Table = dict[str, np.ndarray]


def main() -> None:
    """Prints the restarts and how well every score ranks them."""
    args = parse_args(__doc__, _add_flags)
    restarts = kept_runs(args.runs) if args.runs else trained_restarts(args)
    print_restarts(restarts)
    rows = rank_correlations(restarts)
    for row in rows:
        print(" | ".join(f"{v:.3g}" if isinstance(v, float) else v for v in row))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def _add_flags(parser: argparse.ArgumentParser) -> None:
    nrsfm.add_flags(parser)
    parser.set_defaults(seeds=20, steps=2000)
    parser.add_argument("--recipe", choices=("plain", "ours"), default="plain")


def kept_runs(path: Path, method: str = "teacher") -> Table:
    """Scores and errors of the seeds in a file of results, of its main protocol."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows = [r for r in lines if r["method"] == method and "scores" in r]
    protocols = [r["protocol"] for r in rows]
    rows = [r for r in rows if r["protocol"] == max(protocols, key=protocols.count)]
    if len(rows) < 3:
        raise ValueError(f"{path} has {len(rows)} runs of {method!r} with scores")
    table = {
        name: np.array([r["metrics"][name] for r in rows])
        for name in ("depth_error", "flip_fraction")
    }
    scores = {n: np.array([r["scores"][n] for r in rows]) for n in rows[0]["scores"]}
    return table | scores


def trained_restarts(args: argparse.Namespace) -> Table:
    """Trains the population, then scores and measures every member."""
    problem = nrsfm.load(args)
    marks = problem.landmarks
    em_key, fit_key = jax.random.split(jax.random.key(args.first_seed))
    labelled = marks.labelled
    shape = nrsfm.em_shapes(marks, em_key, args)
    first = expected_pose(shape, marks.centred[0], labelled)[0]
    W, depth = first[..., :2], first[..., 2]
    guided = args.recipe == "ours"
    objective = Objective(steps=args.steps)
    fitted = train.fit(
        W,
        labelled,
        key=fit_key,
        population=args.seeds,
        dictionary_sizes=nrsfm.OURS if guided else nrsfm.PUBLISHED,
        em_depth=depth if guided else None,
        objective=objective,
    )
    data = {"W": W, "labelled": labelled, "em_depth": depth}
    table = better_sign(
        member_terms(fitted.state.params, data, objective=objective),
        member_terms(
            fitted.state.params, data | {"em_depth": -depth}, objective=objective
        ),
    )
    table |= {
        "eq_4 + em_opposite": table["eq_4"] + table["em_opposite"],
        "eq_4 + em_difference": table["eq_4"] + table["em_difference"],
    }
    measured = []
    for member in range(args.seeds):
        params = jax.tree.map(lambda x, i=member: x[i], fitted.state.params)
        record = teacher.from_params(params, skeleton={}, config={})
        split = record.reconstruct(W, labelled, marks.sample_ids)
        pose = split.poses(record.dictionary)
        measured.append(nrsfm.measure(pose, problem, either_sign=True))
    names = ("depth_error", "flip_fraction")
    return {n: np.array([m[n] for m in measured]) for n in names} | table


def better_sign(terms: Mapping[str, np.ndarray], mirrored: Mapping) -> Table:
    """Of each member the terms of the global sign that agrees with the EM more often.

    >>> one = {"em_opposite": np.array([0.9]), "em_difference": np.array([2.0])}
    >>> other = {"em_opposite": np.array([0.1]), "em_difference": np.array([0.5])}
    >>> float(better_sign(one, other)["em_difference"][0])
    0.5
    """
    turn = np.asarray(mirrored["em_opposite"]) < np.asarray(terms["em_opposite"])
    return {name: np.where(turn, mirrored[name], terms[name]) for name in terms}


def rank_correlations(restarts: Table) -> list[list]:
    """One row for each score: correlations, and what it would have chosen."""
    depth, flip = restarts["depth_error"], restarts["flip_fraction"]
    good = flip < COHERENT
    head = [
        f"score ({len(depth)} restarts, {good.sum()} coherent)",
        "with depth error",
        "with flip fraction",
        "with depth error, coherent only",
        "depth error of the chosen",
        "mean of all",
        "best",
    ]
    rows: list[list] = [head]
    for name, score in restarts.items():
        if name in ("depth_error", "flip_fraction"):
            continue
        chosen = float(depth[np.argmin(score)])
        rows.append(
            [
                name,
                _spearman(score, depth),
                _spearman(score, flip),
                _spearman(score[good], depth[good]),
                chosen,
                float(depth.mean()),
                float(depth.min()),
            ]
        )
    return rows


def _spearman(score: np.ndarray, error: np.ndarray) -> float | str:
    if len(score) < 5 or np.ptp(score) == 0 or np.ptp(error) == 0:
        return "-"
    return float(spearmanr(score, error).statistic)


def print_restarts(restarts: Table) -> None:
    """Every restart, best depth first."""
    print(*restarts, sep=" | ")
    for i in np.argsort(restarts["depth_error"]):
        print(*(f"{values[i]:.4g}" for values in restarts.values()), sep=" | ")
    print(flush=True)


if __name__ == "__main__":
    main()
