"""Where TFDS keeps a prepared data set, and preparing it once.

``<data_dir>/<builder>/<config>/<version>/`` holds the ArrayRecord files of TFDS and,
beside them, ``landmarks_<split>.npz`` (2D, read without decoding a picture) and, for
the mannequin, ``ground_truth_<split>.npz`` (3D, opened by evaluation alone). The
config's name carries a digest of everything that the contents depend on, so that
other settings, other annotations or another renderer never meet in one folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from input_pipeline import synthetic as mannequin
from input_pipeline.formats.annotations import is_file
from input_pipeline.formats.readers import label_files
from input_pipeline.settings import DataSettings
from input_pipeline.skeleton import read_skeleton

VERSION = "1.0.0"
# Files that runs write beside pictures, and labels, which are told by their contents.
_NO_PICTURES = {
    *(".json", ".jsonl", ".csv", ".h5", ".slp", ".mat", ".npz", ".yaml", ".txt"),
    *(".html", ".safetensors", ".log", ".lock", ".partial", ".array_record"),
}
Progress = Callable[[int], None]  # called with the number of pictures done


def ignore_progress(done: int) -> None:
    """The progress callback that does nothing."""
    del done


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared data set on disk.

    Args:
        folder: the TFDS folder of this configuration and version.
        builder: name of the TFDS builder that made it.
        config: name of the builder's configuration.
        root: the ``data_dir`` of TFDS.
    """

    folder: Path
    builder: str
    config: str
    root: Path

    def landmarks_file(self, split: str) -> Path:
        """The table of 2D landmarks of ``split``."""
        return self.folder / f"landmarks_{split}.npz"

    def ground_truth_file(self, split: str) -> Path:
        """The 3D of ``split``, where the data set brings its own."""
        return self.folder / f"ground_truth_{split}.npz"


def locate(settings: DataSettings) -> Prepared:
    """The place of a data set, prepared or not.

    Raises:
        ValueError: a source file is missing, or ``mocap`` (has no pictures).
    """
    if settings.name in ("mocap", "sequence", "landmarks"):
        raise ValueError(
            f"config.data.name = {settings.name!r} has landmarks only; for pictures "
            "of motion set --config.data.name=mannequin, of your own 'coco'"
        )
    mannequin_data = settings.name == "mannequin"
    builder = "mannequin" if mannequin_data else "labelled_pictures"
    digest = _mannequin_digest(settings) if mannequin_data else _label_digest(settings)
    stem = f"s{settings.render_size}" if mannequin_data else _word(settings.annotations)
    config = f"{stem}_{digest}"
    folder = settings.root / builder / config / VERSION
    return Prepared(folder, builder, config, settings.root)


def ensure_prepared(
    settings: DataSettings, on_progress: Progress = ignore_progress
) -> Prepared:
    """The place of a data set, which is prepared first where it is not.

    Several processes may call this at once: one prepares, the others wait.

    Raises:
        ValueError: the first problem of the source data.
    """
    prepared = locate(settings)
    if _complete(prepared):
        return prepared
    prepared.folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(prepared.folder.parent / ".lock"):
        if not _complete(prepared):
            # Imported here: the builders need TensorFlow, reading landmarks does not.
            from input_pipeline.sources.build import build

            # TFDS would take what is left of a folder for the whole.
            shutil.rmtree(prepared.folder, ignore_errors=True)
            build(settings, prepared, on_progress)
    return prepared


def _complete(prepared: Prepared) -> bool:
    # TFDS renames its folder into place as the last step.
    return (prepared.folder / "dataset_info.json").is_file()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the kernel frees it when the process dies."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _mannequin_digest(settings: DataSettings) -> str:
    fields = (
        *("num_train", "num_val", "render_size", "elevation_deg", "seed"),
        "mocap_file",
    )
    chosen = {field: getattr(settings, field) for field in fields}
    # The pictures belong to the code that draws them.
    folder = Path(str(mannequin.__file__)).parent
    sources = sorted([*folder.glob("*.py"), *folder.glob("*.txt")])
    files = [*sources, Path(__file__).parent / "motion.py"]
    if settings.mocap_file:
        # What counts is the motion, not where it lies.
        chosen["mocap_file"] = Path(settings.mocap_file).name
        path = existing_path(settings.mocap_file, "mocap_file")
        files.extend(sorted(path.glob("*.bvh")) if path.is_dir() else [path])
    return _digest(chosen, files)


def _label_digest(settings: DataSettings) -> str:
    chosen: dict[str, object] = {
        "name": settings.name,
        "box": settings.box,
        "min": settings.min_joints,
        "outside": settings.outside,
        "names": settings.joint_names,
        "skeleton": _skeleton_state(settings.skeleton),
    }
    files = []
    for split in ("train", "val"):
        path, folder = settings.annotation_file(split)
        own = split == "val" and settings.annotations_val
        existing_path(path, "annotations_val" if own else "annotations")
        files.extend(label_files(settings, split))
        chosen[split] = (str(folder.absolute()), _folder_state(folder, settings.root))
    if not settings.separate_val:
        chosen["hold out"] = (settings.num_val, settings.seed)
    return _digest(chosen, [file for file in files if is_file(file)])


def _skeleton_state(text: str) -> dict[str, object]:
    """What a skeleton file holds; where it is no skeleton, reading says so."""
    try:
        return read_skeleton(text).to_dict() if text else {}
    except ValueError:
        return {"unreadable": text}


def existing_path(path: str | Path, field: str) -> Path:
    """``path`` as a Path; ValueError naming the config field where there is nothing."""
    found = Path(path).expanduser()
    if str(path) in ("", ".") or not found.exists():
        raise ValueError(
            f"{path or '(empty)'}: missing file; set --config.data.{field} to it"
        )
    return found


def _folder_state(folder: Path, root: Path) -> tuple[int, int, int]:
    """Count, bytes and newest change of a folder's pictures: notices other ones.

    What is prepared under ``root`` is passed over, should it lie among them.
    """
    count, size, newest = 0, 0, 0
    prepared = os.path.abspath(root)
    for parent, folders, names in os.walk(os.path.abspath(folder)):
        folders[:] = [f for f in folders if os.path.join(parent, f) != prepared]
        for name in names:
            if os.path.splitext(name)[1].lower() in _NO_PICTURES:
                continue
            with contextlib.suppress(OSError):
                state = os.stat(os.path.join(parent, name))
                count, size = count + 1, size + state.st_size
                newest = max(newest, state.st_mtime_ns)
    return count, size, newest


def _digest(fields: dict[str, object], files: Iterable[Path]) -> str:
    state = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for file in files:
        state.update(hashlib.sha256(file.read_bytes()).digest())
    return state.hexdigest()[:12]


def _word(path: str) -> str:
    """The stem of a file name with only the characters that TFDS takes in a name."""
    stem = "".join(c if c.isalnum() and c.isascii() else "_" for c in Path(path).stem)
    return stem[:40] or "labels"
