"""The same few labels, written in every format that there is a reader for."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from input_pipeline.skeleton import H36M_17, MPII_16, Skeleton

SIZE = 64
COUNT = 12


def points(skeleton: Skeleton, *, count: int = COUNT, seed: int = 0) -> np.ndarray:
    """(count, P, 2) places in pictures of SIZE pixels, with a few digits."""
    rng = np.random.default_rng(seed)
    return rng.uniform(8, SIZE - 8, (count, skeleton.num_joints, 2)).round(2)


def hidden(skeleton: Skeleton, *, count: int = COUNT, seed: int = 1) -> np.ndarray:
    """(count, P) bool: about three of ten unlabelled, two of each kept."""
    gone = np.random.default_rng(seed).random((count, skeleton.num_joints)) < 0.3
    gone[:, :2] = False
    return gone


def names(count: int = COUNT, folder: str = "") -> list[str]:
    """The pictures' names."""
    return [f"{folder}img{i:03d}.png" for i in range(count)]


def write_pictures(folder: Path, files: list[str], *, size: int = SIZE) -> None:
    """Grey pictures, each of its own brightness."""
    for i, name in enumerate(files):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), (i * 9 % 256,) * 3).save(path)


def write_coco(
    folder: Path, skeleton: Skeleton, xy: np.ndarray, gone: np.ndarray, files: list[str]
) -> dict[str, Any]:
    """One person a picture, ids from 0; returns what ``config.data`` needs."""
    keypoints = [
        [v for p, g in zip(a, b, strict=True) for v in ((0, 0, 0) if g else (*p, 2))]
        for a, b in zip(xy.tolist(), gone, strict=True)
    ]
    record = {
        "images": [
            {"id": i, "file_name": name, "width": SIZE, "height": SIZE}
            for i, name in enumerate(files)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "keypoints": k}
            for i, k in enumerate(keypoints)
        ],
        "categories": [
            {
                "id": 1,
                "name": skeleton.name,
                "keypoints": list(skeleton.joints),
                "skeleton": [[a + 1, b + 1] for a, b in skeleton.edges],
            }
        ],
    }
    path = folder / "coco.json"
    path.write_text(json.dumps(record))
    return {"name": "coco", "annotations": str(path)}


def write_mpii_json(
    folder: Path, xy: np.ndarray, gone: np.ndarray, files: list[str]
) -> dict[str, Any]:
    """What HRNet and mmpose read; pixels count from 1."""
    record = [
        {
            "image": name,
            "joints": np.where(g[:, None], -1.0, p + 0.5).tolist(),
            "joints_vis": (~g).astype(int).tolist(),
            "center": [SIZE / 2 + 0.5, SIZE / 2 + 0.5],
            "scale": SIZE / 200,
        }
        for p, g, name in zip(xy, gone, files, strict=True)
    ]
    path = folder / "mpii.json"
    path.write_text(json.dumps(record))
    return {"name": "mpii", "annotations": str(path)}


def write_mpii_mat(
    folder: Path, xy: np.ndarray, gone: np.ndarray, files: list[str]
) -> dict[str, Any]:
    """The original: RELEASE.annolist(i).annorect.annopoints.point(k)."""
    from scipy.io import savemat

    def structs(rows: list[dict[str, Any]]) -> np.ndarray:
        table = np.empty((1, len(rows)), [(key, object) for key in rows[0]])
        for i, row in enumerate(rows):
            table[0, i] = tuple(row.values())
        return table

    pictures = []
    for p, g, name in zip(xy, gone, files, strict=True):
        marks = [
            {"x": p[j, 0] + 0.5, "y": p[j, 1] + 0.5, "id": j, "is_labelled": 1}
            for j in np.flatnonzero(~g)
        ]
        rect = {
            "annopoints": {"point": structs(marks)},
            "scale": SIZE / 200,
            "objpos": {"x": SIZE / 2 + 0.5, "y": SIZE / 2 + 0.5},
        }
        pictures.append({"image": {"name": name}, "annorect": rect})
    # A picture of the test set: a rectangle without joints.
    pictures.append({"image": {"name": "t.png"}, "annorect": {"scale": 1.0}})
    path = folder / "mpii.mat"
    release = {"annolist": structs(pictures), "img_train": np.ones(len(pictures))}
    savemat(path, {"RELEASE": release})
    return {"name": "mpii", "annotations": str(path)}


def write_dlc(
    folder: Path,
    skeleton: Skeleton,
    xy: np.ndarray,
    gone: np.ndarray,
    files: list[str],
    *,
    cells: int = 1,
) -> dict[str, Any]:
    """A project with one labelled video; ``files`` are in its labeled-data folder."""
    target = folder / Path(files[0]).parent
    rows: list[list[Any]] = []
    for head, values in (
        ("scorer", ["me"] * 2 * skeleton.num_joints),
        ("bodyparts", [j for j in skeleton.joints for _ in "xy"]),
        ("coords", ["x", "y"] * skeleton.num_joints),
    ):
        rows.append([head, *[""] * (cells - 1), *values])
    for p, g, name in zip(xy, gone, files, strict=True):
        flat = np.where(g[:, None], np.nan, p - 0.5).ravel()
        first = name.split("/") if cells == 3 else [name]
        rows.append([*first, *("" if np.isnan(v) else repr(float(v)) for v in flat)])
    path = target / "CollectedData_me.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    bones = "".join(
        f"- - {skeleton.joints[a]}\n  - {skeleton.joints[b]}\n"
        for a, b in skeleton.edges
    )
    (folder / "config.yaml").write_text(f"Task: t\nskeleton:\n{bones}")
    return {"name": "dlc", "annotations": str(path)}


def write_dlc_hdf(data: dict[str, Any]) -> dict[str, Any]:
    """The .h5 that DeepLabCut writes beside its .csv."""
    import pandas as pd

    path = Path(data["annotations"])
    frame = pd.read_csv(path, header=[0, 1, 2], index_col=0)
    frame.columns.names = ["scorer", "bodyparts", "coords"]
    frame = frame.astype(float)
    frame.to_hdf(path.with_suffix(".h5"), key="df_with_missing", mode="w")
    return data | {"annotations": str(path.with_suffix(".h5"))}


def write_sleap(
    folder: Path, skeleton: Skeleton, xy: np.ndarray, gone: np.ndarray, files: list[str]
) -> dict[str, Any]:
    """A project made from an image sequence."""
    import sleap_io as sio

    nodes = [sio.Node(joint) for joint in skeleton.joints]
    edges = [sio.Edge(nodes[a], nodes[b]) for a, b in skeleton.edges]
    drawn = sio.Skeleton(nodes=nodes, edges=edges, name=skeleton.name)
    video = sio.Video(filename=[str(folder / name) for name in files])
    frames = []
    for i, (p, g) in enumerate(zip(xy, gone, strict=True)):
        values = np.where(g[:, None], np.nan, p - 0.5)
        instance = sio.Instance.from_numpy(values, skeleton=drawn)
        frames.append(sio.LabeledFrame(video=video, frame_idx=i, instances=[instance]))
    project = sio.Labels(labeled_frames=frames, videos=[video], skeletons=[drawn])
    path = folder / "labels.slp"
    project.save(str(path))
    return {"name": "sleap", "annotations": str(path)}


def write_yolo(
    folder: Path, skeleton: Skeleton, xy: np.ndarray, gone: np.ndarray, files: list[str]
) -> dict[str, Any]:
    """data.yaml, and a text file for each of the pictures, which lie in images/."""
    write_pictures(folder / "images", files)
    (folder / "labels").mkdir()
    for p, g, name in zip(xy / SIZE, gone, files, strict=True):
        points = np.where(g[:, None], 0, np.insert(p, 2, 2, axis=1))
        row = [0, 0.5, 0.5, 1, 1, *points.ravel().tolist()]
        text = " ".join(f"{v:g}" for v in row) + "\n"
        (folder / "labels" / name).with_suffix(".txt").write_text(text)
    path = folder / "data.yaml"
    joints = json.dumps(skeleton.joints)
    shape = f"kpt_shape: [{skeleton.num_joints}, 3]\nkpt_names: {{0: {joints}}}\n"
    path.write_text(f"path: .\ntrain: images\nnames: {{0: person}}\n{shape}")
    return {"name": "yolo", "annotations": str(path)}


def write_label_studio(
    folder: Path, skeleton: Skeleton, xy: np.ndarray, gone: np.ndarray, files: list[str]
) -> dict[str, Any]:
    """A task for each picture, as exported."""
    size = {"original_width": SIZE, "original_height": SIZE}
    tasks = []
    for i, (p, g, name) in enumerate(zip(100 * xy / SIZE, gone, files, strict=True)):
        marks = []
        for j in np.flatnonzero(~g):
            label = {"keypointlabels": [skeleton.joints[j]], "width": 0.5}
            place = {"x": p[j, 0], "y": p[j, 1]}
            marks.append({"type": "keypointlabels", **size, "value": place | label})
        task = {"id": i, "data": {"image": name}, "annotations": [{"result": marks}]}
        tasks.append(task)
    path = folder / "studio.json"
    path.write_text(json.dumps(tasks))
    return {"name": "label_studio", "annotations": str(path)}


def write_lsp(
    folder: Path, xy: np.ndarray, gone: np.ndarray, *, extended: bool
) -> dict[str, Any]:
    """joints.mat and the pictures it stands for."""
    from scipy.io import savemat

    table = np.concatenate([xy + 0.5, np.ones((*gone.shape, 1))], axis=-1)
    table[gone] = 0 if extended else (-5, -5, 1)
    if not extended:
        table[..., 2] = gone  # hidden
    order = (1, 2, 0) if extended else (2, 1, 0)
    path = folder / "joints.mat"
    savemat(path, {"joints": table.transpose(order)})
    digits = 5 if extended else 4
    write_pictures(
        folder / "images", [f"im{i + 1:0{digits}d}.jpg" for i in range(len(xy))]
    )
    return {"name": "lsp", "annotations": str(path)}


def write_h36m_npz(folder: Path, xy: np.ndarray, files: list[str]) -> dict[str, Any]:
    """What mmpose's preprocessing writes."""
    ones = np.ones((*xy.shape[:2], 1))
    arrays = {
        "imgname": np.array(files),
        "center": np.full((len(xy), 2), SIZE / 2),
        "scale": np.full(len(xy), SIZE / 200),
        "part": np.concatenate([xy, ones], axis=-1),
        "S": np.full((*xy.shape[:2], 4), np.nan),  # 3D: nobody may need it
    }
    path = folder / "h36m_train.npz"
    np.savez(path, allow_pickle=False, **arrays)
    return {"name": "h36m", "annotations": str(path)}


def write_challenge(folder: Path, xy: np.ndarray) -> dict[str, Any]:
    """The ECCV 2018 folder with the 2D landmarks of Sun et al. beside it."""
    for split in ("Train", "Val"):
        files = [f"{i + 1:05d}.jpg" for i in range(len(xy))]
        write_pictures(folder / split / "IMG", files)
        arrays = {
            "imgname": [f"/elsewhere/{split}/IMG/{name}" for name in files],
            "part": np.insert(xy, 2, 1, axis=2),
        }
        cache = folder / f"HM36_eccv_challenge_{split}_cache"
        cache.mkdir()
        name = f"HM36_eccv_challenge_{split}_w288xh384_keypoint_jnt_bbox_db.npz"
        np.savez(cache / name, allow_pickle=False, **arrays)
    return {"name": "h36m", "annotations": str(folder)}


def write_extra_sources(folder: Path) -> dict[str, Any]:
    """MPII labels, which lack the spine, and COCO ones, complete up to the fifth."""
    sources = {}
    for name, skeleton in (("mpii", MPII_16), ("more", H36M_17)):
        place, files = folder / name, names()
        write_pictures(place, files)
        xy = points(skeleton)
        gone = np.zeros(xy.shape[:2], bool)
        if name == "mpii":
            sources[name] = write_mpii_json(place, xy, gone, files) | {"weight": 2.0}
        else:
            gone[5:, 3] = True
            sources[name] = write_coco(place, skeleton, xy, gone, files)
    return sources
