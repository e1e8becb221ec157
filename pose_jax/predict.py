"""Poses of new pictures by a trained student: ``--stage=predict``.

    estimator = PoseEstimator.load("runs/quickstart/student_distill")
    poses = estimator(["one.jpg", "two.jpg"])

Without boxes the whole picture is the box of its one person; boxes come from a COCO
JSON file, of detections (``bbox``) or of landmarks.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from input_pipeline.crops import landmark_boxes, patch_to_pixels, square_crops
from input_pipeline.skeleton import Skeleton
from pose_jax.pictures import cut_patch, open_picture
from pose_jax.student import CHECKPOINTS, StudentRecord, TrainState, state_shapes
from runtime.checkpoints import Checkpoints
from runtime.progress import progress
from runtime.run_files import write_json_atomic
from view.overlay import draw_skeleton

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True)
class Poses:
    """N predicted poses.

    Args:
        pose: (N, P, 3) patch units: x right, y down, z away from the camera.
        spread: (N, P, 3) standard deviation of the heat, same units.
        centre: (N, 2) pixels, middle of the crop.
        half_side: (N,) pixels per patch unit.
        skeleton: the joints.
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
        """(N, P, 3) camera frame, pixel units, relative to the root joint."""
        points = self.pose * self.half_side[:, None, None]
        root = self.skeleton.root
        return points - points[:, root : root + 1]

    @property
    def scores(self) -> np.ndarray:
        """(N, P) in 0..1: ``exp(-spread)`` of the heat in x and y, not calibrated."""
        return np.exp(-self.spread[..., :2].mean(-1))


@dataclasses.dataclass(frozen=True)
class Person:
    """One box of one picture.

    Args:
        file: the picture, for messages and as its name in the results.
        box: (4,) x, y, width, height in pixels; None is the whole picture.
        ids: ``image_id`` and, where there is one, ``annotation_id``.
        size: (width, height) that the annotations give the picture, if they do.
        padding: side of the crop over the longer side of the box.
    """

    file: Path
    box: np.ndarray | None
    ids: dict[str, Any]
    size: tuple[int, int] | None = None
    padding: float = 1.0

    def crop(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Centre (1, 2) and half side (1,) of the crop in a picture of ``size``."""
        box = np.array([0, 0, *size]) if self.box is None else self.box
        return square_crops(box[None], padding=self.padding)


class PoseEstimator:
    """A student ready for pictures; see :meth:`load`.

    Args:
        record: what the network is.
        variables: its ``params`` and ``batch_stats``.
        batch_size: pictures computed at once.
    """

    def __init__(
        self,
        record: StudentRecord,
        variables: Mapping[str, Any],
        *,
        batch_size: int = 32,
    ) -> None:
        self.record = record
        self.variables = variables
        self.batch_size = batch_size
        net = record.make_net()

        def apply(variables: Any, patches: Any) -> Any:
            return net.apply(
                variables, patches, train=False, method=net.pose_and_spread
            )

        self._apply = jax.jit(apply)

    @classmethod
    def load(cls, folder: str | Path, *, batch_size: int = 32) -> PoseEstimator:
        """The last checkpoint of ``workdir/student_<mode>``.

        Raises:
            ValueError: nothing trained there.
        """
        record, state = load_student(folder)
        return cls(record, state.variables, batch_size=batch_size)

    def __call__(
        self,
        pictures: Sequence[str | Path | np.ndarray],
        boxes: Sequence[Sequence[float] | None] | None = None,
    ) -> Poses:
        """One pose per picture.

        Args:
            pictures: files, or (H, W, 3) uint8 arrays.
            boxes: x, y, width, height in pixels per picture, or None for the whole.

        Raises:
            ValueError: a picture that does not decode, an array of another kind.
        """
        if boxes is not None and len(boxes) != len(pictures):
            raise ValueError(f"{len(boxes)} boxes for {len(pictures)} pictures")
        if not len(pictures):
            raise ValueError("no pictures given")
        cut = []
        for i, source in enumerate(pictures):
            box = None if boxes is None else boxes[i]
            person = Person(
                file=Path(f"pictures[{i}]"),
                box=None if box is None else np.asarray(box, np.float64),
                ids={},
                padding=1.0 if box is None else self.record.padding,
            )
            cut.append(self._cut(person, _as_picture(source, i)))
        return self._of_cut(cut)

    def of_persons(self, persons: Sequence[Person]) -> Poses:
        """One pose per person; their pictures are read from disk."""
        pictures = (open_picture(person.file, person.size) for person in persons)
        return self._of_cut(list(map(self._cut, persons, pictures)))

    def _cut(self, person: Person, picture: Image.Image) -> tuple[Any, Any, Any]:
        centre, half = person.crop(picture.size)
        patch = cut_patch(picture, centre[0], float(half[0]), self.image_size)
        return patch, centre, half

    def _of_cut(self, cut: Sequence[tuple[Any, Any, Any]]) -> Poses:
        patches, centres, halves = zip(*cut, strict=True)
        return self.of_patches(
            np.stack(patches), np.concatenate(centres), np.concatenate(halves)
        )

    @property
    def image_size(self) -> int:
        """Side of a patch, pixels."""
        return self.record.image_size

    def of_patches(
        self, patches: np.ndarray, centre: np.ndarray, half_side: np.ndarray
    ) -> Poses:
        """Poses of (N, S, S, 3) uint8 patches that are cut out already."""
        results = []
        for first in range(0, len(patches), self.batch_size):
            part = patches[first : first + self.batch_size]
            # Filled up to one size, so that the network compiles once.
            missing = self.batch_size - len(part)
            full = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
            outputs = self._apply(self.variables, full)
            results.append([np.asarray(x)[: len(part)] for x in outputs])
        pose, spread = (np.concatenate(x) for x in zip(*results, strict=True))
        return Poses(pose, spread, centre, half_side, self.record.skeleton)


def load_student(folder: str | Path) -> tuple[StudentRecord, TrainState]:
    """A student's record and its last checkpoint.

    Raises:
        ValueError: nothing trained there, or a checkpoint of another network.
    """
    record = StudentRecord.load(folder)
    like = state_shapes(record.make_net(), image_size=record.image_size)
    with Checkpoints(Path(folder) / CHECKPOINTS) as checkpoints:
        restored = checkpoints.restore_latest(like)
    if restored is None:
        raise ValueError(f"{folder} has no checkpoint; run --stage=student first")
    return record, restored[1]


# --- pictures ----------------------------------------------------------------------


def _as_picture(source: str | Path | np.ndarray, index: int) -> Image.Image:
    if isinstance(source, (str, Path)):
        return open_picture(Path(source))
    array = np.asarray(source)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"pictures[{index}] is an array of {array.dtype}, {array.shape}; "
            "give uint8 of shape (height, width, 3)"
        )
    return Image.fromarray(array)


# --- the stage ---------------------------------------------------------------------


def predict(config: Any, workdir: str | Path) -> Path:
    """Predicts the pictures of ``config.predict`` with the student of its ``mode``.

    Writes to ``workdir/predictions``: ``predictions.json``, a COCO results list with
    one entry per person (``image_id``, ``file_name``, ``category_id``, ``keypoints``
    x, y, score in pixels, ``keypoints_3d`` x, y, z in pixel units relative to the
    root in the camera frame, ``score``, ``bbox`` of the crop), and a picture with the
    skeleton drawn in for each file.

    Args:
        config: ``config.predict.images``: a folder, a file, or files separated by
            commas; ``.annotations``: a COCO JSON with boxes or landmarks, or empty;
            ``.mode``: which student.
        workdir: folder of the run.

    Returns:
        The path of ``predictions.json``.

    Raises:
        ValueError: no pictures, one that does not decode, annotations without boxes.
    """
    estimator = PoseEstimator.load(Path(workdir) / f"student_{config.predict.mode}")
    padding = estimator.record.padding
    persons = find_persons(
        config.predict.images, config.predict.annotations, padding=padding
    )
    folder = Path(workdir) / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    with progress("predict", total=len(persons)) as bar:
        for group in _chunks(persons, estimator.batch_size):
            poses = estimator.of_persons(group)
            results += [_result(poses, i, person) for i, person in enumerate(group)]
            bar.update(len(results))
    _draw_overlays(folder, persons, results, estimator.record.skeleton)
    path = folder / "predictions.json"
    write_json_atomic(path, results)
    return path


def find_persons(images: str, annotations: str, *, padding: float) -> list[Person]:
    """Whom to predict: the boxes of ``annotations``, else one in every picture.

    Args:
        images: folder, file, or files separated by commas.
        annotations: path of a COCO JSON, or empty.
        padding: side of a crop over the longer side of its box.

    Raises:
        ValueError: nothing to predict, naming the field of the config.
    """
    if not images:
        raise ValueError("config.predict.images is empty; give a folder or a picture")
    if annotations:
        return _annotated_persons(Path(annotations), Path(images), padding)
    files = _picture_files(images)
    return [Person(file, None, {"image_id": i}) for i, file in enumerate(files)]


def _picture_files(images: str) -> list[Path]:
    folder = Path(images)
    if not folder.is_dir():
        return [Path(name.strip()) for name in images.split(",") if name.strip()]
    files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in SUFFIXES]
    if not files:
        raise ValueError(
            f"config.predict.images = {folder} holds no picture "
            f"({', '.join(SUFFIXES)}); give another folder"
        )
    return files


def _annotated_persons(path: Path, images: Path, padding: float) -> list[Person]:
    if not path.is_file():
        raise ValueError(f"config.predict.annotations = {path} does not exist")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        pictures = {image["id"]: image for image in record["images"]}
        annotations = record["annotations"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a COCO file with 'images' and 'annotations' ({error!r}); "
            "correct it, or leave config.predict.annotations empty"
        ) from error
    persons = []
    for i, annotation in enumerate(annotations):
        place = f"{path}, annotations[{i}]"
        image = pictures.get(annotation.get("image_id"))
        if image is None:
            raise ValueError(
                f"{place}: image_id {annotation.get('image_id')!r} is not in 'images'"
            )
        persons.append(
            Person(
                file=images / image["file_name"],
                box=_box(annotation, place),
                ids={"image_id": image["id"], "annotation_id": annotation.get("id")},
                size=_size(image),
                padding=padding,
            )
        )
    if not persons:
        raise ValueError(f"{path} has no annotations; nothing to predict")
    return persons


def _box(annotation: Mapping[str, Any], place: str) -> np.ndarray:
    """Around the labelled landmarks as in training, else the annotated box."""
    triples = np.asarray(annotation.get("keypoints") or [], np.float64)
    box = np.asarray(annotation.get("bbox") or [], np.float64)
    if triples.size and triples.size % 3 == 0:
        points = triples.reshape(-1, 3)
        around = landmark_boxes(points[None, :, :2], points[None, :, 2] > 0)[0]
        if around[2:].max() > 0:
            box = around.astype(np.float64)
    if box.shape != (4,) or not np.isfinite(box).all() or not box[2:].max() > 0:
        raise ValueError(
            f"{place}: bbox {annotation.get('bbox')!r} is not x, y, width, height with "
            "an area, and there are no labelled landmarks; give one of them"
        )
    return box


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    if "width" in image and "height" in image:
        return int(image["width"]), int(image["height"])
    return None


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _result(poses: Poses, i: int, person: Person) -> dict[str, Any]:
    """One entry of a COCO results list."""
    scores = poses.scores[i].astype(np.float64)
    keypoints = np.concatenate([poses.keypoints[i], scores[:, None]], axis=1)
    corner, side = poses.centre[i] - poses.half_side[i], 2 * poses.half_side[i]
    return {
        **person.ids,
        "file_name": person.file.name,
        "category_id": 1,
        "keypoints": np.round(keypoints, 3).ravel().tolist(),
        "keypoints_3d": np.round(poses.keypoints_3d[i].astype(float), 3).tolist(),
        "score": float(scores.mean()),
        "bbox": [float(corner[0]), float(corner[1]), float(side), float(side)],
    }


def _draw_overlays(
    folder: Path,
    persons: Sequence[Person],
    results: Iterable[Mapping[str, Any]],
    skeleton: Skeleton,
) -> None:
    """One picture per file, with all its persons drawn in."""
    by_file: dict[Path, list[np.ndarray]] = {}
    sizes: dict[Path, tuple[int, int] | None] = {}
    for person, result in zip(persons, results, strict=True):
        points = np.asarray(result["keypoints"]).reshape(-1, 3)[:, :2]
        by_file.setdefault(person.file, []).append(points)
        sizes[person.file] = person.size
    names = _unique_names(list(by_file))
    for file, people in by_file.items():
        image = np.asarray(open_picture(file, sizes[file]))
        for points in people:
            image = draw_skeleton(image, points, skeleton)
        Image.fromarray(image).save(folder / names[file])


def _unique_names(files: Sequence[Path]) -> dict[Path, str]:
    """``<name>.png`` of each file, numbered where two folders share a name."""
    names: dict[Path, str] = {}
    for file in files:
        name, copy = f"{file.stem}.png", 2
        while name in names.values():
            name, copy = f"{file.stem}_{copy}.png", copy + 1
        names[file] = name
    return names
