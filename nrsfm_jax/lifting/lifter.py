"""New landmarks to 3D by a trained teacher: no pictures, no 3D, no training."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from nrsfm_jax import teacher as teachers
from nrsfm_jax.em import GaussianMixture, read_fit
from nrsfm_jax.em.gaussians import PairTerms
from nrsfm_jax.em.samples import equal_gaps
from nrsfm_jax.lifting.looser import Looser, looser, terms_of
from nrsfm_jax.lifting.patches import Patches, extent, patches_of
from nrsfm_jax.lifting.posterior import PoseGiven, poses_given

# Of the landmarks, patch units, at least: the error of shapes that were fitted to
# others is like noise.
LEAST_NOISE = 0.02
# Frames handled together, a bound on memory; training samples to compare with.
_TOGETHER, _COMPARED = 256, 500


@dataclasses.dataclass(frozen=True)
class Lifted:
    """N poses of P joints, as NumPy arrays; NaN where a frame shows too little.

    Pixels are those of the landmarks. The camera frame is x right, y down, z away from
    the camera. One camera tells no millimetres: depth is in the same pixels.

    Attributes:
        keypoints_3d: (N, P, 3) camera frame, pixels, relative to the root joint.
        keypoints_3d_std: (N, P, 3) standard deviation of each joint's place about the
            middle of the body, same unit: 95 of 100 lie within 1.96 of it.
        keypoints: (N, P, 2) pixels: the landmarks as given, and as expected where they
            are missing or outliers, or where the landmarks are noisy.
        depth_flip_probability: (N,) that the whole pose is mirrored in depth.
        log_evidence: (N,) log density of the landmarks, nats a joint.
        evidence_quantile: (N,) share of the training samples that are less likely:
            near 0 the teacher has not seen such a pose.
        outlier: (N, P) landmarks that were not believed.
        noise: standard deviation of the landmarks that was assumed, as a share of the
            longer side of their box.
        inflation: factor by which the standard deviations were enlarged.
        focal: focal length in pixels that was used; None: weak perspective.
        covariance: (N, 3P, 3P) pixels squared, rows x1 y1 z1 x2 ..., about the middle
            of the body; None where not asked for.
        skeleton: as ``Skeleton.to_dict()`` gives it.
    """

    keypoints_3d: Float[np.ndarray, "n p 3"]
    keypoints_3d_std: Float[np.ndarray, "n p 3"]
    keypoints: Float[np.ndarray, "n p 2"]
    depth_flip_probability: Float[np.ndarray, " n"]
    log_evidence: Float[np.ndarray, " n"]
    evidence_quantile: Float[np.ndarray, " n"]
    outlier: Bool[np.ndarray, "n p"]
    noise: float
    inflation: float
    focal: float | None
    skeleton: Mapping[str, Any]
    covariance: Float[np.ndarray, "n d d"] | None = None

    def __len__(self) -> int:
        return len(self.keypoints_3d)


@dataclasses.dataclass(frozen=True, eq=False)
class PoseLifter:
    """A teacher ready for new landmarks; see :meth:`load`.

    Attributes:
        shapes: of the EM.
        teacher: the network.
        padding: side of the crop over the longer side of the landmarks' box.
        W: (M, P, 2) training landmarks to compare with, centred, patch units.
        labelled: (M, P) which of them are known.
    """

    shapes: GaussianMixture
    teacher: teachers.Teacher
    padding: float
    W: Float[np.ndarray, "m p 2"]
    labelled: Bool[np.ndarray, "m p"]

    @classmethod
    def load(cls, path: str | Path) -> PoseLifter:
        """The teacher of a run.

        Args:
            path: the workdir, or its folder ``teacher``.

        Raises:
            ValueError: no teacher there, or one without the EM's shapes.
        """
        folder = Path(path)
        folder = folder if (folder / "teacher.json").exists() else folder / "teacher"
        teacher = teachers.load(folder)
        fitted = read_fit(folder / "em.safetensors")
        if fitted is None:
            raise ValueError(
                f"{folder} has no em.safetensors: only a teacher that the EM guides "
                "(config.teacher.em.guide_fraction > 0) can lift; train it anew"
            )
        split = teachers.load_reconstruction(folder, "train")
        most = split.labelled.sum(1).argsort(kind="stable")[::-1]
        rows = np.sort(most[: max(_COMPARED, len(most) // 2)])
        rows = np.random.default_rng(0).permutation(rows)[:_COMPARED]
        W, labelled = np.asarray(split.W[rows]), np.asarray(split.labelled[rows])
        # As trained: the crops were of the landmarks or of annotated boxes.
        padding = float(np.median(2 / np.maximum(extent(W, labelled), 1e-6)))
        return cls(fitted[0], teacher, padding, W, labelled)

    @functools.cached_property
    def pairs(self) -> Looser:
        """The looser shapes."""
        return looser(self.shapes)

    @functools.cached_property
    def _kept(self) -> dict[float, PairTerms]:
        return {}

    def _terms(self, noise: float) -> PairTerms:
        """Of all pairs at a noise level; the last two levels are kept."""
        if noise not in self._kept:
            terms = terms_of(self.pairs, jnp.float32(noise))
            self._kept[noise] = jax.block_until_ready(terms)
            for level in list(self._kept)[:-2]:
                del self._kept[level]
        return self._kept[noise]

    def __call__(
        self,
        xy: Float[np.ndarray, "n p 2"],
        score: Float[np.ndarray, "n p"] | None = None,
        track: Int[np.ndarray, " n"] | None = None,
        focal: float | None = None,
        principal: tuple[float, float] | None = None,
        *,
        covariance: bool = False,
    ) -> Lifted:
        """The 3D pose of every frame.

        Args:
            xy: (N, P, 2) pixels, x right, y down, joints in the skeleton's order; NaN
                where a joint is missing.
            score: (N, P) of a detector, larger is surer.
            track: (N,) number of the individual and recording that each frame belongs
                to, frames of a track in their order; by default every frame is by
                itself.
            focal: focal length in pixels; by default weak perspective.
            principal: (x, y) pixels where the optical axis meets the picture.
            covariance: also of the whole pose.

        Raises:
            ValueError: arrays of another shape.
        """
        xy, labelled = self._checked(xy)
        patches = patches_of(xy, labelled, padding=self.padding)
        noise = LEAST_NOISE
        variance = np.full(labelled.shape, noise**2, np.float32)
        parts = [
            self._lift(patches, variance, noise, rows, covariance)
            for rows in np.array_split(
                np.arange(len(xy)), max(1, -(-len(xy) // _TOGETHER))
            )
        ]
        fields: dict[str, Any] = {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }
        evidence = fields["log_evidence"]
        quantile = np.searchsorted(self._evidence(noise), evidence) / len(self.W)
        return Lifted(
            **fields,
            evidence_quantile=np.where(np.isnan(evidence), 0, quantile),
            noise=noise * self.padding / 2,
            inflation=1.0,
            focal=focal,
            skeleton=self.teacher.skeleton,
        )

    def _checked(
        self, xy: Float[np.ndarray, "n p 2"]
    ) -> tuple[Float[np.ndarray, "n p 2"], Bool[np.ndarray, "n p"]]:
        xy, P = np.asarray(xy, np.float64), self.W.shape[1]
        if xy.ndim != 3 or xy.shape[1:] != (P, 2):
            names = ", ".join(self.teacher.skeleton["joints"])
            raise ValueError(
                f"xy has shape {xy.shape}, but the teacher has {P} joints ({names}): "
                f"give (frames, {P}, 2), NaN where a joint is missing"
            )
        return xy, np.all(np.isfinite(xy), axis=-1)

    def _given(
        self, W: np.ndarray, labelled: np.ndarray, variance: np.ndarray, noise: float
    ) -> PoseGiven:
        """The EM's posterior of any frames."""
        out: list[Any] = [None] * len(PoseGiven._fields)
        for rows, gaps in equal_gaps(labelled, chunk=_TOGETHER):
            own = (jnp.asarray(x[rows]) for x in (W, labelled, variance))
            found = poses_given(self.pairs, self._terms(noise), *own, gaps=gaps)
            for i, part in enumerate(jax.device_get(found)):
                if out[i] is None:
                    out[i] = np.empty((len(W), *part.shape[1:]), np.float32)
                out[i][rows] = part
        return PoseGiven(*out)

    def _evidence(self, noise: float) -> Float[np.ndarray, " m"]:
        """Of the training samples, nats a joint, ascending."""
        variance = np.full(self.labelled.shape, noise**2, np.float32)
        found = self._given(self.W, self.labelled, variance, noise)
        return np.sort(found.log_p / np.maximum(self.labelled.sum(1), 1))

    def _lift(
        self,
        patches: Patches,
        variance: Float[np.ndarray, "n p"],
        noise: float,
        rows: Int[np.ndarray, " m"],
        covariance: bool,
    ) -> dict[str, np.ndarray]:
        """The arrays of :class:`Lifted` of some frames."""
        W, labelled, mean, half_side = (x[rows] for x in patches)
        found = self._given(W, labelled, variance[rows], noise)
        image = np.where(labelled[..., None], W, found.image)
        depth = (found.pose[..., 2] + self._teacher_depth(image, labelled)) / 2
        xy = image - image.mean(1, keepdims=True)
        pose = np.concatenate([xy, self.teacher.depth_sign * depth[..., None]], -1)
        root = self.teacher.skeleton["root"]
        pixels = np.where(labelled.sum(1) >= 2, half_side, np.nan)[:, None, None]
        sd = np.sqrt(np.einsum("naa->na", found.covariance)).reshape(pose.shape)
        signs = np.tile([1, 1, self.teacher.depth_sign], pose.shape[1])
        fields = {
            "keypoints_3d": (pose - pose[:, root : root + 1]) * pixels,
            "keypoints_3d_std": sd * pixels,
            "keypoints": image * pixels + mean[:, None],
            "depth_flip_probability": found.mirrored,
            "log_evidence": np.where(
                labelled.any(1), found.log_p / np.maximum(labelled.sum(1), 1), np.nan
            ),
            "outlier": np.zeros(labelled.shape, bool),
        }
        if covariance:
            signed = found.covariance * signs[:, None] * signs[None, :]
            fields["covariance"] = signed * pixels**2
        return fields

    def _teacher_depth(
        self, W: Float[np.ndarray, "n p 2"], labelled: Bool[np.ndarray, "n p"]
    ) -> Float[np.ndarray, "n p"]:
        """The network's depth as trained, 0 on average."""
        teacher = dataclasses.replace(self.teacher, depth_sign=1)
        W = W - W.mean(1, keepdims=True)
        said = teacher.reconstruct(W, labelled, np.arange(len(W)))
        depth = said.poses(teacher.dictionary)[..., 2]
        return depth - depth.mean(1, keepdims=True)
