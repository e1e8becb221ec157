"""New landmarks to 3D by a trained teacher: no pictures, no 3D, no training.

For every frame: outliers are hidden, the posterior of the pose under the looser shapes
is joined with the network's depth, a near camera is corrected for, and the lengths of
the bones sharpen the depth.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from nrsfm_jax import teacher as teachers
from nrsfm_jax.em import GaussianMixture, read_fit
from nrsfm_jax.em.gaussians import PairTerms
from nrsfm_jax.em.samples import Samples
from nrsfm_jax.lifting import bones, cameras, hidden
from nrsfm_jax.lifting.adapt import refit
from nrsfm_jax.lifting.batches import TOGETHER, groups_of, repeated
from nrsfm_jax.lifting.looser import Looser, as_fitted, looser, terms_of
from nrsfm_jax.lifting.patches import Patches, extent, far_joints, least_box, patches_of
from nrsfm_jax.lifting.posterior import PoseGiven, poses_given

# Of the landmarks, patch units. The levels that are tried; the least that depth is
# estimated with, because the error of shapes that were fitted to others is like noise,
# and with shapes that were fitted to the same landmarks; and above which level the
# landmarks as expected are better than as given.
LEVELS = (0.01, 0.02, 0.04, 0.08, 0.16)
LEAST_NOISE, LEAST_ADAPTED, EXACT = 0.02, 0.01, 0.01
# The least and the greatest factor of the standard deviations.
INFLATION = (1.1, 2.0)
# Training samples to compare with; frames that the noise and the inflation are chosen
# by; training samples to fit again with.
_COMPARED, _CHOSEN, _TRAINING = 500, 150, 4000
# Frames of a track that tell the lengths of its bones; of a call that tell its noise.
_SHORTEST, _FEWEST = 10, 10
# Of a noisy track: standard deviation of the filter on x and y, frames.
_SMOOTH = 1.5
# Posterior share of the views in any rotation from which on views in between count.
_FREE = 0.5


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


class Setting(NamedTuple):
    """What holds for all frames of a call; the least where they are few.

    Attributes:
        level: noise of the landmarks, patch units; ``LEVELS[0]`` says exact.
        inflation: factor of the standard deviations.
        focal: pixels; None: weak perspective.
        principal: pixels.
    """

    level: float
    inflation: float = 1.0
    focal: float | None = None
    principal: Float[np.ndarray, " 2"] = np.zeros(2)


class Frames(NamedTuple):
    """Frames on their way to 3D, patch units; depths as trained."""

    patches: Patches
    outlier: Bool[np.ndarray, "n p"]
    given: PoseGiven
    image: Float[np.ndarray, "n p 2"]  # in the frame of W
    m: Float[np.ndarray, "n p"]  # depth, half of it the network's
    C: Float[np.ndarray, "n p p"]  # covariance of the depth
    apart: Float[np.ndarray, " n"]  # mean square of what network and shapes differ by
    factor: Float[np.ndarray, "n p"]  # by which a near camera was corrected for


@dataclasses.dataclass(frozen=True, eq=False)
class PoseLifter:
    """A teacher ready for new landmarks; see :meth:`load`.

    Attributes:
        shapes: of the EM.
        teacher: the network.
        padding: side of the crop over the longer side of the landmarks' box.
        W: (M, P, 2) training landmarks, centred, patch units.
        labelled: (M, P) which of them are known.
        adapted: whether ``shapes`` were fitted to the landmarks to be lifted as well.
    """

    shapes: GaussianMixture
    teacher: teachers.Teacher
    padding: float
    W: Float[np.ndarray, "m p 2"]
    labelled: Bool[np.ndarray, "m p"]
    adapted: bool = False

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
            ValueError: arrays of another shape, a focal length or noise not above 0.
        """
        xy, labelled = self._checked(xy)
        track = self._checked_track(track, len(xy))
        doubt = _doubt(score, labelled)
        setting = self._setting(xy, labelled, doubt, noise, focal, principal)
        fields: dict[str, Any] = {}
        for rows, part in self._parts(xy, labelled, doubt, setting, track, covariance):
            for name, values in part.items():
                if name not in fields:
                    dtype = bool if values.dtype == bool else np.float32
                    fields[name] = np.empty((len(xy), *values.shape[1:]), dtype)
                fields[name][rows] = values
        if not fields:
            raise ValueError("xy holds no frame")
        quantile = np.searchsorted(
            self._evidence(setting.level), fields["log_evidence"]
        ) / min(len(self.W), _COMPARED)
        return Lifted(
            **fields,
            evidence_quantile=np.where(
                np.isnan(fields["log_evidence"]), 0, quantile
            ).astype(np.float32),
            noise=setting.level * self.padding / 2,
            inflation=setting.inflation,
            focal=setting.focal,
            skeleton=self.teacher.skeleton,
        )

    def adapt(
        self,
        xy: np.ndarray,
        score: np.ndarray | None = None,
    ) -> PoseLifter:
        """The lifter of shapes fitted again, to these landmarks as well.

        It pays from about 1,000 new landmarks on, to lift these or others of the same
        subjects and motions. The frame and the sign of depth stay.

        Args:
            xy: as in :meth:`__call__`.
            score: likewise.

        Raises:
            ValueError: arrays of another shape, or shapes that come to no finite end.
        """
        xy, labelled = self._checked(xy)
        rows = np.random.default_rng(0).permutation(len(xy))[:_TRAINING]
        doubt = _doubt(score, labelled)
        xy, labelled, doubt = xy[rows], labelled[rows], doubt[rows]
        level = self._setting(xy, labelled, doubt, None, np.inf, None).level
        outlier = self._outliers(xy, labelled, doubt, level)
        new = patches_of(xy, labelled & ~outlier, padding=self.padding)
        given = self._given(new, doubt, level)
        shapes = refit(
            self.shapes,
            Samples(self.W, self.labelled),
            Samples(new.W, new.labelled),
            np.asarray(given.log_p) / np.maximum(new.labelled.sum(1), 1),
            sigma=level if level > EXACT else float(self.shapes.sigma),
        )
        return dataclasses.replace(self, shapes=shapes, adapted=True)

    # --- what is given ------------------------------------------------------------

    def _checked(
        self, xy: np.ndarray
    ) -> tuple[Float[np.ndarray, "n p 2"], Bool[np.ndarray, "n p"]]:
        xy, P = np.asarray(xy, np.float64), self.W.shape[1]
        if xy.ndim != 3 or xy.shape[1:] != (P, 2):
            names = ", ".join(self.teacher.skeleton["joints"])
            raise ValueError(
                f"xy has shape {xy.shape}, but the teacher has {P} joints ({names}): "
                f"give (frames, {P}, 2), NaN where a joint is missing"
            )
        return xy, np.all(np.isfinite(xy), axis=-1)

    def _checked_track(
        self, track: np.ndarray | None, count: int
    ) -> Int[np.ndarray, " n"]:
        """A number for each frame; -1 where it is by itself."""
        if track is None:
            return np.full(count, -1)
        if np.shape(track) != (count,):
            raise ValueError(f"track has shape {np.shape(track)} for {count} frames")
        _, number, size = np.unique(track, return_inverse=True, return_counts=True)
        return np.where(size[number] >= _SHORTEST, number, -1)

    def _setting(
        self,
        xy: Float[np.ndarray, "n p 2"],
        labelled: Bool[np.ndarray, "n p"],
        doubt: Float[np.ndarray, "n p"],
        noise: float | None,
        focal: float | None,
        principal: tuple[float, float] | None,
    ) -> Setting:
        """What is given, and the likeliest of what is not."""
        for name, value in (("noise", noise), ("focal", focal)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} = {value} is not above 0")
        middle = np.zeros(2)
        if labelled.any():
            middle = np.mean(xy[labelled], axis=0)
        middle = middle if principal is None else np.asarray(principal, np.float64)
        order = np.argsort((~labelled).sum(1), kind="stable")
        order = order[: max(_CHOSEN, int((labelled.all(1)).sum()))]
        order = order[labelled[order].sum(1) >= 2]
        level = EXACT if noise is None else 2 * noise / self.padding
        if len(order) < _FEWEST:
            focal = None if focal is None or np.isinf(focal) else float(focal)
            return Setting(level, INFLATION[0], focal, middle)
        rows = np.sort(np.random.default_rng(0).permutation(order)[:_CHOSEN])
        few = xy[rows], labelled[rows], doubt[rows]
        if noise is None:
            level = self._likeliest_noise(*few)
        setting = Setting(level, 1.0, None, middle)
        frames = self._frames(*few, setting)
        setting = setting._replace(inflation=self._inflation(frames, few[2], setting))
        if focal is None:
            focal = self._likeliest_focal(*few, frames, setting)
        return setting._replace(focal=None if np.isinf(focal) else float(focal))

    @property
    def _least(self) -> float:
        return LEAST_ADAPTED if self.adapted else LEAST_NOISE

    def _used(self, level: float) -> float:
        """The noise that depth is estimated with."""
        return max(level, self._least)

    def _likeliest_noise(
        self,
        xy: Float[np.ndarray, "n p 2"],
        labelled: Bool[np.ndarray, "n p"],
        doubt: Float[np.ndarray, "n p"],
    ) -> float:
        """The level of the highest median evidence, one outlier a frame allowed."""
        near = labelled & ~far_joints(xy, labelled, self._reach)
        patches = patches_of(xy, near, padding=self.padding)
        W = jnp.asarray(self._filled(patches, doubt, EXACT)[repeated(len(xy))])
        cost = jnp.asarray(hidden.price(np.full(W.shape[:2], hidden.OUTLIERS)))
        best, most = LEVELS[0], -np.inf
        for level in LEVELS:
            log_p = hidden.likeliest_but_one(self._terms(level), W, cost)[1]
            nats = float(np.median(np.asarray(log_p)[: len(xy)]))
            if nats < most:  # one maximum: the rest is less likely still
                break
            best, most = level, nats
        return best

    def _inflation(
        self, frames: Frames, doubt: Float[np.ndarray, "n p"], setting: Setting
    ) -> float:
        """Of the standard deviations, by joints that are hidden in turn."""
        rows = repeated(len(doubt))
        W, labelled, image = (
            x[rows] for x in (frames.patches.W, frames.patches.labelled, frames.image)
        )
        filled = np.where(labelled[..., None], W, image)
        cost = jnp.full(labelled.shape, np.float32(np.inf))
        x = jnp.asarray(filled - filled.mean(1, keepdims=True))
        chosen, _ = hidden.likeliest_but_one(
            self._terms(self._used(setting.level)), x, cost
        )
        variance = self._variance(doubt, setting.level)[rows]
        own = (jnp.asarray(x) for x in (W, labelled, variance))
        best = hidden.likeliest_inflation(self.pairs, chosen, *own)
        return float(np.clip(best, *INFLATION))

    def _likeliest_focal(
        self,
        xy: Float[np.ndarray, "n p 2"],
        labelled: Bool[np.ndarray, "n p"],
        doubt: Float[np.ndarray, "n p"],
        frames: Frames,
        setting: Setting,
    ) -> float:
        """Of a few, the focal length under which the corrected pictures are likely."""
        if len(xy) < cameras.LEAST:
            return np.inf
        some = slice(cameras.MOST)
        box = np.median(frames.patches.half_side[some]) * 2 / self.padding
        nats = {}
        for focal in (np.inf, *(ratio * box for ratio in cameras.RATIOS)):
            moved, factor = self._corrected(frames, focal, setting)
            patches = patches_of(
                moved[some], frames.patches.labelled[some], padding=self.padding
            )
            found = self._given(patches, doubt[some], setting.level)
            log_p = found.log_p + cameras.log_jacobian(
                factor[some], patches.half_side, patches.labelled
            )
            nats[focal] = float(np.mean(log_p))
        best = max(nats, key=lambda focal: nats[focal])
        return best if nats[best] > nats[np.inf] + cameras.MARGIN else np.inf

    # --- one batch ----------------------------------------------------------------

    def _frames(
        self,
        xy: Float[np.ndarray, "n p 2"],
        labelled: Bool[np.ndarray, "n p"],
        doubt: Float[np.ndarray, "n p"],
        setting: Setting,
    ) -> Frames:
        """Outliers, posterior, network and camera."""
        outlier = self._outliers(xy, labelled, doubt, setting.level)
        patches = patches_of(xy, labelled & ~outlier, padding=self.padding)
        frames = self._posed(patches, outlier, doubt, setting)
        if setting.focal is None:
            return frames
        moved, factor = self._corrected(frames, setting.focal, setting)
        patches = patches_of(moved, patches.labelled, padding=self.padding)
        posed = self._posed(patches, outlier, doubt, setting)
        return posed._replace(factor=factor)

    def _posed(
        self,
        patches: Patches,
        outlier: Bool[np.ndarray, "n p"],
        doubt: Float[np.ndarray, "n p"],
        setting: Setting,
    ) -> Frames:
        given = self._given(patches, doubt, setting.level)
        n, P = patches.labelled.shape
        exact = patches.labelled & (setting.level <= EXACT)
        image = np.where(exact[..., None], patches.W, given.image)
        m, apart = np.asarray(given.pose)[..., 2], np.zeros(n, np.float32)
        if not self.adapted:  # the network has not seen what the shapes have
            other = self._network_depth(image, patches.labelled)
            m, apart = (m + other) / 2, np.mean(np.square((m - other) / 2), axis=1)
        C = np.asarray(given.covariance).reshape(n, P, 3, P, 3)[:, :, 2, :, 2]
        return Frames(patches, outlier, given, image, m, C, apart, np.ones((n, P)))

    def _corrected(
        self, frames: Frames, focal: float, setting: Setting
    ) -> tuple[Float[np.ndarray, "n p 2"], Float[np.ndarray, "n p"]]:
        """The landmarks without perspective, see `cameras`."""
        patches = frames.patches
        scale = patches.half_side[:, None]
        xy = patches.W * scale[..., None] + patches.mean[:, None]
        z = self.teacher.depth_sign * frames.m * scale
        return cameras.as_weak_perspective(xy, z, focal, setting.principal)

    def _outliers(
        self,
        xy: Float[np.ndarray, "n p 2"],
        labelled: Bool[np.ndarray, "n p"],
        doubt: Float[np.ndarray, "n p"],
        noise: float,
    ) -> Bool[np.ndarray, "n p"]:
        far = far_joints(xy, labelled, self._reach)
        patches = patches_of(xy, labelled & ~far, padding=self.padding)
        eps = np.clip(hidden.OUTLIERS * doubt, 0.01, 0.5)
        found = hidden.find_outliers(
            self.pairs,
            self._terms(self._used(noise)),
            patches,
            self._filled(patches, doubt, noise),
            self._variance(doubt, noise),
            hidden.price(eps),
        )
        return far | found

    def _filled(
        self, patches: Patches, doubt: Float[np.ndarray, "n p"], noise: float
    ) -> Float[np.ndarray, "n p 2"]:
        """The landmarks with a guess of the missing ones, centred over all joints."""
        W = np.array(patches.W)
        rows = np.flatnonzero(~patches.labelled.all(1))
        if len(rows):
            some = Patches(*(x[rows] for x in patches))
            image = self._given(some, doubt[rows], noise).image
            W[rows] = np.where(some.labelled[..., None], some.W, image)
        return W - W.mean(1, keepdims=True)

    def _variance(
        self, doubt: Float[np.ndarray, "n p"], noise: float
    ) -> Float[np.ndarray, "n p"]:
        return np.maximum(doubt * noise**2, self._least**2).astype(np.float32)

    def _given(
        self, patches: Patches, doubt: Float[np.ndarray, "n p"], noise: float
    ) -> PoseGiven:
        """The posterior of any frames."""
        variance, turned = self._variance(doubt, noise), False
        n, P, _ = patches.W.shape
        shapes = (n, P, 3), (n, P, 2), (n, 3 * P, 3 * P), (n,), (n,), (n,)
        out = PoseGiven(*(np.zeros(shape, np.float32) for shape in shapes))
        out.covariance[:] = np.eye(3 * P)
        every = np.flatnonzero(patches.labelled.any(1))
        while len(every):
            for part, gaps in groups_of(patches.labelled[every]):
                rows, terms = every[part], self._terms(self._used(noise))
                own = (patches.W, patches.labelled, variance)
                own = (jnp.asarray(x[rows]) for x in own)
                found = poses_given(self.pairs, terms, *own, gaps=gaps, turned=turned)
                for array, values in zip(out, jax.device_get(found), strict=True):
                    array[rows] = values
            # What lies or hangs is looked at once more, from views in between.
            every = every[:0] if turned else np.flatnonzero(out.free > _FREE)
            turned = True
        return out

    def _network_depth(
        self, W: Float[np.ndarray, "n p 2"], labelled: Bool[np.ndarray, "n p"]
    ) -> Float[np.ndarray, "n p"]:
        """As trained, 0 on average."""
        teacher = dataclasses.replace(self.teacher, depth_sign=1)
        rows = repeated(len(W))
        W = (W - W.mean(1, keepdims=True))[rows]
        said = teacher.reconstruct(W, labelled[rows], rows)
        depth = said.poses(teacher.dictionary)[..., 2][: len(labelled)]
        return depth - depth.mean(1, keepdims=True)

    # --- all frames -----------------------------------------------------------------

    def _parts(
        self,
        xy: Float[np.ndarray, "n p 2"],
        labelled: Bool[np.ndarray, "n p"],
        doubt: Float[np.ndarray, "n p"],
        setting: Setting,
        track: Int[np.ndarray, " n"],
        covariance: bool,
    ) -> Iterator[tuple[Int[np.ndarray, " m"], dict[str, np.ndarray]]]:
        """Rows and their arrays of :class:`Lifted`, in constant memory."""

        def frames(rows: Int[np.ndarray, " m"]) -> Frames:
            return self._frames(xy[rows], labelled[rows], doubt[rows], setting)

        for number in np.unique(track):
            rows = np.flatnonzero(track == number)
            windows = np.array_split(rows, -(-len(rows) // TOGETHER))
            first = L = None
            if number >= 0:
                spread = np.linspace(0, len(rows) - 1, len(windows[0])).astype(int)
                first = frames(rows[spread])
                L = self._lengths(first, setting)
            for window in windows:
                # A short track is all there is: its frames are at hand.
                whole = first if len(windows) == 1 else None
                given = frames(window) if whole is None else whole
                if L is None:
                    depth = self._single_depth(given)
                else:
                    given, depth = self._track_depth(given, L, setting)
                yield window, self._arrays(given, depth, setting, covariance)

    def _single_depth(self, frames: Frames) -> Float[np.ndarray, "n p"]:
        """With bones in the proportions of the training poses."""
        if not len(self.edges):
            return frames.m
        n = len(frames.m)
        rows = repeated(n)
        own = (jnp.asarray(x[rows]) for x in (frames.image, frames.m, frames.C))
        fitted = bones.fit_depths(*own, jnp.asarray(self.proportions), edges=self.edges)
        return np.asarray(fitted)[:n]

    def _track(self, frames: Frames, setting: Setting) -> tuple[bones.Track, float]:
        """Frames of one track in its own unit, pixels of which are returned."""
        half_side = frames.patches.half_side[:, None]
        unit = float(np.median(half_side))
        scale = half_side / unit
        xy = frames.image * scale[..., None] + frames.patches.mean[:, None] / unit
        if setting.level > EXACT:
            xy = ndimage.gaussian_filter1d(xy, _SMOOTH, axis=0, mode="nearest")
        return bones.Track(xy, frames.m * scale, frames.C * scale[..., None] ** 2), unit

    def _tau(self, setting: Setting) -> float:
        """How far the length of a bone in the picture is from its own."""
        noise = setting.level if setting.level > EXACT else 0.0
        return float(np.hypot(bones.TRACK_TAU, np.sqrt(2) * noise))

    def _lengths(
        self, frames: Frames, setting: Setting
    ) -> Float[np.ndarray, " b"] | None:
        """Of the bones of one individual, pixels."""
        usable = frames.patches.labelled.sum(1) >= 2
        if usable.sum() < _SHORTEST or not self.edges:
            return None
        track, unit = self._track(_some(frames, usable), setting)
        groups = bones.same_bones(self.edges, self.teacher.skeleton["left_right"])
        tau = self._tau(setting)
        return unit * bones.bone_lengths(track, tau, edges=self.edges, groups=groups)

    def _track_depth(
        self, frames: Frames, L: Float[np.ndarray, " b"], setting: Setting
    ) -> tuple[Frames, Float[np.ndarray, "n p"]]:
        """The frames with a smoother image where it is noisy, and their depth."""
        usable = frames.patches.labelled.sum(1) >= 2
        depth, image = np.array(frames.m), np.array(frames.image)
        if usable.any():
            own = _some(frames, usable)
            track, unit = self._track(own, setting)
            moved = (
                np.sqrt(np.mean(np.diff(track.xy, axis=0) ** 2))
                if len(own.m) > 1
                else 1
            )
            z = bones.track_depth(
                track,
                self._tau(setting),
                float(bones.MOTION * max(moved, 1e-4)),
                L / unit,
                edges=self.edges,
            )
            scale = own.patches.half_side[:, None] / unit
            depth[usable] = z / scale
            shift = own.patches.mean[:, None] / unit
            image[usable] = (track.xy - shift) / scale[..., None]
        return frames._replace(image=image), depth

    def _arrays(
        self,
        frames: Frames,
        depth: Float[np.ndarray, "n p"],
        setting: Setting,
        covariance: bool,
    ) -> dict[str, np.ndarray]:
        """Those of :class:`Lifted`."""
        patches, given = frames.patches, frames.given
        count, sign = patches.labelled.sum(1), self.teacher.depth_sign
        n, P = depth.shape
        xy = frames.image - frames.image.mean(1, keepdims=True)
        pose = np.concatenate([xy, sign * depth[..., None]], -1)
        root = self.teacher.skeleton["root"]
        pixels = np.where(count >= 2, patches.half_side, np.nan)[:, None, None]
        C = setting.inflation**2 * given.covariance
        # What network and shapes differ by belongs to the error of the depth.
        C = C + frames.apart[:, None, None] * np.kron(
            np.eye(P) - 1 / P, np.diag([0, 0, 1])
        ).astype(np.float32)
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
    def pairs(self) -> Looser:
        """The looser shapes; as fitted where that was to the landmarks themselves."""
        return as_fitted(self.shapes) if self.adapted else looser(self.shapes)

    @functools.cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """The bones."""
        return tuple((int(a), int(b)) for a, b in self.teacher.skeleton["edges"])

    @functools.cached_property
    def _kept(self) -> dict[float, PairTerms]:
        return {}

    def _terms(self, noise: float) -> PairTerms:
        """Of all pairs at a noise level; the last three levels are kept."""
        if noise not in self._kept:
            terms = terms_of(self.pairs, jnp.float32(noise))
            for level in list(self._kept)[:-2]:
                del self._kept[level]
            self._kept[noise] = jax.block_until_ready(terms)
        return self._kept[noise]

    @functools.cached_property
    def _reach(self) -> float:
        """The least that a training sample's box shrinks to without one joint."""
        some = slice(_COMPARED)
        shrunk = least_box(self.W[some], self.labelled[some])[1]
        return 0.8 * float(np.quantile(shrunk, 0.005))

    @functools.cached_property
    def _training(self) -> Frames:
        some = slice(_COMPARED)
        patches = Patches(
            self.W[some],
            self.labelled[some],
            np.zeros((len(self.W[some]), 2)),
            np.ones(len(self.W[some])),
        )
        doubt = np.ones(patches.labelled.shape)
        outlier = np.zeros(patches.labelled.shape, bool)
        return self._posed(patches, outlier, doubt, Setting(EXACT))

    @functools.cached_property
    def proportions(self) -> Float[np.ndarray, " b"]:
        """Lengths of the bones, patch units, of the training samples as lifted."""
        frames = self._training
        poses = np.concatenate([frames.image, frames.m[..., None]], -1)
        return bones.proportions(poses, self.edges, self.teacher.skeleton["left_right"])

    def _evidence(self, level: float) -> Float[np.ndarray, " m"]:
        """Of training samples with that noise, nats a joint, ascending."""
        frames = self._training
        W, labelled, log_p = (
            frames.patches.W,
            frames.patches.labelled,
            frames.given.log_p,
        )
        if level > self._least:
            noise = np.random.default_rng(0).normal(size=W.shape) * level
            noisy = np.where(labelled[..., None], W + noise, np.nan)
            patches = patches_of(noisy, labelled, padding=self.padding)
            log_p = self._given(patches, np.ones(labelled.shape), level).log_p
        return np.sort(log_p / np.maximum(labelled.sum(1), 1))


def _some(frames: Frames, rows: Bool[np.ndarray, " n"]) -> Frames:
    return jax.tree.map(lambda x: x[rows], frames)


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
