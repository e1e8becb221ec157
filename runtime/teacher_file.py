"""The teacher's folder: one format, one writer, one reader; NumPy only.

::

    teacher/teacher.json          format, skeleton, sign of depth, settings, splits, and
                                  digests of the arrays, which readers compare
    teacher/teacher.safetensors   dictionary (3P, K); params/... of the network
    teacher/<split>/<name>.npy    one array per name, one row per sample

Arrays of a split: ``sample_ids`` (N,), ``camera`` (N, 3, 2), ``code`` (N, K) in the
gauge of unit dictionary columns, ``residual`` (N,), ``W`` (N, P, 2) centred landmarks,
0 where not ``labelled`` (N, P). For students, of a teacher that the EM guides and data
with pictures: ``depth`` (N, P), the best that is known, ``code_of_depth`` (N, K) of it,
see `nrsfm_jax.lifting.labels`; and the EM's ``covariance`` (N, P, P). Lengths are in
patch units.

The arrays are as trained. 2D does not determine one bit, the sign of all depths. Only
``teacher.json`` contains it, and the reader applies it: with ``F = diag(1, 1, -1)``,
sign -1 reads ``F D`` and ``F M``, which give the same 2D and the negated depth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime.files import (
    Damaged,
    digest_of_file,
    read_arrays,
    read_json,
    write_arrays,
    write_json,
)

FORMAT = 3
SOURCES = ("given", "cue")
SPLIT_ARRAYS = ("sample_ids", "camera", "code", "residual", "W", "labelled")
LABEL_ARRAYS = ("depth", "covariance", "code_of_depth")
_REMEDY = "run --stage=teacher first"
_AGAIN = "run --stage=teacher again"


@dataclasses.dataclass(frozen=True)
class TeacherFile:
    """A teacher's folder as it is read, in the frame that ``depth_sign`` says.

    Attributes:
        folder: where it was read.
        skeleton: as ``Skeleton.to_dict()`` gives it.
        depth_sign: +1: as trained; -1: mirrored in depth.
        depth_sign_source: ``"given"`` by the config, or ``"cue"``: told by what is
            seen in a picture.
        dictionary: (3P, K), rows x1 y1 z1 x2 ..., columns of norm 1.
        params: of the network, as trained (before the sign).
        config: the settings of the training, as plain JSON.
        splits: name -> number of samples.
        digests: name -> digest of each of its files.
    """

    folder: Path
    skeleton: dict[str, Any]
    depth_sign: int
    depth_sign_source: str
    dictionary: np.ndarray
    params: dict[str, Any]
    config: dict[str, Any]
    splits: dict[str, int]
    digests: dict[str, dict[str, str]]
    _compared: set[Path] = dataclasses.field(default_factory=set, compare=False)

    @property
    def sign_text(self) -> str:
        """How the sign of depth was fixed, for the tables."""
        how = {"given": "given by the config", "cue": "from what is seen in a picture"}
        return (
            f"depth sign {self.depth_sign:+d} of the teacher, one for all samples, "
            f"{how[self.depth_sign_source]}"
        )

    def split(
        self, name: str, sample_ids: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The arrays ``SPLIT_ARRAYS`` of a split; large ones are memory-mapped.

        Args:
            name: ``"train"``, ``"val"`` or ``"extra"``.
            sample_ids: (N,) ids of the data set, to which the rows must belong.

        Raises:
            ValueError: missing or damaged arrays; the teacher saw other samples, or
                the same in another order.
        """
        arrays = self._read(name, SPLIT_ARRAYS, sample_ids)
        flip = np.array([1, 1, self.depth_sign], np.float32)[:, None]
        camera = arrays["camera"]
        return arrays | {"camera": camera if self.depth_sign == 1 else flip * camera}

    def has_labels(self, name: str) -> bool:
        """Whether :meth:`labels` gives some."""
        return (self.folder / name / "depth.npy").exists()

    def labels(
        self, name: str, sample_ids: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The arrays ``LABEL_ARRAYS`` of a split.

        Raises:
            ValueError: the teacher has none, or of other samples.
        """
        if not self.has_labels(name):
            raise ValueError(
                f"{self.folder / name} holds no covariance of the depth: only a "
                "teacher that the EM guides (config.teacher.em.guide_fraction > 0), "
                "trained in memory on data with pictures, has one"
            )
        arrays = self._read(name, ("sample_ids", *LABEL_ARRAYS), sample_ids)
        return arrays | {"depth": np.float32(self.depth_sign) * arrays["depth"]}

    def _read(
        self, name: str, wanted: tuple[str, ...], sample_ids: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        arrays = {n: self._load(name, n) for n in wanted}
        lengths = {n: len(x) for n, x in arrays.items()}
        if set(lengths.values()) != {self.splits.get(name)}:
            raise ValueError(
                f"{self.folder / name}: teacher.json says {self.splits.get(name)} "
                f"samples, the arrays have {lengths}; {_AGAIN}"
            )
        ids = arrays["sample_ids"]
        if sample_ids is not None and not np.array_equal(ids, sample_ids):
            raise ValueError(
                f"{self.folder / name} holds {_ids_text(ids)}, the {name} split of "
                f"the data set {_ids_text(sample_ids)}: train the teacher again on "
                "this data set"
            )
        return arrays

    def compare(self) -> TeacherFile:
        """Compares the arrays of all splits with their digests; itself."""
        for split, names in self.digests.items():
            for name in names:
                self._load(split, name)
        return self

    def _load(self, split: str, name: str) -> np.ndarray:
        path = self.folder / split / f"{name}.npy"
        try:
            # Once: large files are mapped anew for each part of their rows.
            if path not in self._compared:
                if digest_of_file(path) != self.digests.get(split, {}).get(name):
                    raise Damaged(f"{path} is not as it was written; {_AGAIN}")
                self._compared.add(path)
            # Mapped where it is large: a million codes take a gigabyte.
            large = path.stat().st_size > 2**26
            return np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
        except FileNotFoundError as error:
            raise Damaged(f"{path} does not exist; {_AGAIN}") from error


def _ids_text(ids: np.ndarray) -> str:
    return f"{len(ids)} samples ({', '.join(map(str, ids[:3].tolist()))}, ...)"


def read(folder: str | Path) -> TeacherFile:
    """Reads ``teacher.json`` and ``teacher.safetensors``; splits are read when asked.

    Raises:
        ValueError: a file is missing, damaged, of another format, or its arrays do
            not fit the skeleton.
    """
    folder = Path(folder)
    path = folder / "teacher.json"
    record = read_json(path, remedy=_REMEDY)
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{path}: format is {found!r}, this version reads {FORMAT}; train again"
        )
    records = {"skeleton", "config", "splits", "digests"}
    needed = {"depth_sign", "depth_sign_source", *records}
    missing = sorted(n for n in needed if n not in record) or [
        n for n in sorted(records) if not isinstance(record[n], dict)
    ]
    if missing or not isinstance(record["skeleton"].get("joints"), list):
        raise ValueError(f"{path} lacks {missing or ['skeleton.joints']}; train again")
    _check_sign(record["depth_sign"], record["depth_sign_source"])
    arrays, _ = read_arrays(folder / "teacher.safetensors", remedy=_REMEDY)
    dictionary = arrays.pop("dictionary", np.zeros((0, 0)))
    rows = 3 * len(record["skeleton"]["joints"])
    if dictionary.ndim != 2 or len(dictionary) != rows:
        raise ValueError(
            f"{folder / 'teacher.safetensors'}: dictionary has shape "
            f"{dictionary.shape}, but the skeleton {record['skeleton'].get('name')!r} "
            f"needs {rows} rows; the files are of different runs"
        )
    signs = np.tile(np.array([1, 1, record["depth_sign"]], np.float32), rows // 3)
    try:
        params = _nested(arrays)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{folder / 'teacher.safetensors'} has other arrays than a teacher "
            f"({sorted(arrays)[:3]}, ...); train again"
        ) from error
    return TeacherFile(
        folder=folder,
        dictionary=signs[:, None] * dictionary,
        params=params,
        **{name: record[name] for name in needed},
    )


def save(
    folder: str | Path,
    *,
    dictionary: np.ndarray,
    params: Mapping[str, Any],
    skeleton: Mapping[str, Any],
    config: Mapping[str, Any],
    splits: Mapping[str, Mapping[str, np.ndarray] | int],
    depth_sign: int = 1,
    depth_sign_source: str = "given",
) -> None:
    """Writes the folder; ``teacher.json`` last, so that it marks the others whole.

    Args:
        folder: made if absent.
        dictionary: (3P, K) as trained, columns of norm 1.
        params: name -> array, or list of one array per layer; as trained.
        skeleton: as ``Skeleton.to_dict()`` gives it.
        config: the settings of the training, as plain JSON.
        splits: name -> its arrays, as trained; or the number of samples where the
            arrays have been written to their place (:func:`split_file`).
        depth_sign: +1, or -1 to read the folder mirrored in depth.
        depth_sign_source: one of ``SOURCES``.
    """
    folder = Path(folder)
    _check_sign(depth_sign, depth_sign_source)
    (folder / "teacher.json").unlink(missing_ok=True)
    counts: dict[str, int] = {}
    for name, arrays in splits.items():
        if isinstance(arrays, int):
            counts[name] = arrays
            continue
        counts[name] = len(arrays["sample_ids"])
        for array_name, values in arrays.items():
            np.save(split_file(folder, name, array_name), values)
    write_arrays(
        folder / "teacher.safetensors", {"dictionary": dictionary, **_flat(params)}
    )
    record = {
        "format": FORMAT,
        "skeleton": dict(skeleton),
        "depth_sign": depth_sign,
        "depth_sign_source": depth_sign_source,
        "config": dict(config),
        "splits": counts,
        "digests": {
            name: {p.stem: digest_of_file(p) for p in (folder / name).glob("[!.]*.npy")}
            for name in counts
        },
    }
    write_json(folder / "teacher.json", record, sealed=True)


def split_file(folder: str | Path, split: str, name: str) -> Path:
    """Where an array of a split lies; makes the folder."""
    path = Path(folder) / split / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def set_depth_sign(
    folder: str | Path, sign: int, source: str, config: Mapping[str, Any]
) -> None:
    """Turns the sign of a teacher that is written; its arrays stay as they are."""
    _check_sign(sign, source)
    path = Path(folder) / "teacher.json"
    changed = {"depth_sign": sign, "depth_sign_source": source, "config": dict(config)}
    write_json(path, read_json(path, remedy=_REMEDY) | changed, sealed=True)


def _check_sign(sign: Any, source: Any) -> None:
    if sign not in (1, -1):
        raise ValueError(f"depth_sign is {sign!r}; it must be +1 or -1")
    if source not in SOURCES:
        raise ValueError(
            f"depth_sign_source is {source!r}; it must be one of {SOURCES}"
        )


def _flat(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """``{"camera": [b]}`` -> ``{"params/camera/0": b, "params/camera/count": 1}``."""
    flat: dict[str, np.ndarray] = {}
    for group, value in params.items():
        if isinstance(value, (list, tuple)):  # a list may be empty: one layer's decoder
            flat |= {f"params/{group}/{i}": np.asarray(x) for i, x in enumerate(value)}
            flat[f"params/{group}/count"] = np.array(len(value))
        else:
            flat[f"params/{group}"] = np.asarray(value)
    return flat


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, value in arrays.items():
        _, group, *index = name.split("/")
        if index == ["count"]:
            params[group] = [arrays[f"params/{group}/{i}"] for i in range(int(value))]
        elif not index:
            params[group] = value
    return params
