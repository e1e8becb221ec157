"""The description of a student besides its weights, and the state of its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from input_pipeline.skeleton import Skeleton
from pose_jax.model import PoseNet
from runtime.files import read_json, write_json

PyTree = Any

# Fields of config.student that say which network it is.
NET_FIELDS = (
    *("resnet_layers", "width", "stem", "heatmap_size"),
    *("depth_bins", "deconv_channels", "num_deconv", "dtype"),
)
CHECKPOINTS = "checkpoints"
ADAM = optax.scale_by_adam()  # the direction; the step multiplies it by the rate


@dataclasses.dataclass(frozen=True)
class StudentRecord:
    """A student's ``student.json``: enough to use its weights on other pictures."""

    mode: str  # what it was trained on, a key of `pose_jax.loss.MODES`
    skeleton: Skeleton  # the joints it predicts
    net: dict[str, Any]  # the fields NET_FIELDS of its network
    image_size: int  # side of the pictures it was trained on, pixels
    padding: float  # side of its crops over the longer side of the box
    depth_sign: int  # the teacher's, which its weights have; +1 of 3D labels
    depth_weight: float  # the whole weight of its depth loss
    matched_weight: float  # the part of it that matches depth gradients
    box: str = "landmarks"  # what its crops surround, `data.box`

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        record = {"format": 1, **dataclasses.asdict(self)}
        return record | {"skeleton": self.skeleton.to_dict()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], source: str | Path) -> StudentRecord:
        """From what :meth:`to_dict` gave; ``source`` is named in the error.

        Raises:
            ValueError: a record of another format, or a value that no student has.
        """
        fields = dict(record)
        wanted = {field.name for field in dataclasses.fields(cls)}
        if fields.pop("format", None) != 1 or fields.keys() != wanted:
            raise ValueError(f"{source} is not of format 1; train the student again")
        fields["skeleton"] = Skeleton.from_dict(fields["skeleton"])
        side, padding = fields["image_size"], fields["padding"]
        possible = {
            "image_size": type(side) is int and 0 < side <= 4096,
            "padding": type(padding) in (int, float) and 0 < padding <= 100,
            "depth_sign": fields["depth_sign"] in (1, -1),
            "box": fields["box"] in ("landmarks", "annotation"),
        }
        for name in (n for n, good in possible.items() if not good):
            raise ValueError(f"{source}: {name} = {fields[name]!r} is no student's")
        return cls(**fields)

    def save(self, folder: str | Path) -> None:
        """Writes ``folder/student.json``."""
        write_json(Path(folder) / "student.json", self.to_dict(), sealed=True)

    @classmethod
    def load(cls, folder: str | Path) -> StudentRecord:
        """Reads what :meth:`save` wrote; ValueError without such a file."""
        path = Path(folder) / "student.json"
        record = read_json(path, remedy="run --stage=student first")
        return cls.from_dict(record, path)

    def make_net(self, axis_name: str | None = None) -> PoseNet:
        """The network, without weights; ``axis_name`` as in :class:`PoseNet`.

        Raises:
            ValueError: an unknown dtype.
        """
        dtype = self.net["dtype"]
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"config.student.dtype = {dtype!r} is not 'float32' or 'bfloat16'"
            )
        fields = {**self.net, "dtype": jnp.dtype(dtype)}
        return PoseNet(self.skeleton.num_joints, axis_name=axis_name, **fields)


def turned(record: StudentRecord, params: PyTree) -> tuple[StudentRecord, PyTree]:
    """The student whose poses have -z: the cells along z of its last layer reversed.

    Exact, since the cells lie symmetrically about 0: where a teacher is mirrored in
    depth after the training, its students follow without another.
    """

    def reverse(x: Any) -> Any:
        cells = x.reshape(*x.shape[:-1], -1, record.net["depth_bins"])
        return cells[..., ::-1].reshape(x.shape)

    head = params["head"]
    head = {**head, "final": {n: reverse(x) for n, x in head["final"].items()}}
    record = dataclasses.replace(record, depth_sign=-record.depth_sign)
    return record, {**params, "head": head}


def net_fields(student: Any) -> dict[str, Any]:
    """The fields of ``config.student`` that name a network, with plain types."""
    fields = {name: student[name] for name in NET_FIELDS}
    return fields | {"width": float(fields["width"]), "dtype": str(fields["dtype"])}


@flax.struct.dataclass
class Plateau:
    """The state of the learning rate's drop."""

    learning_rate: Any  # of the next step
    best_loss: Any  # the lowest validation loss so far
    stale_evals: Any  # evaluations since then


@flax.struct.dataclass
class TrainState:
    """All that a step changes; frozen, owned by the loop."""

    step: Any  # steps done
    params: PyTree
    batch_stats: PyTree  # running statistics of the batch norms
    opt_state: PyTree  # Adam's moments
    plateau: Plateau

    @property
    def variables(self) -> dict[str, PyTree]:
        """What ``PoseNet.apply`` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(
    net: nn.Module, key: jax.Array, *, image_size: int, learning_rate: float
) -> TrainState:
    """The state before the first step."""
    pictures = jnp.zeros((1, image_size, image_size, 3), jnp.uint8)
    variables = jax.jit(net.init, static_argnames="train")(key, pictures, train=False)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=ADAM.init(variables["params"]),
        plateau=Plateau(
            learning_rate=jnp.asarray(learning_rate, jnp.float32),
            best_loss=jnp.asarray(np.inf, jnp.float32),
            stale_evals=jnp.zeros((), jnp.int32),
        ),
    )


def state_shapes(net: nn.Module, *, image_size: int) -> TrainState:
    """Shapes and dtypes of :func:`init_state`, for reading a checkpoint."""
    return jax.eval_shape(
        lambda: init_state(
            net, jax.random.key(0), image_size=image_size, learning_rate=0.0
        )
    )
