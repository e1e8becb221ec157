"""A student's weights in one file: ``student.safetensors`` and its model card.

The file needs no other: its metadata describe the network, the joints, the frame and
the unit, and contain the card. The arrays are named by their place in the network,
``params/backbone/conv1/kernel``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from pose_jax.loss import MODES
from pose_jax.model import IMAGENET_MEAN, IMAGENET_STD
from pose_jax.shapes import check_shapes
from pose_jax.state import StudentRecord, state_shapes
from runtime.files import Damaged, read_arrays, write_arrays, write_text

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

    ``data`` is what it was trained on, names and plain values, and ``results`` its
    ``results.json``, both for the card.
    """
    card = model_card(record, data=data or {}, results=results or {})
    metadata = {
        "format": "1",
        "student": json.dumps(record.to_dict()),
        "training_data": json.dumps(dict(data or {}), default=str),
        "results": json.dumps(dict(results or {}), default=str),
        "card": card,
    }
    path = Path(folder) / FILE
    plain = {k: v._asdict() if k == "shapes" else v for k, v in variables.items()}
    arrays = flax.traverse_util.flatten_dict(plain, sep="/")
    write_arrays(path, arrays, metadata)
    write_text(Path(folder) / CARD, card)
    return path


def load_weights(path: str | Path) -> tuple[StudentRecord, dict[str, Any]]:
    """Reads what :func:`save_weights` wrote, from the file or its folder.

    Returns:
        The record, and the variables ``PoseNet.apply`` takes, as numpy arrays; with the
        teacher's ``"shapes"`` where the file has them.

    Raises:
        ValueError: no such file, one of another kind, or arrays that do not fit the
            network, by their names.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        arrays, metadata = read_arrays(path, remedy="run --stage=student first")
    except Damaged as error:
        raise ValueError(
            f"{error}; a backbone of another project is read by "
            "config.student.pretrained"
        ) from error
    try:
        if metadata["format"] != "1":
            raise ValueError(f"format {metadata['format']}")
        _ = MODES[json.loads(metadata["student"])["mode"]]
        record = StudentRecord.from_dict(json.loads(metadata["student"]), path)
        sizes = state_shapes(record.make_net(own=True), image_size=record.image_size)
    # Of a record that another program wrote, anything.
    except Exception as error:
        raise ValueError(f"{path}: its record is no student's ({error})") from error
    names = [name for name in arrays if name.startswith("shapes/")]
    of_teacher = {name.removeprefix("shapes/"): arrays.pop(name) for name in names}
    wanted: Any = flax.traverse_util.flatten_dict(sizes.variables, sep="/")
    check_arrays(path, arrays, {name: leaf.shape for name, leaf in wanted.items()})
    variables = flax.traverse_util.unflatten_dict(arrays, sep="/")
    if of_teacher:
        variables["shapes"] = check_shapes(path, of_teacher)
    return record, variables


def check_arrays(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[int, ...]],
) -> None:
    """Refuses arrays that are not exactly the wanted ones.

    Raises:
        ValueError: naming what is missing, unexpected or of another shape.
    """
    problems = {
        "missing": [name for name in wanted if name not in arrays],
        "unexpected": [name for name in arrays if name not in wanted],
        "of another shape": [
            f"{name} {arrays[name].shape}, not {tuple(shape)}"
            for name, shape in wanted.items()
            if name in arrays and arrays[name].shape != tuple(shape)
        ],
    }
    texts = [
        f"{what}: {', '.join(names[:QUOTED])}"
        + (f" and {len(names) - QUOTED} more" if len(names) > QUOTED else "")
        for what, names in problems.items()
        if names
    ]
    if texts:
        raise ValueError(f"{path} does not fit this network: {'; '.join(texts)}")


# --- the card ----------------------------------------------------------------------

CARD_TEXT = """\
# 3D pose from one picture

A student of mode `{record.mode}`: {network},
{net[dtype]} activations, float32 weights.{shared}

## Input

RGB, {record.image_size} x {record.image_size} pixels, 8 bits. The crop is a square
around the person whose side is
{record.padding:g} times the longer side of the {box}; grey (124) outside the picture.
Bytes x become (x / 255 - mean) / std with mean {mean} and std
{std}; the network does this itself.

## Output

x right, y down, z away from the camera, per joint, in patch units: [-1, 1] across the
crop, the same length in depth. Depth is relative: only its differences have a meaning.
Millimetres follow from a known length. Beside it the standard deviation of its error,
of each joint alone{covered}.

Skeleton `{record.skeleton.name}`, root {root}: {joints}.

## Training data

Learned from {labels}; depth sign {record.depth_sign:+d}.
{facts}

## Numbers

{table}

## Limits

One person per crop, of the kind seen in training. Weak perspective. The sign of depth
is that of the teacher, one for all pictures.
"""
NETWORK_TEXTS = {
    "resnet": """ResNet-{resnet_layers} (width {width:g},
stem `{stem}`) and an integral head of
{heatmap_size} x {heatmap_size} x {depth_bins} cells""",
    "efficientnet": """EfficientNet-Lite0,
heat of a quarter of the picture's size with maps of depth, {yaw_classes} yaws""",
    "pyramid": """three stages of a pyramid (width {width:g}),
heat of a quarter of the picture's size with maps of depth, {yaw_classes} yaws""",
}
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
    skeleton = record.skeleton
    teacher = "2D landmarks and the depth of a teacher learned from them, no 3D label"
    supervised = MODES[record.mode].label == "truth"
    shared = "\nTrained as one network with the depths of {}, and the same x and y."
    return CARD_TEXT.format(
        record=record,
        network=NETWORK_TEXTS[record.net["network"]].format(**record.net),
        shared=shared.format(", ".join(record.modes)) if record.modes[1:] else "",
        net=record.net,
        box="annotated box" if record.box == "annotation" else "box of the landmarks",
        mean=list(IMAGENET_MEAN),
        std=list(IMAGENET_STD),
        root=skeleton.joints[skeleton.root],
        joints=", ".join(skeleton.joints),
        labels="3D labels (the supervised reference)" if supervised else teacher,
        facts="".join(f"\n- {name}: {value}" for name, value in data.items()),
        table=_table(results),
        covered=_covered(results),
    )


def _covered(results: Mapping[str, Any]) -> str:
    """How many joints of the validation set are in the 95 % interval."""
    share = (results.get("val") or {}).get("error_bar", {}).get("95", {})
    told = ", ".join(f"{value:.3f} in {axis}" for axis, value in share.items())
    return f": 1.96 of it cover, on the validation set, {told}" if told else ""


def _table(results: Mapping[str, Any]) -> str:
    splits = [s for s in ("train", "val") if results.get(s)]
    lines = [f"| | {' | '.join(splits)} |", "|---" * (len(splits) + 1) + "|"]
    for key, text in SCORES.items():
        values = [results[s].get(key) for s in splits]
        if any(value is not None for value in values):
            cells = ["" if v is None else f"{v:.4g}" for v in values]
            lines.append(f"| {text} | {' | '.join(cells)} |")
    if len(lines) == 2:
        return "Not evaluated."
    notes = {
        results[s].get(k)
        for s in splits
        for k in ("alignment", "sign", "backbone", "poses")
    } - {None}
    return "\n".join(lines) + "".join(f"\n\n{note}." for note in sorted(notes))
