"""New landmarks to 3D by a trained teacher: no pictures, no 3D, no training.

For every frame: outliers are hidden, the posterior of the pose under the looser shapes
is joined with the network's depth, a near camera is corrected for, and the lengths of
the bones sharpen the depth.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from nrsfm_jax.em import read_fit
from nrsfm_jax.em.samples import Samples
from nrsfm_jax.lifting import bones, chain
from nrsfm_jax.lifting.adapt import refit
from nrsfm_jax.lifting.batches import TOGETHER
from nrsfm_jax.lifting.frames import Frames, frames_of, given_by, outliers_of, posed
from nrsfm_jax.lifting.patches import Patches, extent, patches_of
from nrsfm_jax.lifting.prior import COMPARED, EXACT, Prior
from nrsfm_jax.lifting.records import Landmarks, Lifted, Setting, take
from nrsfm_jax.lifting.setting import choose_setting
from nrsfm_jax.lifting.tracks import SHORTEST, single_depth, track_depth
from nrsfm_jax.teacher import load as load_teacher
from nrsfm_jax.teacher import load_reconstruction

# Training samples to fit again with, and new ones.
_TRAINING = 4000
# Less likely than all but this share of the training samples: nothing that the shapes
# know.
_UNLIKELY = 0.002
# What is left of a frame's variance beside the others of its track. The looser shapes
# say nothing of it: their errors in frames that follow each other are alike.
_JOINED = 0.5


class PoseLifter(Prior):
    """A teacher ready for new landmarks; see :meth:`load`."""

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
        teacher = load_teacher(folder)
        fitted = read_fit(folder / "em.safetensors")
        if fitted is None:
            raise ValueError(
                f"{folder} has no em.safetensors: only a teacher that the EM guides "
                "(config.teacher.em.guide_fraction > 0) can lift; train it anew"
            )
        split = load_reconstruction(folder, "train")
        rows = np.random.default_rng(0).permutation(len(split))[:_TRAINING]
        # Those that miss fewest first: they are compared with.
        rows = rows[np.argsort((~split.labelled[rows]).sum(1), kind="stable")]
        W, labelled = np.asarray(split.W[rows]), np.asarray(split.labelled[rows])
        # As trained: the crops were of the landmarks or of annotated boxes.
        padding = float(np.median(2 / np.maximum(extent(W, labelled), 1e-6)))
        return cls(fitted[0], teacher, padding, W, labelled)

    def __call__(
        self,
        xy: np.ndarray,
        score: np.ndarray | None = None,
        track: np.ndarray | None = None,
        focal: float | None = None,
        principal: tuple[float, float] | None = None,
        *,
        noise: float | None = None,
        covariance: bool = False,
    ) -> Lifted:
        """The 3D pose of every frame.

        Args:
            xy: (N, P, 2) pixels, x right, y down, joints in the skeleton's order; NaN
                where a joint is missing.
            score: (N, P) of a detector, larger is surer.
            track: (N,) number of the individual and recording that each frame belongs
                to, frames of a track in their order and at one scale; by default every
                frame is by itself.
            focal: focal length in pixels; ``inf`` is weak perspective; by default the
                likeliest of some, weak perspective among them.
            principal: (x, y) pixels where the optical axis meets the picture, its
                middle as a rule; by default the middle of all landmarks.
            noise: standard deviation of the landmarks as a share of the longer side of
                their box; by default the likeliest of some.
            covariance: also of the whole pose.

        Raises:
            ValueError: arrays of another shape, noise that is not above 0, or a focal
                length or principal point that no camera has.
        """
        given = self._landmarks(xy, score)
        track = _numbers(track, len(given.xy))
        ell = self._proportions
        setting = choose_setting(self, given, track, noise, focal, principal, ell)
        known = self._evidence(setting)
        setting = setting._replace(unlikely=float(np.quantile(known, _UNLIKELY)))
        fields: dict[str, Any] = {}
        for rows, part in self._parts(given, track, setting, covariance):
            for name, values in part.items():
                if name not in fields:
                    dtype = bool if values.dtype == bool else np.float32
                    fields[name] = np.empty((len(track), *values.shape[1:]), dtype)
                fields[name][rows] = values
        if not fields:
            raise ValueError("xy holds no frame")
        log_p = fields["log_evidence"]
        quantile = np.searchsorted(known, log_p) / len(known)
        return Lifted(
            **fields,
            evidence_quantile=np.where(np.isnan(log_p), 0, quantile).astype(np.float32),
            noise=setting.level * self.padding / 2,
            inflation=setting.inflation,
            focal=setting.focal,
            skeleton=self.teacher.skeleton,
        )

    def adapt(
        self,
        xy: np.ndarray,
        score: np.ndarray | None = None,
        track: np.ndarray | None = None,
    ) -> PoseLifter:
        """The lifter of shapes fitted again, to these landmarks as well.

        It pays from about 1,000 new landmarks on, to lift these or others of the same
        subjects and motions. The frame and the sign of depth stay.

        Args:
            xy: as in :meth:`__call__`.
            score: likewise.
            track: likewise.

        Raises:
            ValueError: arrays of another shape, fewer than 2 frames with half of the
                joints, or shapes that come to no finite end.
        """
        every = self._landmarks(xy, score)
        telling = np.flatnonzero(2 * every.labelled.sum(1) >= every.labelled.shape[1])
        if len(telling) < 2:
            raise ValueError(
                f"{len(telling)} of {len(every.xy)} frames show half of the joints: too"
                " few to adapt to; lift without (--config.lift.adapt=0)"
            )
        number = _numbers(track, len(every.xy))
        ell = self._proportions
        level = choose_setting(self, every, number, None, np.inf, None, ell).level
        some = take(every, np.random.default_rng(0).permutation(telling)[:_TRAINING])
        believed = some.labelled & ~outliers_of(self, some, level)
        new = patches_of(some.xy, believed, padding=self.padding)
        found = given_by(self, new, some.doubt, level)
        shapes = refit(
            self.shapes,
            Samples(self.W, self.labelled),
            Samples(new.W, new.labelled),
            np.asarray(found.pose),
            np.asarray(found.log_p) / np.maximum(new.labelled.sum(1), 1),
            sigma=level if level > EXACT else float(self.shapes.sigma),
        )
        return dataclasses.replace(self, shapes=shapes, adapted=True, share=0.0)

    def _landmarks(self, xy: np.ndarray, score: np.ndarray | None) -> Landmarks:
        xy, P = np.asarray(xy, np.float64), self.W.shape[1]
        if xy.ndim != 3 or xy.shape[1:] != (P, 2):
            names = ", ".join(self.teacher.skeleton["joints"])
            raise ValueError(
                f"xy has shape {xy.shape}, but the teacher has {P} joints ({names}): "
                f"give (frames, {P}, 2), NaN where a joint is missing"
            )
        labelled = np.all(np.isfinite(xy), axis=-1)
        return Landmarks(xy, labelled, _doubt(score, labelled))

    # --- all frames -----------------------------------------------------------------

    def _parts(
        self,
        landmarks: Landmarks,
        track: Int[np.ndarray, " n"],
        setting: Setting,
        covariance: bool,
    ) -> Iterator[tuple[Int[np.ndarray, " m"], dict[str, np.ndarray]]]:
        """Rows and their arrays of :class:`Lifted`, in constant memory."""
        for number in np.unique(track):
            rows = np.flatnonzero(track == number)
            windows = np.array_split(rows, -(-len(rows) // TOGETHER))
            done = frames = None
            if number >= 0 and self.edges:
                # A short track is all there is; of a long one some frames tell the
                # lengths of the bones.
                spread = np.linspace(0, len(rows) - 1, len(windows[0])).astype(int)
                frames = frames_of(self, take(landmarks, rows[spread]), setting)
                likely, short = chain.Lengths(setting.ell), len(windows) == 1
                done = track_depth(self, frames, setting.level, likely, following=short)
            for window in windows:
                if frames is None or len(windows) > 1:
                    frames = frames_of(self, take(landmarks, window), setting)
                    if done:
                        done = track_depth(self, frames, setting.level, done[2])
                if done:
                    frames, depth, _ = done
                elif self.edges:
                    depth = single_depth(frames, setting.level, setting.ell, self.edges)
                else:
                    depth = frames.m
                left = _JOINED if done and not self.adapted else 1.0
                yield window, self._arrays(frames, depth, setting, left, covariance)

    def _arrays(
        self,
        frames: Frames,
        depth: Float[np.ndarray, "n p"],
        setting: Setting,
        left: float,
        covariance: bool,
    ) -> dict[str, np.ndarray]:
        """Those of :class:`Lifted`; ``left`` is a factor of the variances."""
        patches, given = frames.patches, frames.given
        count, sign = patches.labelled.sum(1), self.teacher.depth_sign
        n, P = depth.shape
        xy = frames.image - frames.image.mean(1, keepdims=True)
        pose = np.concatenate([xy, sign * depth[..., None]], -1)
        root = self.teacher.skeleton["root"]
        pixels = np.where(count >= 2, patches.half_side, np.nan)[:, None, None]
        C = setting.inflation**2 * given.covariance
        # What shapes, network and bones differ by belongs to the error of the depth.
        apart = frames.apart[:, None, None] * (np.eye(P) - 1 / P)
        apart = apart + np.square(depth - frames.m)[:, :, None] * np.eye(P)
        C.reshape(n, P, 3, P, 3)[:, :, 2, :, 2] += apart.astype(np.float32)
        C *= left
        variance = np.einsum("naa->na", C).reshape(n, P, 3)
        log_p = given.log_p / np.maximum(count, 1)
        keypoints = frames.image * pixels + patches.mean[:, None]
        about = setting.principal
        fields = {
            "keypoints_3d": (pose - pose[:, root : root + 1]) * pixels,
            "keypoints_3d_std": np.sqrt(np.maximum(variance, 0)) * pixels,
            "keypoints": about + (keypoints - about) / frames.factor[..., None],
            "depth_flip_probability": np.where(count >= 2, given.mirrored, 0.5),
            "log_evidence": np.where(count >= 2, log_p, np.nan),
            "outlier": frames.outlier,
        }
        if covariance:
            signs = np.tile([1, 1, sign], P)
            fields["covariance"] = C * signs[:, None] * signs[None, :] * pixels**2
        return fields

    # --- of the training ------------------------------------------------------------

    @functools.cached_property
    def _training(self) -> Frames:
        W, labelled = self.W[:COMPARED], self.labelled[:COMPARED]
        patches = Patches(W, labelled, np.zeros((len(W), 2)), np.ones(len(W)))
        doubt, outlier = np.ones(labelled.shape), np.zeros(labelled.shape, bool)
        return posed(self, patches, outlier, doubt, EXACT)

    @functools.cached_property
    def _proportions(self) -> Float[np.ndarray, " b"]:
        """Lengths of the bones, patch units, of the training samples as lifted."""
        if not self.edges:
            return np.zeros(0, np.float32)
        frames = self._training
        poses = np.concatenate([frames.image, frames.m[..., None]], -1)
        return bones.proportions(poses, self.edges, self.teacher.skeleton["left_right"])

    def _evidence(self, setting: Setting) -> Float[np.ndarray, " m"]:
        """Of training samples as noisy as the frames, nats a joint, ascending."""
        W, labelled = self._training.patches.W, self._training.patches.labelled
        log_p = self._training.given.log_p
        if setting.level > self.least:
            more = setting.beyond if setting.beyond > EXACT else 0.0
            noise = np.random.default_rng(0).normal(size=W.shape) * more
            noisy = np.where(labelled[..., None], W + noise, np.nan)
            patches = patches_of(noisy, labelled, padding=self.padding)
            doubt = np.ones(labelled.shape)
            log_p = given_by(self, patches, doubt, setting.level).log_p
        return np.sort(log_p / np.maximum(labelled.sum(1), 1))


def _numbers(track: np.ndarray | None, count: int) -> Int[np.ndarray, " n"]:
    """A number for the track of each frame; -1 where it is by itself."""
    if track is None:
        return np.full(count, -1)
    if np.shape(track) != (count,):
        raise ValueError(f"track has shape {np.shape(track)} for {count} frames")
    _, number, size = np.unique(track, return_inverse=True, return_counts=True)
    return np.where(size[number] >= SHORTEST, number, -1)


def _doubt(
    score: np.ndarray | None, labelled: Bool[np.ndarray, "n p"]
) -> Float[np.ndarray, "n p"]:
    """Factor of each landmark's variance: 1 for the median score, more for less."""
    if score is None:
        return np.ones(labelled.shape)
    score = np.asarray(score, np.float64)
    if score.shape != labelled.shape:
        raise ValueError(
            f"score has shape {score.shape} for landmarks {labelled.shape}"
        )
    known = score[labelled & np.isfinite(score)]
    if not len(known) or not np.median(known) > 0:
        return np.ones(labelled.shape)
    least = np.median(known) / 100
    doubt = np.median(known) / np.maximum(np.nan_to_num(score), least)
    return np.clip(doubt, 0.01, 100)
