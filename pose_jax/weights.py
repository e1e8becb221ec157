"""A student's weights in one file: ``student.safetensors`` and its model card.

The file stands alone: beside the arrays it holds what the network is, which joints
it predicts, in which frame and unit, and the card, as metadata. The arrays are named
by their place in the network, ``params/backbone/conv1/kernel``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pose_jax.model import IMAGENET_MEAN, IMAGENET_STD
from pose_jax.state import StudentRecord, state_shapes

FILE, CARD = "student.safetensors", "MODEL_CARD.md"
# Names quoted by a message before it says how many more there are.
QUOTED = 8


def save_weights(
    folder: str | Path,
    record: StudentRecord,
    variables: Mapping[str, Any],
    *,
    data: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
) -> Path:
    """Writes ``folder/student.safetensors`` and ``folder/MODEL_CARD.md``.

    Args:
        folder: made if absent.
        record: what the network is.
        variables: its ``params`` and ``batch_stats``.
        data: what it was trained on, for the card: names and plain values.
        results: its ``results.json``, for the card.

    Returns:
        The path of the weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    card = model_card(record, data=data or {}, results=results or {})
    metadata = {
        "format": "1",
        "student": json.dumps(record.to_dict()),
        "training_data": json.dumps(dict(data or {}), default=str),
        "results": json.dumps(dict(results or {}), default=str),
        "card": card,
    }
    path, temporary = folder / FILE, folder / f".{FILE}.tmp"
    arrays = {k: np.ascontiguousarray(v) for k, v in _named(variables).items()}
    save_file(arrays, temporary, metadata)
    temporary.replace(path)
    temporary = folder / f".{CARD}.tmp"
    temporary.write_text(card, encoding="utf-8")
    temporary.replace(folder / CARD)
    return path


def load_weights(path: str | Path) -> tuple[StudentRecord, dict[str, Any]]:
    """Reads what :func:`save_weights` wrote; nothing else is needed.

    Args:
        path: the file, or its folder.

    Returns:
        The record, and the variables ``PoseNet.apply`` takes, as numpy arrays.

    Raises:
        ValueError: no such file, one of another kind, or arrays that do not fit the
            network, by their names.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path} does not exist; run --stage=student first")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    if metadata.get("format") != "1" or "student" not in metadata:
        raise ValueError(
            f"{path} is not a student's file of format 1; for a backbone of another "
            "project set config.student.pretrained"
        )
    record = StudentRecord.from_dict(json.loads(metadata["student"]), path)
    shapes = state_shapes(record.make_net(), image_size=record.image_size)
    wanted = _named(shapes.variables)
    check_arrays(path, arrays, {name: leaf.shape for name, leaf in wanted.items()})
    return record, flax.traverse_util.unflatten_dict(arrays, sep="/")


def _named(tree: Mapping[str, Any]) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(jax.tree.map(lambda x: x, tree), sep="/")


def check_arrays(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[int, ...]],
) -> None:
    """Refuses arrays that are not exactly the wanted ones.

    Raises:
        ValueError: naming what is missing, unexpected or of another shape.
    """
    problems = [
        *_listed("missing", [name for name in wanted if name not in arrays]),
        *_listed("unexpected", [name for name in arrays if name not in wanted]),
        *_listed(
            "of another shape",
            [
                f"{name} {arrays[name].shape}, not {tuple(shape)}"
                for name, shape in wanted.items()
                if name in arrays and arrays[name].shape != tuple(shape)
            ],
        ),
    ]
    if problems:
        raise ValueError(f"{path} does not fit this network: {'; '.join(problems)}")


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - QUOTED} more" if len(names) > QUOTED else ""
    return [f"{what}: {', '.join(names[:QUOTED])}{more}"]


# --- the card ----------------------------------------------------------------------

SCORES = {
    "mpjpe_mm": "MPJPE, mm",
    "pa_mpjpe_mm": "PA-MPJPE, mm",
    "depth_error_mm": "depth error, mm",
    "flip_fraction": "flipped in depth, share",
    "xy_error": "landmarks, half sides of the crop",
    "count": "samples",
}


def model_card(
    record: StudentRecord, *, data: Mapping[str, Any], results: Mapping[str, Any]
) -> str:
    """The card in Markdown: what goes in, what comes out, from what, how well."""
    skeleton, net, size = record.skeleton, record.net, record.image_size
    sections = [
        "# 3D pose from one picture\n\n"
        f"A student of mode `{record.mode}`: ResNet-{net['resnet_layers']} (width "
        f"{net['width']:g}, stem `{net['stem']}`) and an integral head of "
        f"{net['heatmap_size']} x {net['heatmap_size']} x {net['depth_bins']} cells, "
        f"{net['dtype']} activations, float32 weights.",
        "## Input\n\n"
        f"RGB, {size} x {size} pixels, 8 bits. The crop is a square around the person "
        f"whose side is {record.padding:g} times the longer side of the box of the "
        "landmarks; grey (124) outside the picture. Bytes x become (x / 255 - mean) / "
        f"std with mean {list(IMAGENET_MEAN)} and std {list(IMAGENET_STD)}; the "
        "network does this itself.",
        "## Output\n\n"
        "x right, y down, z away from the camera, per joint, in patch units: [-1, 1] "
        "across the crop, the same length in depth. Depth is relative: only its "
        "differences have a meaning. Millimetres follow from a known length.\n\n"
        f"Skeleton `{skeleton.name}`, root {skeleton.joints[skeleton.root]}: "
        f"{', '.join(skeleton.joints)}.",
        "## Training data\n\n" + _data_text(record, data),
        "## Numbers\n\n" + _table(results),
        "## Limits\n\n"
        "One person per crop, of the kind seen in training. Weak perspective. The "
        "sign of depth is that of the teacher, one for all pictures.",
    ]
    return "\n\n".join(sections) + "\n"


def _data_text(record: StudentRecord, data: Mapping[str, Any]) -> str:
    labels = (
        "3D labels (the supervised reference)"
        if record.mode == "supervised"
        else "2D landmarks and the depth of a teacher learned from them, no 3D label"
    )
    lines = [f"Learned from {labels}; depth sign {record.depth_sign:+d}."]
    lines += [f"- {name}: {value}" for name, value in data.items()]
    return "\n".join([lines[0], "", *lines[1:]]).rstrip()


def _table(results: Mapping[str, Any]) -> str:
    splits = [s for s in ("train", "val") if isinstance(results.get(s), Mapping)]
    rows = [
        (text, [results[s].get(key) for s in splits])
        for key, text in SCORES.items()
        if any(key in results[s] for s in splits)
    ]
    if not rows:
        return "Not evaluated."
    lines = [f"| | {' | '.join(splits)} |", "|---" * (len(splits) + 1) + "|"]
    for text, values in rows:
        cells = ["" if v is None else f"{v:.4g}" for v in values]
        lines.append(f"| {text} | {' | '.join(cells)} |")
    notes = {
        n for s in splits for k in ("alignment", "sign") if (n := results[s].get(k))
    }
    return "\n".join(lines) + "".join(f"\n\n{note}." for note in sorted(notes))
