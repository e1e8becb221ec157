"""Handedness synchronisation: one sign of depth for all samples, from shapes alone.

Under weak perspective the depth of each sample is known up to a sign. A body, however,
has a handedness that all its poses share: knees bend one way, the face lies in front of
left x up. The signed volumes of triples of bones measure it, because a rigid motion
leaves them and a reflection negates them. We ask for the signs that one linear rule of
the signed volumes predicts best:

    max_b J(b) = b' V A V' b / n,   A = (V'V + rho tr(V'V) / f I)^-1,   b in {-1, 1}^n

with V (n, f) the signed volumes and b the signs relative to the given poses. b is
constant on micro-clusters of lines, which leaves a maximum cut of about sixty nodes,
climbed from many starts. The outcome does not depend on the given signs but only on the
unsigned depth, and it is known up to one sign for all samples.

Paper: no such step; here: ours, because the likelihood of the landmarks lets every
family of poses choose its own sign. Poses are in the camera frame, z the depth, in any
unit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

# rho. With less, few samples are explained by chance, whatever their signs.
RIDGE = 10.0
# At most this share of changed signs is the rule's own error on a coherent set. Of few
# samples the rule also explains some signs by chance: its gain in J must exceed the
# share CHANCE / n of J.
GATE, CHANCE = 0.02, 20.0
# What a set of poses with a handedness reaches from ENOUGH samples on.
BIMODALITY, SPLIT, ENOUGH = 0.75, 0.95, 1000
_CLUSTERS, _CLUSTER_STEPS, _RESTARTS = 60, 12, 200
_MAX_BONES = 16
# The clusters are learned from so many samples; any sample then follows its cluster.
_LEARNED = 16_000
_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class Handedness:
    """What the signed volumes say about a set of poses.

    Attributes:
        changed: share of the samples whose given sign is not the rule's, where the
            sign of the majority is kept. It estimates the share that is depth-flipped.
        applied: whether the returned signs differ from the given ones.
        fit: J of the signs found, at most 1; it grows with the number of bones.
        gain: J less the J of the given signs.
        bimodality: (mean |p|)^2 / mean p^2 of the rule's value p on poses that it was
            not learned from: 1 for two points, .64 for a Gaussian.
        split: share of the samples on which the rules of two halves of the poses agree,
            each half synchronised from random signs.
        samples: number of poses.
    """

    changed: float
    applied: bool
    fit: float
    gain: float
    bimodality: float
    split: float
    samples: int

    @property
    def exists(self) -> bool | None:
        """Whether poses differ from their mirror images; None: too few samples."""
        if self.samples < ENOUGH:
            return None
        return self.bimodality >= BIMODALITY and self.split >= SPLIT


def synchronise_signs(
    poses: Float[np.ndarray, "n p 3"],
    edges: Sequence[tuple[int, int]] | Int[np.ndarray, "e 2"] | None = None,
    *,
    seed: int = 0,
) -> tuple[Int[np.ndarray, " n"], Handedness]:
    """Makes the signs of depth of any lifter's poses coherent.

    Args:
        poses: (N, P, 3) in the camera frame, any unit and position. The depth z of a
            sample may have the wrong sign; a missing joint holds its expected place.
        edges: bones as pairs of joints. Without them, and where they are too many for
            the number of samples, a tree of the least varying distances serves.
        seed: of the clusters and of the random starts.

    Returns:
        (N,) +1 or -1, the factor on the depth of each sample, and the scores. All are
        +1 where at most .02 of the signs would change or the gain may be chance, so
        that a coherent set stays as it is. The majority keeps its sign; the one sign
        of all samples remains open.

    Raises:
        ValueError: poses that are not finite.
    """
    n, P = poses.shape[:2]
    if n < 16 or P < 5:  # nothing can be told of so few
        none = Handedness(0.0, False, 0.0, 0.0, 0.0, 0.5, n)
        return np.ones(n, np.int64), none
    finite = np.isfinite(poses).all((1, 2))
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise ValueError(f"poses[{row}] is not finite; fill in its missing joints")
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(n)[:_LEARNED])
    bones = _bones(poses[rows], edges)
    V = signed_volumes(poses[rows], bones)
    lines = synchronised_lines(V, random)
    signs = np.concatenate(
        [
            signs_of(signed_volumes(poses[i : i + _CHUNK], bones), lines)
            for i in range(0, n, _CHUNK)
        ]
    )
    signs *= 1 if signs.sum() >= 0 else -1
    fit, given = explained(V, signs[rows]), explained(V, np.ones_like(signs[rows]))
    bimodality, split = split_scores(V, pose_clusters(poses[rows], random), random)
    changed = float(np.mean(signs < 0))
    applied = changed > GATE and fit - given > CHANCE / n * fit
    report = Handedness(changed, applied, fit, fit - given, bimodality, split, n)
    return signs if applied else np.ones_like(signs), report


# --- bones and their signed volumes -------------------------------------------------


def _bones(
    poses: Float[np.ndarray, "n p 3"],
    edges: Sequence[tuple[int, int]] | Int[np.ndarray, "e 2"] | None,
) -> Int[np.ndarray, "e 2"]:
    """The given edges, or a tree of as many bones as the samples can tell apart."""
    # Four samples for each of the C(bones, 3) volumes.
    bones = range(5, _MAX_BONES + 1)
    most = max(b for b in bones if b == 5 or math.comb(b, 3) <= len(poses) / 4)
    if edges is not None and 3 <= len(edges) <= most:
        return np.asarray(edges, np.int64)
    return spanning_tree(poses, points=most + 1)


def spanning_tree(
    poses: Float[np.ndarray, "n p 3"], *, points: int = _MAX_BONES + 1
) -> Int[np.ndarray, "e 2"]:
    """Bones without a skeleton: the spanning tree of the least varying distances.

    ``points`` joints far from each other are chosen; Prim's tree then has the cost
    ``sd(distance) + .1 mean(distance)``.
    """
    X = poses - poses.mean(axis=1, keepdims=True)
    P = X.shape[1]
    mean, deviation = np.zeros((P, P)), np.zeros((P, P))
    for q in range(P):  # one joint at a time bounds the memory
        distance = np.linalg.norm(X - X[:, q : q + 1], axis=-1)
        mean[q], deviation[q] = distance.mean(0), distance.std(0)
    chosen = [int(np.linalg.norm(X, axis=-1).mean(0).argmax())]
    while len(chosen) < min(points, P):
        chosen.append(int(mean[:, chosen].min(axis=1).argmax()))
    cost = (deviation + 0.1 * mean)[np.ix_(chosen, chosen)]
    edges, inside = [], np.arange(len(chosen)) == 0
    while not inside.all():
        open_cost = np.where(inside[:, None] & ~inside[None], cost, np.inf)
        i, j = np.unravel_index(open_cost.argmin(), cost.shape)
        edges.append((chosen[i], chosen[j]))
        inside[j] = True
    return np.array(edges)


def signed_volumes(
    poses: Float[np.ndarray, "n p 3"], edges: Int[np.ndarray, "e 2"]
) -> Float[np.ndarray, "n f"]:
    """det[b_e, b_f, b_g] for all e < f < g of the bones b of one pose of unit size."""
    B = poses[:, edges[:, 1]] - poses[:, edges[:, 0]]
    size = np.sqrt((B**2).sum((1, 2), keepdims=True))
    B = (B / np.where(size > 0, size, 1)).astype(np.float32)
    e, f = np.triu_indices(len(edges), 1)
    # Each pair's normal with all bones: more products than triples, but one matmul.
    products = np.cross(B[:, e], B[:, f]) @ np.swapaxes(B, 1, 2)
    pair, g = np.nonzero(f[:, None] < np.arange(len(edges))[None])
    return products[:, pair, g]


# --- signs ----------------------------------------------------------------------------


def synchronised_lines(
    V: Float[np.ndarray, "n f"], random: np.random.Generator
) -> Float[np.ndarray, "k f"]:
    """Directions, one for each micro-cluster; see :func:`signs_of`.

    With the sums M_c = sum_{i in c} w_i v_i, signs c of the clusters maximise
    ``c' Q c``, Q = M A M' / n, turned one at a time from the given signs, the main
    eigenvectors and random starts.
    """
    lines = line_clusters(V, min(_CLUSTERS, len(V) // 8), random)
    cluster, sign = _nearest_line(V, lines)
    member = (np.arange(len(lines))[:, None] == cluster[None]) * sign[None]
    M = member.astype(np.float32) @ V
    Q = M.astype(np.float64) @ np.linalg.solve(_ridged(V), M.T.astype(np.float64))
    Q = (Q + Q.T) / (2 * len(V))
    vectors = np.linalg.eigh(Q)[1][:, -3:].T
    starts = np.concatenate(
        [
            member.sum(axis=1)[None],
            vectors,
            random.choice([-1.0, 1.0], (_RESTARTS, len(lines))),
        ]
    )
    return lines * best_cut(Q, np.where(starts < 0, -1.0, 1.0))[:, None]


def line_clusters(
    V: Float[np.ndarray, "n f"], k: int, random: np.random.Generator
) -> Float[np.ndarray, "k f"]:
    """k-means of the lines through 0 and v: unit directions, similarity |v.c| / |v|."""
    length = np.linalg.norm(V, axis=1, keepdims=True)
    N = V / np.where(length > 0, length, 1)
    lines = N[random.permutation(len(N))[:k]]
    for _ in range(_CLUSTER_STEPS):
        cluster, sign = _nearest_line(N, lines)
        member = (np.arange(k)[:, None] == cluster[None]) * sign[None]
        sums = member.astype(np.float32) @ N
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        lines = np.where(length > 0, sums / np.where(length > 0, length, 1), lines)
    return lines


def _nearest_line(
    V: Float[np.ndarray, "n f"], lines: Float[np.ndarray, "k f"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The cluster of each sample, and the sign that turns it along its line."""
    along = V @ lines.T
    cluster = np.abs(along).argmax(axis=1)
    turned = np.take_along_axis(along, cluster[:, None], axis=1)[:, 0] < 0
    return cluster, np.where(turned, -1, 1)


def signs_of(
    V: Float[np.ndarray, "n f"], lines: Float[np.ndarray, "k f"]
) -> Int[np.ndarray, " n"]:
    """+1 where the nearest line is met along its direction, else -1."""
    return _nearest_line(V, lines)[1]


def best_cut(
    Q: Float[np.ndarray, "k k"], starts: Float[np.ndarray, "s k"]
) -> Float[np.ndarray, " k"]:
    """The best of local maxima of c' Q c over c in {-1, 1}^k, by single turns."""
    c, rows = starts.copy(), np.arange(len(starts))
    field = c @ Q
    for _ in range(20 * len(Q)):
        gain = np.diag(Q)[None] - c * field
        turn = gain.argmax(axis=1)
        grows = gain[rows, turn] > 1e-12
        if not grows.any():
            break
        change = np.where(grows, -2 * c[rows, turn], 0.0)
        c[rows, turn] += change
        field += change[:, None] * Q[turn]
    return c[(c * field).sum(axis=1).argmax()]


def _ridged(V: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "f f"]:
    """V'V + rho tr(V'V) / f I, in double precision."""
    gram = (V.T @ V).astype(np.float64)
    f = len(gram)
    # The smallest number keeps poses without any volume (all flat) solvable.
    return gram + (RIDGE * np.trace(gram) / f + np.finfo(float).tiny) * np.eye(f)


def rule_of(
    V: Float[np.ndarray, "n f"], signs: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " f"]:
    """u = A V' b, the ridge regression of the signs on the volumes."""
    return np.linalg.solve(_ridged(V), V.T.astype(np.float64) @ signs)


def explained(V: Float[np.ndarray, "n f"], signs: Int[np.ndarray, " n"]) -> float:
    """J(b)."""
    return float((V.T.astype(np.float64) @ signs) @ rule_of(V, signs) / len(V))


# --- is there a handedness at all? --------------------------------------------------


def pose_clusters(
    poses: Float[np.ndarray, "n p 3"], random: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Eight clusters of poses, blind to motion and reflection: k-means of distances."""
    X = poses - poses.mean(axis=1, keepdims=True)
    size = np.sqrt((X**2).sum((1, 2), keepdims=True))
    X = X / np.where(size > 0, size, 1)
    i, j = np.triu_indices(X.shape[1], 1)
    pairs = random.permutation(len(i))[:400]
    D = np.linalg.norm(X[:, i[pairs]] - X[:, j[pairs]], axis=-1).astype(np.float32)
    k = max(2, min(8, len(D) // 20))
    centres = D[random.permutation(len(D))[:k]]
    cluster = np.zeros(len(D), np.int64)
    for _ in range(_CLUSTER_STEPS):
        cluster = ((centres**2).sum(1)[None] - 2 * D @ centres.T).argmin(axis=1)
        for c in np.unique(cluster):
            centres[c] = D[cluster == c].mean(axis=0)
    return cluster


def split_scores(
    V: Float[np.ndarray, "n f"],
    cluster: Int[np.ndarray, " n"],
    random: np.random.Generator,
) -> tuple[float, float]:
    """``bimodality`` and ``split`` of :class:`Handedness`.

    Whole clusters of poses go to one half or the other, so that a rule is judged on
    poses unlike those it was learned from.
    """
    first = _half(cluster, random)
    values = []
    for part in (first, ~first):
        X = V[part] * random.choice([-1, 1], (part.sum(), 1)).astype(np.float32)
        values.append(V @ rule_of(X, signs_of(X, synchronised_lines(X, random))))
    p, q = values
    same = float(np.mean(p * q > 0))
    unseen = np.concatenate([p[~first], q[first]])
    square = float(np.mean(unseen**2))
    bimodality = float(np.mean(np.abs(unseen))) ** 2 / square if square > 0 else 0.0
    return bimodality, max(same, 1 - same)


def _half(
    cluster: Int[np.ndarray, " n"], random: np.random.Generator
) -> Bool[np.ndarray, " n"]:
    """About half of the samples, whole clusters; at least 8 on either side."""
    order = random.permutation(np.unique(cluster))
    sizes = np.cumsum([np.sum(cluster == c) for c in order])
    first = np.isin(cluster, order[: 1 + int(np.searchsorted(sizes, len(cluster) / 2))])
    if min(first.sum(), (~first).sum()) < 8:
        first = np.arange(len(cluster)) % 2 == 0
    return first
