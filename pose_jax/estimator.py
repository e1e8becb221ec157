"""A trained student as a function from pictures to 3D poses."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from input_pipeline.crops import patch_to_pixels, square_crops
from input_pipeline.decoding import Upright
from input_pipeline.pictures import Minify, cut_patch, open_picture, picture_of_array
from input_pipeline.skeleton import Skeleton
from pose_jax import weights
from pose_jax.fold import fold_batch_norms
from pose_jax.loss import MODES
from pose_jax.shapes import FILE as SHAPES
from pose_jax.shapes import Shapes, check_shapes, under_shapes
from pose_jax.state import (
    CHECKPOINTS,
    StudentRecord,
    TrainState,
    stage_name,
    state_shapes,
    turned,
)
from runtime import teacher_file
from runtime.checkpoints import Checkpoints
from runtime.files import read_arrays

Picture = str | Path | np.ndarray | jax.Array | Image.Image
Box = Sequence[float | int] | np.ndarray
WHOLE_PICTURE_PADDING = 1.0
FARTHEST = 16  # of a box's numbers, in longer sides of the picture
SMALLEST = 1e-3  # longer side of a box, pixels
_THREADS = min(8, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class Poses:
    """N predicted poses of P joints, as NumPy arrays.

    Pixels are those of the picture: x right, y down, (0, 0) the outer corner of the
    first pixel. The camera frame is x right, y down, z away from the camera. One
    picture tells no millimetres: depth is in the same pixels as x and y.

    Args:
        pose: (N, P, 3) patch units: the crop is [-1, 1] in x and y, and depth is in
            the same unit, with 0 near the middle of the body.
        spread: (N, P, 3) standard deviation of the error, same units, of the depth
            about the middle of the body: see :class:`pose_jax.error_bar.ErrorBar`.
        centre: (N, 2) pixels, middle of the crop.
        half_side: (N,) pixels per patch unit.
        skeleton: names, bones, sides and root of the joints.
    """

    pose: np.ndarray
    spread: np.ndarray
    centre: np.ndarray
    half_side: np.ndarray
    skeleton: Skeleton

    def __len__(self) -> int:
        return len(self.pose)

    @property
    def keypoints(self) -> np.ndarray:
        """(N, P, 2) pixels of the picture."""
        return patch_to_pixels(self.pose[..., :2], self.centre, self.half_side)

    @property
    def keypoints_3d(self) -> np.ndarray:
        """(N, P, 3) camera frame, in pixels, relative to the root joint."""
        points = self.pose * self.half_side[:, None, None]
        root = self.skeleton.root
        return points - points[:, root : root + 1]

    @property
    def keypoints_3d_std(self) -> np.ndarray:
        """(N, P, 3) pixels: :attr:`spread`, the standard deviation of the error.

        x and y in the picture, depth about the middle of the body: of pictures like
        those of the training, 95 of 100 joints lie within 1.96 of it. It says nothing
        of all joints together.
        """
        return self.spread * self.half_side[:, None, None]

    @property
    def keypoints_std(self) -> np.ndarray:
        """(N, P, 2) pixels: the first two columns of :attr:`keypoints_3d_std`."""
        return self.keypoints_3d_std[..., :2]

    @property
    def scores(self) -> np.ndarray:
        """(N, P) in 0..1: ``exp(-spread)`` in x and y."""
        return np.exp(-self.spread[..., :2].mean(-1))


@dataclasses.dataclass(frozen=True)
class Crop:
    """A patch cut out of a picture, and from where."""

    patch: np.ndarray  # (S, S, 3) uint8
    centre: np.ndarray  # (2,) float32 pixels of the picture
    half_side: float  # pixels of the picture from the patch's middle to its edge


class PoseEstimator:
    """A student ready for pictures; see :meth:`load`.

    Args:
        record: what the network is.
        variables: its ``params`` and ``batch_stats``.
        batch_size: pictures computed at once. Fewer are filled up to it, so that the
            network compiles once; give 1 where pictures come one by one.
        mirror: each picture is also seen as in a mirror, for twice the time: the pose
            is the mean of both, and what they differ by widens its spread.
        shapes: the pose is the likeliest under the teacher's ``variables["shapes"]``,
            see :mod:`pose_jax.shapes`.
    """

    def __init__(
        self,
        record: StudentRecord,
        variables: Mapping[str, Any],
        *,
        batch_size: int = 32,
        mirror: bool = False,
        shapes: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} is not at least 1")
        self.record = record
        self._net, folded = fold_batch_norms(record.make_net(own=True), variables)
        if shapes:
            folded["shapes"] = shapes_in(record, variables)
        self.variables = jax.device_put(folded)
        self.batch_size = batch_size
        self.mirror, self.shapes = mirror, shapes
        self._apply = jax.jit(self.network())

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        mode: str = "",
        batch_size: int = 32,
        mirror: bool = False,
        shapes: bool = False,
    ) -> PoseEstimator:
        """A trained student.

        Args:
            path: the workdir of a run, its ``student_<mode>``, or a file of weights
                (``student.safetensors``).
            mode: which student of a workdir; by default "distill", or the only one.
            batch_size: as in :class:`PoseEstimator`.
            mirror: likewise.
            shapes: likewise.

        Raises:
            ValueError: nothing trained there, several students and no "distill", or
                ``shapes`` of a teacher that has none.
        """
        path = Path(path)
        if path.is_file() or (path / weights.FILE).is_file():
            folder = path.parent if path.is_file() else path
            record, variables = weights.load_weights(path)
            record, params = _follow_teacher(record, variables["params"], folder)
            variables = variables | {"params": params}
        else:
            folder = find_student(path, mode)
            record, state = load_student(folder)
            variables = state.variables | read_shapes(record, folder)
        how = {"batch_size": batch_size, "mirror": mirror, "shapes": shapes}
        return cls(record, variables, **how)

    def network(self) -> Any:
        """``(variables, (N, S, S, 3) uint8 patches) -> (pose, spread)``, not jitted.

        Its variables are :attr:`variables`: without batch norms, which are folded into
        the convolutions.
        """
        net = self._net

        def apply(variables: Any, patches: Any) -> tuple[Any, Any]:
            return net.apply(variables, patches, train=False, method="pose_and_spread")

        return improved(apply, self.record, mirror=self.mirror, shapes=self.shapes)

    def __call__(
        self,
        images: Picture | Sequence[Picture],
        boxes: Sequence[Box | None] | np.ndarray | None = None,
    ) -> Poses:
        """One pose for each picture, or for each box.

        Args:
            images: files, uint8 arrays (H, W, 3) or (H, W), Pillow's images, or a
                mixture of them in a list; one batch (N, H, W, 3); or a single one.
                A picture with two people is given twice.
            boxes: x, y, width, height in pixels around the body for each picture, or
                None where the body fills the picture.

        Returns:
            The poses in the order of the pictures.

        Raises:
            ValueError: a picture that does not decode, an array of another kind, a
                box without an area.
        """
        sources = _as_list(images)
        places = [None] * len(sources) if boxes is None else list(boxes)
        if len(places) != len(sources):
            raise ValueError(f"{len(places)} boxes for {len(sources)} pictures")
        if not sources:
            raise ValueError("no pictures given")

        def cut(i: int) -> Crop:
            source, name = sources[i], f"boxes[{i}]"
            if isinstance(source, (str, Path)):
                with open_picture(Path(source), minify=minify(places[i])) as picture:
                    return self.cut(picture, places[i], name=name)
            if not isinstance(source, Image.Image):
                source = picture_of_array(np.asarray(source), f"images[{i}]")
            return self.cut(Upright(source), places[i], name=name)

        def minify(box: Box | None) -> Minify:
            return lambda size: self.minify(size, [box])

        def cut_all(pool: ThreadPoolExecutor) -> Iterator[Crop]:
            # A part at a time: the device computes one while the next is cut, and no
            # more pictures than these are in memory.
            for first in range(0, len(sources), self.batch_size):
                last = min(first + self.batch_size, len(sources))
                yield from pool.map(cut, range(first, last))

        with ThreadPoolExecutor(_THREADS) as pool:
            return self.of_crops(cut_all(pool))

    def cut(self, picture: Upright, box: Box | None, *, name: str = "box") -> Crop:
        """The network's view of one body, with the margin of its training.

        Args:
            picture: decoded.
            box: x, y, width, height in pixels; None is the whole picture, without a
                margin.
            name: of the box, for messages.

        Raises:
            ValueError: a box that is not four numbers with an area, or is far larger
                than the picture or far away from it.
        """
        centre, half_side = self._place(picture.size, box, name)
        patch = cut_patch(picture, centre, half_side, self.record.image_size)
        return Crop(patch, centre, half_side)

    def minify(self, size: tuple[int, int], boxes: Iterable[Box | None]) -> float:
        """At least how many pixels of a picture of this size a pixel of a patch spans.

        1 where :meth:`cut` refuses one of the boxes.
        """
        try:
            halves = [self._place(size, box, "box")[1] for box in boxes]
        except ValueError:
            return 1.0
        return 2 * min(halves, default=0.5) / self.record.image_size

    def _place(
        self, size: tuple[int, int], box: Box | None, name: str
    ) -> tuple[np.ndarray, float]:
        """Middle (2,) and half side of the crop in pixels."""
        place = np.array([0, 0, *size] if box is None else box, np.float64)
        if place.shape != (4,) or not np.isfinite(place).all() or min(place[2:]) <= 0:
            raise ValueError(
                f"{name} = {np.asarray(box).tolist()} is not x, y, width, height in "
                "pixels with a width and a height above 0"
            )
        reach = np.abs(place).max() / max(size)
        if reach > FARTHEST or place[2:].max() < SMALLEST:
            raise ValueError(
                f"{name} = {place.tolist()} is not a body in a picture of {size[0]} x "
                f"{size[1]} pixels; give x, y, width, height in its pixels"
            )
        padding = WHOLE_PICTURE_PADDING if box is None else self.record.padding
        centre, half = square_crops(place[None], padding=padding)
        return centre[0], float(half[0])

    def of_crops(self, crops: Iterable[Crop]) -> Poses:
        """Poses of crops that :meth:`cut` made, in their order; of none, none."""
        size, stream = self.record.image_size, iter(crops)
        skeleton = self.record.skeleton
        found = [np.zeros((2, 0, skeleton.num_joints, 3), np.float32)]
        used: list[Crop] = []
        try:
            outputs = []
            while part := list(itertools.islice(stream, self.batch_size)):
                # Filled up to one size, so that the network compiles once.
                patches = np.zeros((self.batch_size, size, size, 3), np.uint8)
                patches[: len(part)] = [crop.patch for crop in part]
                outputs.append(self._apply(self.variables, patches))
                used += part
            found += [np.stack(jax.device_get(output)) for output in outputs]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise ValueError(
                f"the device has no room for {self.batch_size} pictures of {size} "
                "pixels at once; give a smaller batch_size "
                f"(--config.predict.batch_size={max(self.batch_size // 4, 1)}), or "
                "free the device from other programs"
            ) from error
        pose, spread = np.concatenate(found, axis=1)[:, : len(used)]
        return Poses(
            pose,
            spread,
            centre=np.array([c.centre for c in used], np.float32).reshape(-1, 2),
            half_side=np.array([c.half_side for c in used], np.float32),
            skeleton=skeleton,
        )


def improved(
    apply: Callable[..., Any], record: StudentRecord, *, mirror: bool, shapes: bool
) -> Callable[..., Any]:
    """``apply(variables, patches) -> (pose, spread)`` with what was asked for."""
    apply = seen_twice(apply, record.skeleton) if mirror else apply
    return under_shapes(apply, record.depth_sign) if shapes else apply


def seen_twice(apply: Callable[..., Any], skeleton: Skeleton) -> Callable[..., Any]:
    """``apply(variables, patches) -> (pose, spread)``, also of the mirrored patches.

    The pose is the mean of both, its spread that of their mixture: the error of each,
    and what they differ by.
    """
    swap = skeleton.flip_permutation
    back = np.array([-1.0, 1.0, 1.0], np.float32).reshape(1, 1, 3)

    def apply_twice(variables: Any, patches: Any) -> tuple[Any, Any]:
        pose, spread = apply(variables, patches)
        other, of_other = apply(variables, patches[:, :, ::-1])
        other, of_other = other[:, swap] * jnp.asarray(back), of_other[:, swap]
        off = (pose - other) / 2
        # No picture tells how far away a body is: its mean depth does not count.
        off = off.at[..., 2].add(-off[..., 2].mean(axis=1, keepdims=True))
        variance = (spread**2 + of_other**2) / 2 + off**2
        return (pose + other) / 2, jnp.sqrt(variance)

    return apply_twice


# --- loading -----------------------------------------------------------------------


def find_student(path: str | Path, mode: str = "") -> Path:
    """The folder of a student: ``path`` itself, or ``student_<mode>`` in it.

    Without a ``mode``, one whose training has ended, where there is one.

    Raises:
        ValueError: none is trained there, not the one asked for, or several are.
    """
    path = Path(path)
    if (path / "student.json").is_file():
        return path
    if not path.is_dir():
        raise ValueError(
            f"{path} does not exist; give the workdir of a run, or student.safetensors"
        )
    found = {p.parent.name: p.parent for p in sorted(path.glob("*/student.json"))}
    modes = [name.removeprefix("student_") for name in found]
    if not found and (path / "config.json").is_file():
        raise ValueError(
            f"{path} has no trained student; run --stage=student first, or lift "
            "landmarks by --stage=lift"
        )
    if not found:
        raise ValueError(
            f"{path} is not the workdir of a run (no student_<mode> in it)"
        )
    stages = [p.stem for p in (path / "finished").glob("student_*.json")]
    ended = {m for s in stages for m in s.removeprefix("student_").split("+")}
    done = [mode for mode in modes if mode in ended]
    offered = done or modes
    chosen = mode or ("distill" if "distill" in offered else offered[0])
    if not mode and chosen != "distill" and len(offered) > 1:
        raise ValueError(
            f"{path} has several students ({', '.join(offered)}); say which by mode="
        )
    if chosen not in modes:
        raise ValueError(
            f"{path} has no student {chosen!r}, but {', '.join(map(repr, offered))}; "
            f"choose it by --config.predict.mode={offered[0]} (in Python: mode=)"
        )
    return found[f"student_{chosen}"]


def load_student(folder: str | Path) -> tuple[StudentRecord, TrainState]:
    """A student's record and its last checkpoint, with its teacher's sign of depth.

    Raises:
        ValueError: nothing trained there, or a checkpoint of another network.
    """
    record, place = StudentRecord.load(folder), Path(folder)
    if len(record.modes) > 1:
        place = place.absolute().parent / stage_name(record.modes)
    net = record.make_net()
    how = {"image_size": record.image_size, "optimizer": record.optimizer}
    with Checkpoints(place / CHECKPOINTS) as checkpoints:
        restored = checkpoints.restore_latest(state_shapes(net, **how))
    if restored is None:
        raise ValueError(f"{place} has no checkpoint; run --stage=student first")
    state = restored[1]
    params = record.own_depth(state.params)
    record, params = _follow_teacher(record, params, folder)
    return record, dataclasses.replace(state, params=params)


def read_shapes(record: StudentRecord, folder: str | Path) -> dict[str, Shapes]:
    """``"shapes"`` of the teacher beside a student's folder, if there are some.

    A student of 3D labels has none: its depth need not have the teacher's sign.
    """
    file = Path(folder).absolute().parent / "teacher" / SHAPES
    if MODES[record.mode].label == "truth" or not file.is_file():
        return {}
    return {"shapes": check_shapes(file, read_arrays(file)[0])}


def shapes_in(record: StudentRecord, variables: Mapping[str, Any]) -> Shapes:
    """The student's ``"shapes"``; ValueError where it has none of its joints."""
    found, joints = variables.get("shapes"), record.skeleton.num_joints
    if found is None or found.mu.shape[1] != 3 * joints:
        raise ValueError(
            f"shapes=True needs shapes of {joints} joints, which only a student of a "
            "teacher that the EM guides (config.teacher.em.guide_fraction > 0) has, "
            "and one of 3D labels has not; predict without them "
            "(config.predict.shapes=False)"
        )
    return found


def _follow_teacher(
    record: StudentRecord, params: Any, folder: str | Path
) -> tuple[StudentRecord, Any]:
    """Turns the depth where the run's teacher was mirrored after the training."""
    teacher = Path(folder).absolute().parent / "teacher"
    if MODES[record.mode].label == "truth" or not (teacher / "teacher.json").is_file():
        return record, params
    same = teacher_file.read(teacher).depth_sign == record.depth_sign
    return (record, params) if same else turned(record, params)


# --- pictures ----------------------------------------------------------------------


def _as_list(images: Any) -> list[Any]:
    if isinstance(images, (str, Path, Image.Image)):
        return [images]
    if isinstance(images, (np.ndarray, jax.Array)):
        images = np.asarray(images)
        return list(images) if images.ndim == 4 else [images]
    return list(images)
