"""The description of a student besides its weights, and the state of its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.skeleton import Skeleton
from pose_jax.model import PoseNet
from pose_jax.optimizer import make_optimizer
from runtime.files import read_json, write_json

PyTree = Any

# Fields of config.student that say which network it is.
NET_FIELDS = (
    *("network", "resnet_layers", "width", "stem", "heatmap_size"),
    *("depth_bins", "deconv_channels", "num_deconv", "dtype", "yaw_classes"),
)
CHECKPOINTS = "checkpoints"


def stage_name(modes: Sequence[str]) -> str:
    """The stage, and the folder, in which these modes are trained together.

    Examples:
        >>> stage_name(["distill"]), stage_name(["weaksup_bs", "distill"])
        ('student_distill', 'student_weaksup_bs+distill')
    """
    return f"student_{'+'.join(modes)}"


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
    modes: tuple[str, ...]  # that share its backbone; it alone where none does
    optimizer: str  # a name of `pose_jax.optimizer`, whose state its checkpoints hold
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
        fields["modes"] = tuple(fields["modes"])
        side, padding = fields["image_size"], fields["padding"]
        possible = {
            "image_size": type(side) is int and 0 < side <= 4096,
            "padding": type(padding) in (int, float) and 0 < padding <= 100,
            "depth_sign": fields["depth_sign"] in (1, -1),
            "box": fields["box"] in ("landmarks", "annotation"),
            "modes": fields["mode"] in fields["modes"],
        }
        for name in (n for n, good in possible.items() if not good):
            raise ValueError(f"{source}: {name} = {fields[name]!r} is no student's")
        return cls(**fields)

    def save(self, workdir: str | Path) -> None:
        """Writes ``student.json`` in the mode's own folder of ``workdir``."""
        folder = Path(workdir) / stage_name([self.mode])
        write_json(folder / "student.json", self.to_dict(), sealed=True)

    @classmethod
    def load(cls, folder: str | Path) -> StudentRecord:
        """Reads what :meth:`save` wrote there; ValueError without such a file."""
        path = Path(folder) / "student.json"
        record = read_json(path, remedy="run --stage=student first")
        return cls.from_dict(record, path)

    def make_net(self, axis_name: str | None = None, *, own: bool = False) -> PoseNet:
        """The network that is trained, or of it what gives this mode's ``own`` depth.

        Without weights; ``axis_name`` as in :class:`PoseNet`.

        Raises:
            ValueError: an unknown dtype.
        """
        dtype = self.net["dtype"]
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"config.student.dtype = {dtype!r} is not 'float32' or 'bfloat16'"
            )
        fields = {
            **self.net,
            "dtype": jnp.dtype(dtype),
            "num_depths": 1 if own else len(self.modes),
        }
        return PoseNet(self.skeleton.num_joints, axis_name=axis_name, **fields)

    def own_depth(self, params: PyTree) -> PyTree:
        """Of the parameters of the modes together those of this one."""
        if len(self.modes) == 1:
            return params
        index = self.modes.index(self.mode)

        def chosen(x: Any) -> Any:
            maps = x.reshape(-1, 1 + len(self.modes), self.skeleton.num_joints)
            return maps[:, [0, 1 + index]].reshape(*x.shape[:-1], -1)

        params = _of_last_layers(chosen, params)
        own = jax.tree.map(lambda x: x[[index]], params["head"]["error_bar"])
        return {**params, "head": {**params["head"], "error_bar": own}}


def turned(record: StudentRecord, params: PyTree) -> tuple[StudentRecord, PyTree]:
    """The student whose poses have -z: where a teacher is mirrored in depth after the
    training, its students follow without another.

    Exact: the cells along z of a volume lie symmetrically about 0 and are reversed, a
    map of depth is multiplied by -1.
    """

    def reverse(x: Any) -> Any:
        if record.net["network"] != "resnet":
            maps = x.reshape(-1, 2, record.skeleton.num_joints)
            sign = np.array([1, -1], x.dtype).reshape(1, 2, 1)
            return (maps * sign).reshape(x.shape)
        cells = x.reshape(*x.shape[:-1], -1, record.net["depth_bins"])
        return cells[..., ::-1].reshape(x.shape)

    record = dataclasses.replace(record, depth_sign=-record.depth_sign)
    return record, _of_last_layers(reverse, params)


def _of_last_layers(function: Callable[[Any], Any], params: PyTree) -> PyTree:
    """``params`` with what makes the heat and the depth changed."""
    names = {"final", "facing"} & params["head"].keys()
    changed = {name: jax.tree.map(function, params["head"][name]) for name in names}
    return {**params, "head": {**params["head"], **changed}}


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
    opt_state: PyTree  # moments of the gradients
    plateau: Plateau

    @property
    def variables(self) -> dict[str, PyTree]:
        """What ``PoseNet.apply`` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(
    net: nn.Module,
    key: jax.Array,
    *,
    image_size: int,
    learning_rate: float,
    optimizer: str = "adam",
) -> TrainState:
    """The state before the first step."""
    pictures = jnp.zeros((1, image_size, image_size, 3), jnp.uint8)
    variables = jax.jit(net.init, static_argnames="train")(key, pictures, train=False)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=make_optimizer(optimizer).init(variables["params"]),
        plateau=Plateau(
            learning_rate=jnp.asarray(learning_rate, jnp.float32),
            best_loss=jnp.asarray(np.inf, jnp.float32),
            stale_evals=jnp.zeros((), jnp.int32),
        ),
    )


def state_shapes(
    net: nn.Module, *, image_size: int, optimizer: str = "adam"
) -> TrainState:
    """Shapes and dtypes of :func:`init_state`, for reading a checkpoint."""
    how = {"image_size": image_size, "learning_rate": 0.0, "optimizer": optimizer}
    return jax.eval_shape(lambda: init_state(net, jax.random.key(0), **how))
