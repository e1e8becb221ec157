"""The teacher's record, its files, and the one global sign of its depth.

The files are safetensors and JSON, no pickle: ``teacher.json``,
``teacher.safetensors`` (dictionary and network) and one ``{split}.safetensors`` with
the cameras, codes and residuals of the samples. Students read them without importing
this package.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from losses.camera_frame import rotation_from_camera
from nrsfm_jax import model

FORMAT = 1
CODE_GAUGE = (
    "unit-norm dictionary columns: the codes carry the norms, and every L1 weight "
    "refers to these codes"
)


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained teacher.

    Attributes:
        dictionary: D (3P, K), unit-norm columns, rows x1 y1 z1 x2 ..., in the frame
            that ``depth_sign`` says.
        params: of the network, as trained (before the depth sign).
        skeleton: as ``Skeleton.to_dict()`` gives it.
        depth_sign: +1: as trained; -1: mirrored in depth (2D cannot tell).
        depth_sign_source: ``"given"`` by the config, ``"cue"``: told by what is seen
            in a picture, or ``"evaluate"``: chosen once against ground truth.
        config: the settings of the run, as plain JSON.
    """

    dictionary: Float[np.ndarray, "d k"]
    params: model.Params
    skeleton: dict[str, Any]
    depth_sign: int = 1
    depth_sign_source: str = "given"
    config: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.depth_sign not in (1, -1):
            raise ValueError(f"depth_sign is {self.depth_sign!r}; it must be +1 or -1")
        if self.depth_sign_source not in ("given", "cue", "evaluate"):
            raise ValueError(
                f"depth_sign_source is {self.depth_sign_source!r}; it must be 'given', "
                "'cue' or 'evaluate'"
            )

    @property
    def ista_steps(self) -> int:
        """ISTA steps of every coding layer, from the config of the training."""
        return int(self.config.get("teacher", {}).get("ista_steps", 1))

    def mirrored(self) -> Teacher:
        """The teacher with the depth of every sample negated, by the same 2D."""
        dictionary, _ = model.mirror_depth(jnp.asarray(self.dictionary), jnp.eye(3, 2))
        return dataclasses.replace(
            self, dictionary=np.asarray(dictionary), depth_sign=-self.depth_sign
        )

    def reconstruct(
        self,
        W: Float[np.ndarray, "n p 2"],
        labelled: Bool[np.ndarray, "n p"],
        sample_ids: Int[np.ndarray, " n"],
        *,
        chunk: int = 2048,
    ) -> Reconstruction:
        """Cameras and codes of any samples; ``chunk`` at a time bounds the memory.

        ``W`` at a missing landmark is 0 or, as in training, what the EM expects there:
        the network sees it, the residual does not.
        """
        # Padded to whole chunks, so that one program serves all of them.
        chunk = max(1, min(chunk, len(W)))
        pad = -len(W) % chunk
        inputs = [
            np.concatenate([x, np.zeros((pad, *x.shape[1:]), x.dtype)])
            for x in (np.asarray(W, np.float32), np.asarray(labelled, bool))
        ]
        parts = [
            _reconstruct_batch(
                self.params,
                *(x[i : i + chunk] for x in inputs),
                ista_steps=self.ista_steps,
                depth_sign=self.depth_sign,
            )
            for i in range(0, len(W) + pad, chunk)
        ]
        code, camera, residual = (
            np.concatenate([np.asarray(part[i]) for part in parts])[: len(W)]
            if parts
            else np.zeros((0,), np.float32)
            for i in range(3)
        )
        return Reconstruction(
            sample_ids=np.asarray(sample_ids, np.int64),
            camera=camera,
            code=code,
            residual=residual,
            W=np.where(labelled[..., None], W, 0).astype(np.float32),
            labelled=np.asarray(labelled, bool),
        )


@functools.partial(jax.jit, static_argnames=("ista_steps", "depth_sign"))
def _reconstruct_batch(params, W, labelled, *, ista_steps, depth_sign):
    def one(W, labelled):
        phi, M, S = model.reconstruct(
            params, W, ista_steps=ista_steps, depth_sign=depth_sign
        )
        _, phi = model.unit_norm_gauge(params["dictionaries"][0], phi)
        error = jnp.dot(S, M, precision=jax.lax.Precision.HIGHEST) - W
        return phi, M, jnp.sqrt(jnp.sum(jnp.where(labelled[:, None], error, 0.0) ** 2))

    return jax.vmap(one)(W, labelled)


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What the teacher says about N samples, in patch units.

    Attributes:
        sample_ids: (N,) of the samples, in the order of the landmarks' reader.
        camera: M (N, 3, 2).
        code: phi_1 (N, K) in the gauge of unit-norm columns.
        residual: (N,) ``||B_xy phi - w||_2`` over the labelled joints.
        W: (N, P, 2) centred landmarks, 0 where missing.
        labelled: (N, P).
    """

    sample_ids: Int[np.ndarray, " n"]
    camera: Float[np.ndarray, "n 3 2"]
    code: Float[np.ndarray, "n k"]
    residual: Float[np.ndarray, " n"]
    W: Float[np.ndarray, "n p 2"]
    labelled: Bool[np.ndarray, "n p"]

    def __len__(self) -> int:
        return len(self.sample_ids)

    def mirrored(self) -> Reconstruction:
        """Of the mirrored teacher: the same codes seen by mirrored cameras."""
        _, camera = model.mirror_depth(
            jnp.zeros((3, 1), jnp.float32), jnp.asarray(self.camera)
        )
        return dataclasses.replace(self, camera=np.asarray(camera))

    def poses(self, dictionary: Float[np.ndarray, "d k"]) -> np.ndarray:
        """(N, P, 3) in the camera frame, ``S R``: x right, y down, z away."""
        S = (self.code @ dictionary.T).reshape(len(self), -1, 3)
        R = np.asarray(jax.vmap(rotation_from_camera)(jnp.asarray(self.camera)))
        return S @ R


def from_params(
    params: model.Params,
    *,
    skeleton: Mapping[str, Any],
    depth_sign: int = 1,
    depth_sign_source: str = "given",
    config: Mapping[str, Any] | None = None,
) -> Teacher:
    """The record of trained parameters, its dictionary brought to unit columns."""
    first = jnp.asarray(params["dictionaries"][0])
    dictionary, _ = model.unit_norm_gauge(first, jnp.ones(first.shape[1]))
    teacher = Teacher(
        dictionary=np.asarray(dictionary),
        params=jax.tree.map(np.asarray, params),
        skeleton=dict(skeleton),
        depth_sign_source=depth_sign_source,
        config=dict(config or {}),
    )
    return teacher if depth_sign == 1 else teacher.mirrored()


# --- files --------------------------------------------------------------------------


def save(
    folder: str | Path,
    teacher: Teacher,
    splits: Mapping[str, Reconstruction],
    *,
    in_shards: Mapping[str, int] | None = None,
) -> None:
    """Writes the teacher's files; ``teacher.json`` last, so that it marks them whole.

    Args:
        folder: made if absent.
        teacher: the record.
        splits: name of the split -> reconstruction, normally "train" and "val".
        in_shards: name -> number of samples of the splits whose shards are there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "teacher.json").unlink(missing_ok=True)
    for name, split in splits.items():
        fields = (f.name for f in dataclasses.fields(split))
        arrays = {field: getattr(split, field) for field in fields}
        save_arrays(folder / f"{name}.safetensors", arrays)
    leaves = jax.tree_util.tree_leaves_with_path(teacher.params)
    arrays = {
        "params/" + jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }
    arrays["dictionary"] = teacher.dictionary
    save_arrays(folder / "teacher.safetensors", arrays)
    record = {
        "format": FORMAT,
        "skeleton": teacher.skeleton,
        "depth_sign": teacher.depth_sign,
        "depth_sign_source": teacher.depth_sign_source,
        "code_gauge": CODE_GAUGE,
        "config": teacher.config,
        "splits": {name: len(split) for name, split in splits.items()}
        | dict(in_shards or {}),
    }
    temporary = folder / f".teacher.{os.getpid()}.json"
    temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / "teacher.json")


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes a safetensors file that is whole or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # safetensors writes memory as it lies: a transposed view would be scrambled.
    save_file({k: np.array(v, order="C") for k, v in arrays.items()}, temporary)
    os.replace(temporary, path)


def load(folder: str | Path) -> Teacher:
    """Reads the record that :func:`save` wrote.

    Raises:
        ValueError: a file is missing, damaged, of another format, or its arrays do
            not fit the skeleton.
    """
    folder = Path(folder)
    record = read_record(folder)
    path = folder / "teacher.safetensors"
    arrays = load_arrays(path)
    if "dictionary" not in arrays:
        raise ValueError(f"{path} has no 'dictionary'; train the teacher again")
    dictionary = arrays.pop("dictionary")
    rows = 3 * len(record["skeleton"]["joints"])
    if dictionary.ndim != 2 or dictionary.shape[0] != rows:
        raise ValueError(
            f"{path}: dictionary has shape {dictionary.shape}, but the skeleton "
            f"{record['skeleton'].get('name')!r} needs {rows} rows; the files are of "
            "different runs"
        )
    return Teacher(
        dictionary=dictionary,
        params=_nest(arrays),
        skeleton=record["skeleton"],
        depth_sign=record["depth_sign"],
        depth_sign_source=record["depth_sign_source"],
        config=record["config"],
    )


def read_record(folder: str | Path) -> dict[str, Any]:
    """``teacher.json``, checked.

    Raises:
        ValueError: it is missing, not JSON, of another format, or lacks a field.
    """
    path = Path(folder) / "teacher.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; run --stage=teacher first") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); train again") from error
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: format is {found!r}, this version reads {FORMAT}")
    needed = {"skeleton", "depth_sign", "depth_sign_source", "config"}
    missing = sorted(needed - record.keys())
    if missing or "joints" not in record["skeleton"]:
        raise ValueError(f"{path} lacks {missing or ['skeleton.joints']}; train again")
    return record


def shard_name(split: str, index: int, count: int) -> str:
    """Of one of the files that hold a split together."""
    return f"{split}-{index:05d}-of-{count:05d}.safetensors"


def load_reconstruction(folder: str | Path, split: str) -> Reconstruction:
    """Reads ``{split}.safetensors``, or the shards that stand for it.

    Raises:
        ValueError: a file is missing or damaged, lacks an array, or the lengths of
            its arrays differ.
    """
    parts = list(reconstruction_parts(folder, split))
    if len(parts) == 1:
        return parts[0]
    names = [field.name for field in dataclasses.fields(Reconstruction)]
    return Reconstruction(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
    )


def reconstruction_parts(folder: str | Path, split: str) -> Iterator[Reconstruction]:
    """The same file by file: in memory is one shard at a time."""
    path = Path(folder) / f"{split}.safetensors"
    shards = sorted(Path(folder).glob(f"{split}-?????-of-?????.safetensors"))
    if path.exists() or not shards:
        yield _load_part(path)
        return
    count = int(shards[0].stem.rsplit("-", 1)[1])
    wanted = [Path(folder) / shard_name(split, i, count) for i in range(count)]
    if shards != wanted:
        odd = sorted({p.name for p in shards} ^ {p.name for p in wanted})
        raise ValueError(
            f"{folder} should hold {count} shards of {split!r} and no other; missing "
            f"or too many: {odd}; write them again"
        )
    yield from map(_load_part, shards)


def _load_part(path: Path) -> Reconstruction:
    arrays = load_arrays(path)
    names = [field.name for field in dataclasses.fields(Reconstruction)]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks the arrays {missing}; train the teacher again")
    lengths = {name: len(arrays[name]) for name in names}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path}: the arrays differ in length: {lengths}")
    return Reconstruction(**{name: arrays[name] for name in names})


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file; ValueError where there is none."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; run --stage=teacher first") from error
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from error


def _nest(arrays: Mapping[str, np.ndarray]) -> model.Params:
    """``{"params/camera/0": b}`` -> ``{"camera": [b]}``."""
    params: dict[str, Any] = {}
    groups: dict[str, dict[int, np.ndarray]] = {}
    for name, value in arrays.items():
        _, group, *index = name.split("/")
        if index:
            groups.setdefault(group, {})[int(index[0])] = value
        else:
            params[group] = value
    # One layer has no decoder threshold: an empty list leaves no array behind.
    params["decoder"] = []
    for group, members in groups.items():
        params[group] = [members[i] for i in sorted(members)]
    return params
