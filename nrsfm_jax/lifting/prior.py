"""What is known before the first new landmark: shapes, network, training landmarks."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from nrsfm_jax.em import GaussianMixture
from nrsfm_jax.lifting.batches import repeated
from nrsfm_jax.lifting.looser import Looser, Terms, as_fitted, looser, terms_of
from nrsfm_jax.lifting.patches import least_box
from nrsfm_jax.teacher import Teacher

# Of the landmarks, patch units. The least that depth is estimated with, because the
# error of shapes that were fitted to others is like noise, and with shapes that were
# fitted to the same landmarks; and above which level the landmarks as expected are
# better than as given.
LEAST_NOISE, LEAST_ADAPTED, EXACT = 0.02, 0.01, 0.01
# Training samples to compare with.
COMPARED = 500
# By which share of its depth the network may differ from itself on the mirror image.
_ALIKE = 0.7


@dataclasses.dataclass(frozen=True, eq=False)
class Prior:
    """A teacher as lifting uses it.

    Attributes:
        shapes: of the EM.
        teacher: the network.
        padding: side of the crop over the longer side of the landmarks' box.
        W: (M, P, 2) training landmarks, centred, patch units.
        labelled: (M, P) which of them are known.
        adapted: whether ``shapes`` were fitted to the landmarks to be lifted as well.
        share: of the network in the depth, at most; 0 where it has not seen what the
            shapes have.
    """

    shapes: GaussianMixture
    teacher: Teacher
    padding: float
    W: Float[np.ndarray, "m p 2"]
    labelled: Bool[np.ndarray, "m p"]
    adapted: bool = False
    share: float = 0.5

    @property
    def least(self) -> float:
        """The noise that depth is estimated with at least, patch units."""
        return LEAST_ADAPTED if self.adapted else LEAST_NOISE

    def variance(
        self, doubt: Float[np.ndarray, "n p"], level: float
    ) -> Float[np.ndarray, "n p"]:
        """Of each landmark's noise, at a level for all."""
        return np.maximum(doubt * level**2, self.least**2).astype(np.float32)

    @functools.cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """The bones."""
        return tuple((int(a), int(b)) for a, b in self.teacher.skeleton["edges"])

    @functools.cached_property
    def pairs(self) -> Looser:
        """The looser shapes; as fitted where that was to the landmarks themselves."""
        return as_fitted(self.shapes) if self.adapted else looser(self.shapes)

    @functools.cached_property
    def _kept(self) -> dict[float, Terms]:
        return {}

    def terms(self, noise: float) -> Terms:
        """Of all pairs at a noise level; the last two levels are kept."""
        if noise not in self._kept:
            terms = terms_of(self.pairs, jnp.float32(noise))
            for level in list(self._kept)[:-1]:
                del self._kept[level]
            self._kept[noise] = jax.block_until_ready(terms)
        return self._kept[noise]

    @functools.cached_property
    def reach(self) -> float:
        """The least that a training sample's box shrinks to without one joint."""
        some = slice(COMPARED)
        shrunk = least_box(self.W[some], self.labelled[some])[1]
        return 0.8 * float(np.quantile(shrunk, 0.005))

    def network_depth(
        self, W: Float[np.ndarray, "n p 2"], labelled: Bool[np.ndarray, "n p"]
    ) -> Float[np.ndarray, "n p"]:
        """As trained, 0 on average; of the landmarks and of their mirror image."""
        depth, joints = self._said(W, labelled), self._mirror
        if joints is not None:
            depth = (depth + self._mirrored(W, labelled, joints)) / 2
        return depth

    @functools.cached_property
    def _mirror(self) -> Int[np.ndarray, " p"] | None:
        """The joints of a mirror image; None where the network cannot lift these."""
        pairs = self.teacher.skeleton["left_right"]
        if self.adapted or not pairs:
            return None  # what it was trained on it knows better
        joints = np.arange(self.W.shape[1])
        left, right = np.transpose(pairs)
        joints[left], joints[right] = right, left
        some = self.W[:COMPARED], self.labelled[:COMPARED]
        # It may have seen one side of an animal alone.
        depth = self._said(*some)
        apart = depth - self._mirrored(*some, joints)
        alike = np.mean(apart**2) < _ALIKE**2 * np.mean(depth**2)
        return joints if alike else None

    def _mirrored(
        self,
        W: Float[np.ndarray, "n p 2"],
        labelled: Bool[np.ndarray, "n p"],
        joints: Int[np.ndarray, " p"],
    ) -> Float[np.ndarray, "n p"]:
        W = W[:, joints] * np.array([-1, 1], np.float32)
        return self._said(W, labelled[:, joints])[:, joints]

    def _said(
        self, W: Float[np.ndarray, "n p 2"], labelled: Bool[np.ndarray, "n p"]
    ) -> Float[np.ndarray, "n p"]:
        teacher = dataclasses.replace(self.teacher, depth_sign=1)
        rows = repeated(len(W))
        W = (W - W.mean(1, keepdims=True))[rows]
        said = teacher.reconstruct(W, labelled[rows], rows)
        depth = said.poses(teacher.dictionary)[..., 2][: len(labelled)]
        return depth - depth.mean(1, keepdims=True)
