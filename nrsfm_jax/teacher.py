"""A trained teacher and its reconstructions; the file format is `teacher_file`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from losses.camera_frame import rotation_from_camera
from nrsfm_jax import model
from runtime import teacher_file


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained teacher.

    Attributes:
        params: of the network, as trained (before the depth sign).
        skeleton: as ``Skeleton.to_dict()`` gives it.
        depth_sign: +1: as trained; -1: mirrored in depth (2D cannot tell).
        depth_sign_source: ``"given"`` by the config, or ``"cue"``: told by what is
            seen in a picture.
        config: the settings of the run, as plain JSON.
    """

    params: model.Params
    skeleton: Mapping[str, Any]
    depth_sign: int = 1
    depth_sign_source: str = "given"
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def dictionary(self) -> Float[np.ndarray, "d k"]:
        """D (3P, K), unit-norm columns, rows x1 y1 z1 x2 ..., at ``depth_sign``.

        In this gauge the codes carry the norms, and every L1 weight refers to them.
        """
        first = jnp.asarray(self.params["dictionaries"][0])
        dictionary, _ = model.unit_norm_gauge(first, jnp.ones(first.shape[1]))
        if self.depth_sign == -1:
            dictionary, _ = model.mirror_depth(dictionary, jnp.eye(3, 2))
        return np.asarray(dictionary)

    @property
    def ista_steps(self) -> int:
        """ISTA steps of every coding layer, from the config of the training."""
        return int(self.config.get("teacher", {}).get("ista_steps", 1))

    def mirrored(self) -> Teacher:
        """The teacher with the depth of every sample negated, by the same 2D."""
        return dataclasses.replace(self, depth_sign=-self.depth_sign)

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
        options = {"ista_steps": self.ista_steps, "depth_sign": self.depth_sign}
        run = functools.partial(_reconstruct_batch, self.params, **options)
        parts = [
            run(*(x[i : i + chunk] for x in inputs))
            for i in range(0, len(W) + pad, chunk)
        ]
        code, camera, residual = (
            np.concatenate([np.asarray(x) for x in column])[: len(W)]
            for column in zip(*parts, strict=True)
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
def _reconstruct_batch(
    params: model.Params,
    W: Float[Array | np.ndarray, "n p 2"],
    labelled: Bool[Array | np.ndarray, "n p"],
    *,
    ista_steps: int,
    depth_sign: int,
) -> tuple[Float[Array, "n k"], Float[Array, "n 3 2"], Float[Array, " n"]]:
    def one(W, labelled):
        phi, M, S = model.reconstruct(
            params, W, ista_steps=ista_steps, depth_sign=depth_sign
        )
        _, phi = model.unit_norm_gauge(params["dictionaries"][0], phi)
        error = jnp.dot(S, M, precision=jax.lax.Precision.HIGHEST) - W
        return phi, M, jnp.sqrt(jnp.sum(jnp.where(labelled[:, None], error, 0.0) ** 2))

    return jax.vmap(one)(jnp.asarray(W), jnp.asarray(labelled))


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
        flip = np.array([1, 1, -1], np.float32)[:, None]
        return dataclasses.replace(self, camera=flip * self.camera)

    def poses(self, dictionary: Float[np.ndarray, "d k"]) -> Float[np.ndarray, "n p 3"]:
        """(N, P, 3) in the camera frame, ``S R``: x right, y down, z away."""
        S = (self.code @ dictionary.T).reshape(len(self), -1, 3)
        R = np.asarray(jax.vmap(rotation_from_camera)(jnp.asarray(self.camera)))
        return S @ R


def save(
    folder: str | Path,
    teacher: Teacher,
    splits: Mapping[str, Reconstruction | int],
    labels: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Writes the teacher's folder; see :mod:`runtime.teacher_file`.

    Args:
        folder: made if absent.
        teacher: the record.
        splits: name -> reconstruction by ``teacher``, or the number of samples whose
            arrays have been written as trained, to their place.
        labels: name -> those for students, as trained.
    """
    as_trained = teacher if teacher.depth_sign == 1 else teacher.mirrored()
    arrays: dict[str, Any] = {}
    for name, split in splits.items():
        if isinstance(split, Reconstruction):
            split = vars(split if teacher.depth_sign == 1 else split.mirrored())
            split = split | dict((labels or {}).get(name, {}))
        arrays[name] = split
    teacher_file.save(
        folder,
        dictionary=as_trained.dictionary,
        params=teacher.params,
        skeleton=teacher.skeleton,
        config=teacher.config,
        splits=arrays,
        depth_sign=teacher.depth_sign,
        depth_sign_source=teacher.depth_sign_source,
    )


def load(folder: str | Path) -> Teacher:
    """Reads the record that :func:`save` wrote; ValueError where it cannot."""
    file = teacher_file.read(folder)
    return Teacher(
        params=file.params,
        skeleton=file.skeleton,
        depth_sign=file.depth_sign,
        depth_sign_source=file.depth_sign_source,
        config=file.config,
    )


def load_reconstruction(folder: str | Path, split: str) -> Reconstruction:
    """Reads a split, at the teacher's sign of depth; ValueError where it cannot."""
    return Reconstruction(**teacher_file.read(folder).split(split))
