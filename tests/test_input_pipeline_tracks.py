"""Tracks of every tracker, who is who in them, and the samples they give."""

import dataclasses
import json
import pickle

import h5py
import numpy as np
import pytest
import tiny_tracks
from tiny_tracks import FRAMES, JOINTS, SIZE, two_animals

from configs import tracks as tracks_config
from input_pipeline.checks.tracked import survey_tracks
from input_pipeline.checks.validate import validate
from input_pipeline.dataset import open_dataset
from input_pipeline.formats.tracks.linking import linked, segments, strays
from input_pipeline.formats.tracks.read import find_files, read_tracks
from input_pipeline.formats.tracks.skeletons import BY_COUNT, named
from input_pipeline.skeleton import Skeleton
from input_pipeline.sources.tracks import nearest_joints
from stages import check as check_stage

PLAIN = Skeleton.from_names({"name": "mus", "joints": list(JOINTS)})


def read(path, **options):
    return read_tracks(str(path), field="lift.tracks", **options)


def check(tracks, *, centred=0.0):
    """The two animals, in any order of the individuals."""
    xy, score = two_animals()
    assert tracks.skeleton.joints == JOINTS
    assert len(tracks) == 2 * FRAMES
    np.testing.assert_array_equal(tracks.frame, np.tile(np.arange(FRAMES), 2))
    order = [0, 1] if np.nanmean(tracks.xy[0, :, 0]) < 100 else [1, 0]
    found = tracks.xy.reshape(2, FRAMES, len(JOINTS), 2)[order]
    np.testing.assert_allclose(found, xy, atol=1e-4)
    np.testing.assert_allclose(tracks.score.reshape(score.shape)[order], score, 1e-6)


@pytest.mark.parametrize("write", tiny_tracks.NAMED, ids=lambda w: w.__name__)
def test_every_format_gives_the_same_tracks(tmp_path, write):
    tracks = read(write(tmp_path))
    check(tracks)
    assert tracks.individuals == ("mus", "rat")
    bones = "sleap" in write.__name__
    assert tracks.skeleton.edges == (((0, 1), (0, 2), (0, 3)) if bones else ())
    assert tracks.sizes == ((SIZE if write is tiny_tracks.npz else None),)


@pytest.mark.parametrize("write", tiny_tracks.UNNAMED, ids=lambda w: w.__name__)
def test_bodies_without_a_name_are_followed(tmp_path, write):
    tracks = read(write(tmp_path), skeleton=PLAIN, picture_size=SIZE)
    check(tracks)
    assert len(tracks.individuals) == 2


def test_one_animal_has_no_name(tmp_path):
    tracks = read(tiny_tracks.dlc_single(tmp_path))
    assert tracks.individuals == ("",)
    np.testing.assert_allclose(tracks.xy, two_animals()[0][0], atol=1e-4)
    assert tracks.name(2) == "single.csv frame 2"


def test_mediapipe_needs_the_size_of_the_picture(tmp_path):
    path = tiny_tracks.mediapipe(tmp_path)
    with pytest.raises(ValueError, match=r"mediapipe\.csv: .*data\.picture_size"):
        read(path)
    tracks = read(path, picture_size=(640, 480))
    assert tracks.skeleton.joints[11:13] == ("left_shoulder", "right_shoulder")
    first = [float(v) for v in path.read_text().splitlines()[1].split(",")[:4]]
    np.testing.assert_allclose(tracks.xy[0, 0], [first[0] * 640, first[1] * 480], 1e-5)
    np.testing.assert_allclose(tracks.score[0, 0], first[3], 1e-5)


def test_a_folder_gives_one_file_a_video(tmp_path):
    tiny_tracks.dlc_table(tmp_path)
    text = tiny_tracks.dlc_csv(tmp_path).read_text()
    for name in ("table.csv", "clipDLC_net_filtered.csv"):
        (tmp_path / name).write_text(text)
    (tmp_path / "notes.txt").write_text("nothing")
    found = [path.name for path in find_files(str(tmp_path), "lift.tracks")]
    assert found == ["clipDLC_net_filtered.csv", "table.h5"]
    tracks = read(tmp_path)
    assert tracks.files == tuple(found)
    assert len(tracks) == 4 * FRAMES
    pattern = [p.name for p in find_files(f"{tmp_path}/*.csv", "lift.tracks")]
    assert pattern == ["clipDLC_net.csv", "clipDLC_net_filtered.csv", "table.csv"]


def test_joints_are_matched_by_name(tmp_path):
    path = tiny_tracks.wide_csv(tmp_path)
    wanted = Skeleton.from_names({"joints": ["Tail", "LEar", "Nose", "Paw"]})
    tracks = read(path, skeleton=wanted)
    xy = two_animals()[0][0]
    np.testing.assert_allclose(tracks.xy[:FRAMES, :3], xy[:, [3, 1, 0]], atol=1e-4)
    assert np.isnan(tracks.xy[:, 3]).all()
    assert not tracks.score[:, 3].any()
    other = Skeleton.from_names({"joints": ["wing", "beak"]})
    with pytest.raises(ValueError, match=r"wide\.csv: .*no name in common"):
        read(path, skeleton=other)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.csv", "", "the file is empty; export it again"),
        ("a.h5", "", "the file is empty; export it again"),
        ("a.csv", "\n", "no joint has columns"),
        ("a.csv", "frame,nose_x,nose_y\n", "no joint was detected in any of its 0"),
        ("a.csv", "frame,nose_x,nose_y\n0,,\n1,nan,nan\n", "any of its 2 rows"),
        ("a.csv", "frame,nose_x,nose_y\n0,inf,1\n", "any of its 1 rows"),
        ("a.csv", "frame,nose_x,nose_y\n0,1\n", "row 1 has 2 cells, the header 3"),
        ("a.csv", "frame,nose_x,nose_y\n0,one,2\n", "row 1: 'one' is no number"),
        ("a.csv", "frame,nose_x,nose_y\n0,9,9\n0,9,8\n", "frame 0 has '' twice"),
        ("a.csv", "frame,nose_x,nose_y\n-1,9,9\n", "no whole number from 0 on"),
        ("a.csv", "frame,joint,x,y\n0,nose,9,9\n0,nose,9,9\n", "row 2: 'nose' of"),
        ("a.json", "[", "no JSON"),
        ("a.json", "[]", "nobody was detected"),
        ("a.json", '[{"image_id": 1}]', r"a program that is known \(no 'keypoints'\)"),
        ("a.json", '[{"keypoints": [[1, 2, 3]]}]', "3 numbers a joint, not x and y"),
        ("a.npy", "\x93NUMPY\0", r"neither text nor one of .*np\.savez"),
        ("a.json", '{"a": 1}', r"that is known \(no 'instance_info'\); give COCO"),
        ("clip.mp4", "a video", "a video has no tracks; give the file that a tracker"),
        ("a.h5", "no HDF5 at all", "no joint has columns"),
        ("a.npz", "PK\x03\x04", "not a readable .npz"),
        ("a.csv", "scorer,a,a\nbodyparts,b,b\ncoords,x,z\n0,1,2\n", "columns differ"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, name, content, match):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=match) as error:
        read(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"clip_1": "0 .5 .5 .1 .1"}, r"clip_1\.txt: .*5 numbers in a line, no keypoi"),
        ({"clip_1": "nobody"}, r"clip_1\.txt: .*save_txt \(could not convert"),
        ({"notes": "0 .5"}, r"notes\.txt: .*does not end in the number of a frame"),
        ({f"clip_{10**30}": "0 .5 .5 .1 .1 1 1 1"}, "is no number from 0 on"),
        ({"clip_1": ""}, "0 bodies of 1 videos"),
        ({"a_1": "0 1 1 1 1 2 2 1", "b_1": ""}, r"1 bodies of 2 videos \(a, b\)"),
    ],
)
def test_text_files_that_are_no_predictions(tmp_path, files, match):
    for name, text in files.items():
        (tmp_path / f"{name}.txt").write_text(text)
    with pytest.raises(ValueError, match=match):
        read(tmp_path)


def test_tables_as_people_write_them(tmp_path):
    """Capitals, commas for points, empty cells of R, and MediaPipe's metres beside."""
    head = "FRAME;NOSE_X;NOSE_Y;NOSE_V;EAR_X;EAR_Y;EAR_V;nose_world_x;nose_world_y"
    (tmp_path / "a.csv").write_text(f"{head}\n3;10,5;20;0,9;NA;NA;0,1;0;0\n")
    tracks = read(tmp_path / "a.csv")
    assert tracks.skeleton.joints == ("NOSE", "EAR")
    np.testing.assert_allclose(tracks.xy, [[[10.5, 20], [np.nan, np.nan]]])
    np.testing.assert_allclose(tracks.score, [[0.9, 0]], 1e-6)
    assert tracks.frame.tolist() == [3]


@pytest.mark.parametrize("known", BY_COUNT.values(), ids=lambda known: known.name)
def test_joints_named_as_those_of_a_known_skeleton_have_its_bones(known):
    """In any order and spelling, and their root."""
    order = np.random.default_rng(0).permutation(known.num_joints)
    joints = [known.joints[i] for i in order]
    found = named([joint.upper() if "_" in joint else joint for joint in joints])
    there = [{known.joints[a], known.joints[b]} for a, b in known.edges]
    here = [{known.joints[order[a]], known.joints[order[b]]} for a, b in found.edges]
    assert here == there
    assert order[found.root] == known.root
    if known.name == "halpe_26":  # what detectors call the joint of a number
        assert named(list("abcdefghijklmnopqrstuvwxyz")).edges == ()
        assert named([str(i) for i in range(26)]) is known


def test_missing_files_and_unknown_layouts(tmp_path):
    for text in ("none.h5", "*.h5", str(tmp_path)):
        with pytest.raises(ValueError, match=r"no tracks there; set --config\.lift"):
            read(text)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["tracks"] = np.zeros((1, 2, 3, 4))
        file["node_names"] = np.array([b"a", b"b"])
    with pytest.raises(ValueError, match=r"tracks is \(1, 2, 3, 4\), not"):
        read(tmp_path / "a.h5")


def test_a_pickle_in_a_table_is_not_run(tmp_path):
    path = tiny_tracks.dlc_table(tmp_path)
    evil = pickle.dumps(print, protocol=0)
    with h5py.File(path, "a") as file:
        file["tracks/table"].attrs["values_block_0_kind"] = np.bytes_(evil)
    with pytest.raises(ValueError, match="no plain text"):
        read(path)


# --- who is who -----------------------------------------------------------------------


def many(*, frames=200, noise=0.0):
    """Two animals of four joints that walk side by side, (2, F, 4, 2)."""
    rng = np.random.default_rng(0)
    shape = rng.uniform(-10, 10, (2, 1, 4, 2))
    path = np.cumsum(rng.normal(0, 0.5, (2, frames, 2)), 1)
    xy = shape + path[:, :, None] + np.array([[100.0, 100], [140, 100]])[:, None, None]
    return (xy + noise * rng.normal(size=xy.shape)).astype(np.float32)


def as_tracks(tmp_path, xy, **arrays):
    count, frames = xy.shape[:2]
    np.savez(
        tmp_path / "t.npz",
        xy=xy.reshape(-1, *xy.shape[2:]),
        frame=np.tile(np.arange(frames), count),
        individual=np.repeat(np.arange(count), frames),
        joints=np.array(JOINTS),
        **arrays,
    )
    return read(tmp_path / "t.npz")


def test_bodies_that_cross_in_no_order_keep_their_numbers():
    xy = many()
    xy[0] += np.linspace(0, 80, 200)[:, None, None] * np.array([1, 0])  # overtakes
    order = np.random.default_rng(1).permuted(np.tile([[0], [1]], 200), axis=0)
    mixed = np.take_along_axis(xy, order[..., None, None], 0)
    frame = np.tile(np.arange(200), 2)
    who = linked(frame, mixed.reshape(-1, 4, 2), np.ones((400, 4))).reshape(2, 200)
    first = who == who[order == 0][0]
    np.testing.assert_array_equal(first, order == 0)


def test_pieces_end_at_gaps_jumps_and_exchanges(tmp_path):
    xy = many()
    whole, broken = segments(as_tracks(tmp_path, xy))
    assert (whole == np.repeat([0, 1], 200)).all()
    assert not broken
    swapped = xy.copy()
    swapped[:, 120:] = xy[::-1, 120:]
    pieces, broken = segments(as_tracks(tmp_path, swapped))
    assert broken == [120, 320]
    assert (np.diff(pieces)[[119, 199, 319]] == 1).all()
    assert pieces[-1] == 3
    gone = xy.copy()
    gone[0, 50:90] = np.nan
    assert segments(as_tracks(tmp_path, gone))[0].max() == 2
    short = xy.copy()
    short[0, 50:60] = np.nan
    short[1, 70, 2] += 500  # one joint of a detector jumps, not the animal
    assert segments(as_tracks(tmp_path, short))[0].max() == 1


def test_joints_that_stray_for_a_moment_are_found(tmp_path):
    rng = np.random.default_rng(2)
    xy = many(noise=0.5)
    gone = rng.random(xy.shape[:3]) < 0.03
    angle = rng.uniform(0, 2 * np.pi, gone.sum())
    xy[gone] += 60 * np.stack([np.cos(angle), np.sin(angle)], -1)
    tracks = as_tracks(tmp_path, xy)
    found = strays(tracks, 0.6)
    gone = gone.reshape(-1, 4)
    assert found[gone].mean() > 0.85  # but where several stray at once
    assert found[~gone].mean() < 0.01
    less = tracks.without(found)
    assert less.strays == found.sum()
    assert np.isnan(less.xy[found]).all()
    assert not less.score[found].any()
    # Where neighbours are not believed, or far in time, there is nothing to judge by.
    unsure = np.full_like(tracks.score, 0.3)
    assert not strays(dataclasses.replace(tracks, score=unsure), 0.6).any()
    seldom = dataclasses.replace(tracks, frame=10 * tracks.frame)
    assert not strays(seldom, 0.6).any()
    at_hand = {"name": "tracks", "annotations": str(tmp_path / "t.npz"), "num_train": 0}
    marks = open_dataset(at_hand).landmarks("train")
    assert not (marks.labelled & found[marks.sample_ids]).any()
    assert marks.labelled.mean() > 0.95


def test_neither_a_body_that_jumps_nor_a_joint_that_is_always_fast_strays(tmp_path):
    xy = many()
    xy[0, 100:] += 300
    xy[:, :, 2, 0] += 40 * np.sin(2.0 * np.arange(200))
    assert not strays(as_tracks(tmp_path, xy), 0.6).any()


def test_strays_are_judged_within_one_animal_of_one_file(tmp_path):
    """Of two that are far apart, and of two videos, neither is the other's past."""
    xy = many(frames=2)
    xy[1] += 500
    tracks = as_tracks(tmp_path, xy)
    assert not strays(tracks, 0.6).any()
    long = as_tracks(tmp_path, many(frames=12))
    halves = dataclasses.replace(
        long,
        file=(long.frame >= 6).astype(np.int32),
        files=("a", "b"),
        xy=long.xy + 500 * (long.frame >= 6)[:, None, None],
    )
    assert not strays(halves, 0.6).any()
    # A single one is found at the ends of a track, too.
    for row in (0, 11, 12, 23):
        moved = long.xy.copy()
        moved[row, 1] += 300
        found = strays(dataclasses.replace(long, xy=moved), 0.6)
        assert np.argwhere(found).tolist() == [[row, 1]]


def test_joints_that_are_taken_away_stay_so_in_another_order(tmp_path):
    tracks = as_tracks(tmp_path, many(frames=5))
    first = np.zeros((10, 4), bool)
    first[3, 2] = True
    less = tracks.without(first)
    names = less.skeleton.joints
    turned = Skeleton("turned", names[::-1], ())
    again = less.brought_to(turned, {})
    assert np.argwhere(again.score == 0).tolist() == [[3, 1]]
    assert again.strays == 1
    np.testing.assert_array_equal(tracks.xy, as_tracks(tmp_path, many(frames=5)).xy)


# --- samples --------------------------------------------------------------------------


def settings(tmp_path, xy, **fields):
    as_tracks(tmp_path, xy)
    return {"name": "tracks", "annotations": str(tmp_path / "t.npz"), **fields}


def test_validation_has_blocks_of_time_of_its_own(tmp_path):
    data = open_dataset(settings(tmp_path, many(frames=400, noise=2.0)))
    train, val = (data.landmarks(split) for split in ("train", "val"))
    frames = [np.unique(marks.sample_ids % 400) for marks in (train, val)]
    assert not np.intersect1d(*frames).size  # of both animals at once
    assert len(val) + len(train) <= 800
    assert 60 < len(val) < 100
    assert (np.diff(frames[1]) > 1).sum() <= 2  # whole blocks, but for thinned frames
    assert data.skeleton.edges
    assert data.truth("val") is None
    assert data.identity == open_dataset(data.settings).identity
    assert train.name(0).startswith("t.npz frame")


def test_frames_that_hardly_differ_are_left_out_and_numbers_are_bounded(tmp_path):
    still = np.repeat(many(frames=1), 400, axis=1)
    still += np.linspace(0, 50, 400)[:, None, None]  # moves, but stays as it is
    data = open_dataset(settings(tmp_path, still))
    assert len(data.landmarks("train")) == 2
    busy = many(frames=400, noise=2.0)
    few = open_dataset(settings(tmp_path, busy, num_train=50, num_val=7))
    assert [len(few.landmarks(split)) for split in ("train", "val")] == [50, 7]
    everything = open_dataset(settings(tmp_path, busy, num_train=0))
    assert len(everything.landmarks("train")) > 600


def test_scores_and_joints_decide_what_trains(tmp_path):
    xy = many(noise=2.0)
    score = np.ones((400, 4))
    score[:100, :3] = 0.2
    as_tracks(tmp_path, xy, score=score)
    fields = {"name": "tracks", "annotations": str(tmp_path / "t.npz"), "num_train": 0}
    train = open_dataset(fields).landmarks("train")
    assert (train.sample_ids >= 100).all()
    low = open_dataset(fields | {"min_score": 0.1}).landmarks("train")
    assert (low.sample_ids < 100).any()
    with pytest.raises(ValueError, match=r"at most 4 of 4 joints .* and 5 with"):
        open_dataset(fields | {"min_joints": 5}).landmarks("train")
    with pytest.raises(ValueError, match=r"min_score = 2.0 must be within"):
        open_dataset(fields | {"min_score": 2.0})


def test_one_frame_and_one_joint_are_too_little_to_learn_from(tmp_path):
    data = open_dataset(settings(tmp_path, many(frames=1)[:1]))
    with pytest.raises(ValueError, match="no validation samples"):
        data.landmarks("val")
    kinds = [problem.kind for problem in validate(data).problems if problem.fatal]
    assert kinds == ["no validation samples"]  # told once
    path = tmp_path / "one.csv"
    path.write_text("frame,nose_x,nose_y\n0,9,9\n1,9,8\n")
    data = open_dataset({"name": "tracks", "annotations": str(path)})
    with pytest.raises(ValueError, match=r"one\.csv: has 1 joints \(nose\), too few"):
        data.landmarks("train")
    (said,) = validate(data).problems  # once, though it is so of both splits
    assert "too few for a shape" in said.value


def test_bones_are_the_nearest_joints():
    rng = np.random.default_rng(0)
    chain = np.arange(5)[:, None] * np.array([1.0, 0.2]) + rng.normal(
        0, 0.1, (50, 5, 2)
    )
    chain[::7, 2] = np.nan
    assert nearest_joints(chain) == ((0, 1), (1, 2), (2, 3), (3, 4))


def test_both_sides_get_the_same_bones_and_joints_that_meet_get_none():
    """Hands and feet that are together most of the time."""
    names = ["neck", "hip", "l_hand", "r_hand", "l_foot", "r_foot"]
    pairs = Skeleton.from_names({"name": "walker", "joints": names}).left_right
    swing = np.sin(np.arange(300) / 9) ** 5
    xy = np.zeros((300, 6, 2))
    xy[:, :, 1] = 0, 6, -4, -4, 12, 12
    xy[:, 2:, 0] = 5 * swing[:, None] * [1, -1, -1, 1]
    xy[::5, 2:4] = np.nan
    assert nearest_joints(xy, pairs) == ((0, 1), (0, 2), (0, 3), (1, 4), (1, 5))
    # Without a joint in the middle, one bone holds the sides together.
    assert nearest_joints(xy[1::5, 2:4], ((0, 1),)) == ((0, 1),)


def test_pictures_follow_each_other_by_the_numbers_in_their_names(tmp_path):
    xy = many(frames=24)[0].round(2)
    names = [f"{i}.jpg" for i in range(12)] + [f"b/{40 * i}.jpg" for i in range(12)]
    record = [
        {"image_id": name, "keypoints": np.insert(body, 2, 1, axis=1).ravel().tolist()}
        for name, body in zip(names, xy, strict=True)
    ]
    (tmp_path / "a.json").write_text(json.dumps(record[::-1]))
    tracks = read(tmp_path / "a.json")
    assert list(tracks.pictures) == names  # 9.jpg before 10.jpg
    np.testing.assert_allclose(tracks.xy, xy, atol=1e-3)
    pieces, broken = segments(tracks)
    assert pieces.tolist() == [0] * 12 + [*range(1, 13)]
    assert broken == []


@pytest.mark.parametrize("first", [0, 1])
def test_joints_that_are_numbers_are_those_of_a_known_skeleton(tmp_path, first):
    head = [f"{axis}{j}" for j in range(first, first + 25) for axis in "xyc"]
    rows = [",".join(head), ",".join(str(9 + i) for i in range(75))]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    tracks = read(tmp_path / "a.csv")
    assert tracks.skeleton.joints[1] == "Neck"  # OpenPose's
    said = "\n".join(survey_tracks(tracks, 0.6).lines())
    assert "joints: those of openpose_25; where the file only numbers them" in said
    given = Skeleton.from_names(
        {"name": "fly", "joints": [f"leg {i}" for i in range(25)]}
    )
    tracks = read(tmp_path / "a.csv", skeleton=given)
    assert tracks.skeleton == given
    assert "joints: those" not in "\n".join(survey_tracks(tracks, 0.6).lines())


def test_bones_of_a_category_may_be_counted_from_0_or_not_be_named(tmp_path):
    body = [9.0, 9, 2, 20, 20, 2, 30, 9, 2]
    record = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 1, "keypoints": body}],
        "categories": [{"keypoints": ["a", "b", "c"], "skeleton": [[0, 1], [1, 2]]}],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(record))
    assert read(path).skeleton.edges == ((0, 1), (1, 2))
    path.write_text(json.dumps(record | {"categories": [{"name": "fly"}]}))
    assert read(path).skeleton.joints == ("0", "1", "2")


def test_tracks_of_pictures_and_videos_do_not_mix(tmp_path):
    record = [
        {"image_id": f"{i}.png", "keypoints": [9.0, 9, 1, 20, 20, 1]} for i in range(3)
    ]
    (tmp_path / "a.json").write_text(json.dumps(record))
    tracks = read(tmp_path / "a.json")
    assert tracks.pictures == ("0.png", "1.png", "2.png")
    assert tracks.name(1) == "a.json 1.png"
    assert tracks.take(np.array([2])).pictures == ("2.png",)
    (tmp_path / "b.csv").write_text("0_x,0_y,1_x,1_y\n9,9,20,20\n")
    with pytest.raises(ValueError, match=r"b\.csv is about a video and a\.json is not"):
        read(f"{tmp_path}/a.json,{tmp_path}/b.csv")
    assert dataclasses.replace(tracks, pictures=()).name(1) == "a.json frame 1"


def test_rate_and_size_are_those_of_the_file_or_of_the_video_beside_it(tmp_path):
    av = pytest.importorskip("av")
    file = tiny_tracks.dlc_csv(tmp_path)
    assert read(file).rates == (0.0,)
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height = 64, 32
        black = np.zeros((32, 64, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(black, format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    told = tmp_path / "t.npz"
    np.savez(told, xy=many(frames=2)[0], joints=list(JOINTS), fps=25.0)
    found = read(f"{file},{told}")
    assert found.rates == (12.0, 25.0)
    assert found.sizes == ((64, 32), None)
    parts = tiny_tracks.mediapipe(tmp_path).rename(tmp_path / "clip_pose.csv")
    first = [float(v) for v in parts.read_text().splitlines()[1].split(",")[:2]]
    np.testing.assert_allclose(read(parts).xy[0, 0], np.multiply(first, (64, 32)), 1e-5)


def test_the_check_says_who_how_long_and_how_sure(tmp_path, capsys):
    xy, score = many(frames=50, noise=2.0)[0], np.full((50, 4), 0.9)
    score[:10, 3] = 0.3
    path = tmp_path / "clip.npz"
    names = ["left_ear", "right_ear", "nose", "tail"]
    np.savez(path, xy=xy, score=score, joints=names, fps=25.0, size=SIZE)
    config = tracks_config.get_config()
    config.data.annotations = str(path)
    assert check_stage.run(config, tmp_path / "run")
    said = capsys.readouterr().out
    assert "config.teacher.batch_size" in said
    assert "config.student" not in said  # there are none
    for text in (
        "tracks: 50 detections in 50 frames of clip.npz (50)",
        "5% of the joints missing or below the score 0.6",
        "pictures 200 x 100; frames a second 25",
        "left / right: left_ear / right_ear",
        "root: left_ear; 3 bones: ",
    ):
        assert text in said
    (row,) = (line for line in said.splitlines() if " tail " in line)
    assert "0.90" in row
    record = json.loads((tmp_path / "run" / "check" / "check.json").read_text())
    assert record["tracks"]["missing"]["tail"] == 0.2
    assert record["splits"]["train"]["joints"]["tail"] < record["samples"]["train"]
    assert "stray" not in said
    assert record["tracks"]["strays"] == 0
    xy[20, 0] += 200
    np.savez(path, xy=xy, score=score, joints=names)
    assert check_stage.run(config, tmp_path / "again")
    said = capsys.readouterr().out
    assert "places that stray for a moment and do not train: 1" in said
    assert "6% of the joints missing" in said
    score[:, 3] = 0
    np.savez(path, xy=xy, score=score, joints=names)
    assert not check_stage.run(config, tmp_path / "never")
    assert "joint never seen" in capsys.readouterr().out
