"""The same few tracks as every tracker would write them."""

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

JOINTS = ("nose", "left_ear", "right_ear", "tail")
FRAMES = 6
SIZE = (200, 100)


def two_animals() -> tuple[np.ndarray, np.ndarray]:
    """(2, F, P, 2) pixels and (2, F, P) scores; a joint of the second is not found."""
    rng = np.random.default_rng(3)
    shape = rng.uniform(-20, 20, (1, 1, len(JOINTS), 2))
    path = np.array([[50.0, 50.0], [150.0, 60.0]])[:, None] + np.arange(FRAMES)[:, None]
    xy = (shape + path[:, :, None] + rng.normal(0, 1, (2, FRAMES, 1, 1))).round(2)
    score = rng.uniform(0.6, 1, xy.shape[:3]).round(3)
    xy[1, 2, 3], score[1, 2, 3] = np.nan, 0
    return xy, score


def _table(names: list[str]) -> pd.DataFrame:
    xy, score = two_animals()
    parts, columns = [], []
    for i, name in enumerate(names):
        for j, joint in enumerate(JOINTS):
            parts += [*(xy[i, :, j] - 0.5).T, score[i, :, j]]
            who = (name,) if name else ()
            columns += [("net", *who, joint, c) for c in ("x", "y", "likelihood")]
    levels = ["scorer", *(["individuals"] if names[0] else []), "bodyparts", "coords"]
    columns = pd.MultiIndex.from_tuples(columns, names=levels)
    return pd.DataFrame(np.stack(parts, 1), columns=columns)


def dlc_csv(folder: Path) -> Path:
    path = folder / "clipDLC_net.csv"
    _table(["mus", "rat"]).to_csv(path)
    return path


def lightning_pose(folder: Path) -> Path:
    """With variances of an ensemble, and a column that is no number."""
    path, table = folder / "eks.csv", _table(["mus", "rat"])
    for i, name in enumerate(("mus", "rat")):
        table.insert(4 + i, ("net", name, "nose", "x_ens_var"), 0.5)
    table[("set", "", "", "")] = "train"
    table.to_csv(path)
    return path


def dlc_fixed(folder: Path) -> Path:
    path = folder / "fixed.h5"
    _table(["mus", "rat"]).to_hdf(path, key="df_with_missing", mode="w")
    return path


def dlc_table(folder: Path) -> Path:
    """As DeepLabCut writes what it predicts."""
    path = folder / "table.h5"
    _table(["mus", "rat"]).to_hdf(path, key="tracks", format="table", mode="w")
    return path


def dlc_single(folder: Path) -> Path:
    path = folder / "single.csv"
    _table([""]).to_csv(path)
    return path


def sleap_analysis(folder: Path) -> Path:
    xy, score = two_animals()
    path = folder / "clip.analysis.h5"
    with h5py.File(path, "w") as file:
        tracks = (xy - 0.5).transpose(0, 3, 2, 1)
        file.create_dataset("tracks", data=tracks, compression="gzip")
        file["point_scores"] = score.transpose(0, 2, 1)
        file["node_names"] = np.array([j.encode() for j in JOINTS])
        file["track_names"] = np.array([b"mus", b"rat"])
        file["edge_inds"] = np.array([[0, 1], [0, 2], [0, 3]])
    return path


def sleap_slp(folder: Path) -> Path:
    import sleap_io as sio

    xy, score = two_animals()
    nodes = [sio.Node(joint) for joint in JOINTS]
    edges = [sio.Edge(nodes[0], node) for node in nodes[1:]]
    skeleton = sio.Skeleton(nodes=nodes, edges=edges)
    tracks = [sio.Track("mus"), sio.Track("rat")]
    video = sio.Video(filename="clip.mp4", open_backend=False)
    frames = [
        sio.LabeledFrame(
            video=video,
            frame_idx=f,
            instances=[
                sio.PredictedInstance.from_numpy(
                    xy[i, f] - 0.5,
                    skeleton=skeleton,
                    point_scores=score[i, f],
                    track=tracks[i],
                )
                for i in range(2)
            ],
        )
        for f in range(FRAMES)
    ]
    path = folder / "clip.slp"
    labels = sio.Labels(labeled_frames=frames, videos=[video], skeletons=[skeleton])
    labels.save(str(path), verbose=False)
    return path


def sleap_with_preview(folder: Path) -> Path:
    """As SLEAP writes a skeleton with a picture, and a node that is not visible."""
    path = sleap_slp(folder)
    with h5py.File(path, "r+") as file:
        attributes = file["metadata"].attrs
        record = json.loads(attributes["json"])
        record["skeletons"] = [{"nx_graph": record["skeletons"][0], "description": ""}]
        attributes["json"] = json.dumps(record)
        points = file["pred_points"][:]
        hidden = np.isnan(points["x"])
        points["x"][hidden], points["y"][hidden], points["visible"][hidden] = 9, 9, 0
        file["pred_points"][:] = points
    return path


def _flat(xy: np.ndarray, score: np.ndarray) -> list[float]:
    return np.nan_to_num(np.concatenate([xy, score[:, None]], 1)).ravel().tolist()


def coco_results(folder: Path) -> Path:
    xy, score = two_animals()
    record = [
        {
            "image_id": f,
            "category_id": 1,
            "score": 1.0,
            "track_id": i,
            "keypoints": _flat(xy[i, f], score[i, f]),
        }
        for f in range(FRAMES)
        for i in range(2)
    ]
    path = folder / "results.json"
    path.write_text(json.dumps(record))
    return path


def mmpose(folder: Path) -> Path:
    xy, score = two_animals()
    names = {str(i): name for i, name in enumerate(JOINTS)}
    frames = [
        {
            "frame_id": f + 1,  # as its scripts count
            "instances": [
                {
                    "keypoints": np.nan_to_num(xy[i, f]).tolist(),
                    "keypoint_scores": score[i, f].tolist(),
                }
                for i in ((0, 1) if f % 2 else (1, 0))  # in no order
            ],
        }
        for f in range(FRAMES)
    ]
    meta = {"keypoint_id2name": names, "skeleton_links": [[0, 1], [0, 2], [0, 3]]}
    path = folder / "results_clip.json"
    path.write_text(json.dumps({"meta_info": meta, "instance_info": frames}))
    return path


def openpose(folder: Path) -> Path:
    xy, score = two_animals()
    target = folder / "openpose"
    target.mkdir()
    for f in range(FRAMES):
        people = [
            {"person_id": [-1], "pose_keypoints_2d": _flat(xy[i, f], score[i, f])}
            for i in ((0, 1) if f % 2 else (1, 0))
        ]
        path = target / f"clip_{f:012d}_keypoints.json"
        path.write_text(json.dumps({"version": 1.3, "people": people}))
    return target


def movenet(folder: Path) -> Path:
    """As MoveNet's and MediaPipe's users write them: the bodies of each frame."""
    xy, score = two_animals()
    xy = np.nan_to_num(xy)
    frames = [[{"keypoints": []} for _ in range(2)] for _ in range(FRAMES)]
    for i, f, j in np.ndindex(score.shape):
        x, y = xy[i, f, j].tolist()
        mark = {"x": x, "y": y, "score": score[i, f, j], "name": JOINTS[j].upper()}
        frames[f][i]["keypoints"].append(mark)
    path = folder / "poses.json"
    path.write_text(json.dumps(frames))
    return path


def mediapipe_json(folder: Path) -> Path:
    """x, y, z, visibility in parts of the picture; a frame without a body."""
    xy, score = two_animals()
    parts, z = np.nan_to_num(xy / SIZE), np.ones((FRAMES, len(JOINTS)))
    marks = [np.dstack([parts[i], z, score[i]]).tolist() for i in range(2)]
    frames = [
        {"frame": f, "pose_landmarks": marks[i][f]}
        for f in range(FRAMES)
        for i in range(2)
    ]
    path = folder / "marks.json"
    empty = {"frame": FRAMES, "pose_landmarks": []}
    path.write_text(json.dumps({"frames": [*frames, empty]}))
    return path


def ultralytics(folder: Path) -> Path:
    xy, score = two_animals()
    frames = []
    for f in range(FRAMES):
        x, y = np.nan_to_num(xy[:, f]).transpose(2, 0, 1).tolist()
        bodies = []
        for i in range(2):
            marks = {"x": x[i], "y": y[i], "visible": score[i, f].tolist()}
            bodies.append({"keypoints": marks, "track_id": i + 7})
        frames.append(bodies)
    path = folder / "yolo.json"
    path.write_text(json.dumps(frames))
    return path


def yolo_labels(folder: Path) -> Path:
    """``save_txt`` and ``save_conf`` of tracks; frames count from 1."""
    xy, score = two_animals()
    target = folder / "labels"
    target.mkdir()
    for f in range(FRAMES):
        lines = []
        for i in range(2):
            points = np.nan_to_num(np.column_stack([xy[i, f] / SIZE, score[i, f]]))
            numbers = [0, 0.5, 0.5, 0.1, 0.1, *points.ravel(), 0.9, i + 1]
            lines.append(" ".join(f"{n:.9g}" for n in numbers))
        (target / f"clip_{f + 1}.txt").write_text("\n".join(lines) + "\n")
    return target


def long_csv(folder: Path) -> Path:
    xy, score = two_animals()
    rows = [["frame", "individual", "joint", "x", "y", "score"]]
    for i, f, j in np.ndindex(2, FRAMES, len(JOINTS)):
        place = ["" if np.isnan(v) else v for v in xy[i, f, j]]
        rows.append([f, ("mus", "rat")[i], JOINTS[j], *place, score[i, f, j]])
    return _write(folder / "long.csv", rows)


def wide_csv(folder: Path) -> Path:
    xy, score = two_animals()
    parts = [f"{joint}_{axis}" for joint in JOINTS for axis in ("x", "y", "score")]
    rows = [["frame", "individual", *parts, "remark"]]
    for i, f in np.ndindex(2, FRAMES):
        values = np.concatenate([xy[i, f], score[i, f, :, None]], 1).ravel()
        cells = ["" if np.isnan(v) else v for v in values]
        rows.append([f, ("mus", "rat")[i], *cells, "fine"])
    return _write(folder / "wide.csv", rows)


def npz(folder: Path) -> Path:
    xy, score = two_animals()
    path = folder / "tracks.npz"
    np.savez(
        path,
        xy=xy.reshape(-1, *xy.shape[2:]),
        score=score.reshape(-1, len(JOINTS)),
        frame=np.tile(np.arange(FRAMES), 2),
        individual=np.repeat(["mus", "rat"], FRAMES),
        joints=np.array(JOINTS),
        size=np.array(SIZE),
    )
    return path


def mediapipe(folder: Path) -> Path:
    """One person of 33 numbered landmarks, in parts of the picture."""
    rng = np.random.default_rng(0)
    head = [f"{a}{j}" for j in range(33) for a in "xyzv"]
    rows = [head, *rng.uniform(0.2, 0.8, (4, len(head))).round(4).tolist()]
    return _write(folder / "mediapipe.csv", rows)


def _write(path: Path, rows: list) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


NAMED = (dlc_csv, lightning_pose, dlc_fixed, dlc_table, sleap_analysis, sleap_slp)
NAMED += (sleap_with_preview, long_csv, wide_csv, npz)
# Who is who, or which joint, is not said.
UNNAMED = (coco_results, mmpose, openpose, movenet, mediapipe_json, ultralytics)
UNNAMED += (yolo_labels,)
