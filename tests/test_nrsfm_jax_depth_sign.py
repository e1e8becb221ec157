"""The depth sign from a sentence about a picture."""

import numpy as np
import pytest

from input_pipeline.dataset import open_dataset
from nrsfm_jax import depth_sign, train
from nrsfm_jax import teacher as teachers
from nrsfm_jax.depth_sign import Samples, decide, find_pose, parse_cues

JOINTS = ("nose", "Left Hind Paw", "tail is")
NAMES = ("a/img_0011.png", "a/img_0012.png", "b/dog.jpg", "b/dog.jpg")
IDS = np.array([5, 6, 7, 8])
# The depth of the first joint says which sample a pose is of.
POSES = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 3, 3), np.float32)
SAMPLES = Samples(NAMES, IDS, POSES)


@pytest.mark.parametrize(
    ("text", "near", "far", "what", "which"),
    [
        ("nose is nearer than Left Hind Paw in image 12", 0, 1, "image", "12"),
        (
            "Left Hind Paw is closer than nose in picture x y.png.",
            1,
            0,
            "image",
            "x y.png",
        ),
        ("nose is farther than left hind paw in sample 40", 1, 0, "sample", "40"),
        ("  NOSE  is FURTHER than tail is in image 'a.png' ", 2, 0, "image", "a.png"),
    ],
)
def test_sentences(text, near, far, what, which):
    (cue,) = parse_cues(text, JOINTS)
    assert (cue.near, cue.far, cue.what, cue.which) == (near, far, what, which)


def test_several_sentences():
    one = "nose is nearer than tail is in image 1"
    assert len(parse_cues(f"{one}; {one};", JOINTS)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nose nearer tail", "is not '<joint> is nearer than <joint> in image <name>'"),
        ("ear is nearer than nose in image 1", "no joint 'ear'; the joints are nose, "),
        ("nose is nearer than nose in image 1", "one joint twice"),
    ],
)
def test_other_sentences_are_errors(text, message):
    with pytest.raises(ValueError, match="depth_sign_cue") as caught:
        parse_cues(text, JOINTS)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("where", "row"),
    [
        ("image a/img_0012.png", 1),
        ("image img_0012.png", 1),
        ("image img_0012", 1),
        ("image 12", 1),
        ("sample 7", 2),
    ],
)
def test_images_and_samples_are_found(where, row):
    (cue,) = parse_cues(f"nose is nearer than tail is in {where}", JOINTS)
    assert find_pose(cue, [SAMPLES])[0, 2] == row


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("image 99", "no image '99' among 4, which are a/img_0011.png"),
        ("sample 99", "no sample '99' among 4, which are 5, 6"),
        (
            "image dog",
            "2 samples are in that image; say 'in sample <id>' with one of 7",
        ),
    ],
)
def test_unknown_or_ambiguous_images_are_errors(where, message):
    (cue,) = parse_cues(f"nose is nearer than tail is in {where}", JOINTS)
    with pytest.raises(ValueError, match="depth_sign_cue") as caught:
        find_pose(cue, [SAMPLES])
    assert message in str(caught.value)


def _poses(*depths):
    """One sample a pair: the depth of the first two joints."""
    poses = np.zeros((len(depths), 3, 3), np.float32)
    poses[:, :2, 2] = depths
    poses[:, 2, 0] = 1.0
    return poses


def _decide(text, *depths):
    names = tuple(f"{i}.png" for i in range(len(depths)))
    cues = parse_cues(text, JOINTS)
    return decide(cues, [Samples(names, np.arange(len(depths)), _poses(*depths))])


@pytest.mark.parametrize("word", ["nearer", "farther"])
def test_one_cue_sets_the_sign(word):
    """Depth grows away from the camera: the nearer joint has less of it."""
    text = f"nose is {word} than Left Hind Paw in image 0"
    sign = 1 if word == "nearer" else -1
    assert _decide(text, (-0.5, 0.5))[0] == sign
    assert _decide(text, (0.5, -0.5))[0] == -sign


def test_the_majority_decides_and_the_others_are_named():
    cues = [f"nose is nearer than Left Hind Paw in image {i}" for i in range(3)]
    sign, text = _decide(";".join(cues), (-1, 1), (-0.5, 0.5), (1, -1))
    assert sign == 1
    assert text == f"2 of 3 cues; against it: {cues[2]!r}"


def test_cues_that_contradict_each_other_are_an_error():
    text = ";".join(f"nose is nearer than Left Hind Paw in image {i}" for i in range(2))
    with pytest.raises(ValueError, match=r"contradict each other: \+1 by .* -1 by"):
        _decide(text, (-1, 1), (1, -1))


def test_a_cue_at_equal_depth_is_said():
    text = "nose is nearer than Left Hind Paw in image 0"
    assert "nearly the same depth" in _decide(text, (-0.001, 0.001))[1]


def test_training_samples_come_before_validation_samples():
    train = Samples(("a.png",), np.array([7]), _poses((-1, 1)))
    val = Samples(("a.png", "b.png"), np.array([7, 8]), _poses((1, -1), (1, -1)))
    text = "nose is nearer than Left Hind Paw in "
    for where, sign in (("sample 7", 1), ("image a", 1), ("sample 8", -1)):
        assert decide(parse_cues(text + where, JOINTS), [train, val])[0] == sign
    with pytest.raises(ValueError, match="no sample '9' among 1, which are 7"):
        decide(parse_cues(text + "sample 9", JOINTS), [train, val])


# --- a whole run ---------------------------------------------------------------------


def _run(config, folder):
    return train.train_and_evaluate(config, folder, open_dataset(config.data))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny teacher of drawn figures, its config and its folder."""
    from tiny_data import write_motion

    from configs import default

    folder = tmp_path_factory.mktemp("cue")
    config = default.get_config()
    config.data.name = "mocap"
    config.data.mocap_file = write_motion(folder / "m.npz", frames=150, subjects=10)
    config.data.num_train, config.data.num_val = 60, 10
    config.teacher.dictionary_sizes = (12, 6)
    config.teacher.batch_size, config.teacher.steps = 16, 20
    config.teacher.log_every = 10
    config.teacher.em.guide_fraction = 0.0
    _run(config, folder)
    return config, folder


def _z(config, folder, row=0):
    teacher = teachers.load(folder / "teacher")
    split = teachers.load_reconstruction(folder / "teacher", "train")
    saved = np.load(folder / "teacher" / "predictions_train.npz")
    pose = split.poses(teacher.dictionary)[row]
    np.testing.assert_allclose(saved["pose"][row, :, 2], pose[:, 2], atol=1e-5)
    return pose[:, 2], teacher


def test_the_sign_follows_the_cue_without_another_training(run, monkeypatch, capsys):
    config, folder = run
    fail = lambda *a, **k: pytest.fail("trained again")  # noqa: E731
    monkeypatch.setattr(train.loop, "fit", fail)
    landmarks = open_dataset(config.data).landmarks("train")
    joints = landmarks.skeleton.joints
    before, teacher = _z(config, folder)
    assert (teacher.depth_sign, teacher.depth_sign_source) == (1, "given")
    far, near = int(np.argmax(before)), int(np.argmin(before))
    results = {}
    for word, sign in (("farther", -1), ("nearer", 1)):
        config.teacher.depth_sign_cue = (
            f"{joints[near]} is {word} than {joints[far]} in sample "
            f"{landmarks.sample_ids[0]}"
        )
        results[sign] = _run(config, folder)
        after, teacher = _z(config, folder)
        assert (teacher.depth_sign, teacher.depth_sign_source) == (sign, "cue")
        np.testing.assert_allclose(after, sign * before, atol=1e-5)
        assert f"depth sign {sign:+d}, by 1 of 1 cues" in capsys.readouterr().out
        # Once: the second time the results are read.
        assert _run(config, folder) == results[sign]
        assert capsys.readouterr().out == "teacher: found finished\n"
    assert "from what is seen" in results[1]["val"]["sign"]
    assert results[1]["val"]["mpjpe_mm"] != results[-1]["val"]["mpjpe_mm"]
    config.teacher.depth_sign_cue = ""
    config.teacher.depth_sign = -1
    assert "given" in _run(config, folder)["val"]["sign"]
    assert teachers.load(folder / "teacher").depth_sign == -1
    config.teacher.depth_sign = 1
    _run(config, folder)


def test_an_unknown_joint_lists_the_names(run):
    config, folder = run
    config.teacher.depth_sign_cue = "Nose is nearer than Head in sample 1"
    with pytest.raises(ValueError, match="the joints are Pelvis, RHip"):
        _run(config, folder)
    config.teacher.depth_sign_cue = ""
    _run(config, folder)


def test_the_telling_sample_is_deep(run):
    _, folder = run
    sample = depth_sign.telling_sample(folder / "teacher")
    z = sample.pose[:, 2]
    assert sample.joints == (int(np.argmin(z)), int(np.argmax(z)))
    assert sample.depth_sign == 1
    split = teachers.load_reconstruction(folder / "teacher", "train")
    assert sample.sample_id in split.sample_ids


def test_check_draws_both_readings(run, capsys):
    from PIL import Image

    from stages import check

    config, folder = run
    check.run(config, folder)
    out = capsys.readouterr().out
    assert "Which of the two" in out
    assert "--config.teacher.depth_sign_cue=" in out
    with Image.open(folder / "check" / "depth_sign.png") as picture:
        assert picture.width > 3 * 380
    # What it proposes is understood.
    (line,) = [part for part in out.splitlines() if "depth_sign_cue=" in part]
    config.teacher.depth_sign_cue = line.split('"')[1]
    _run(config, folder)
    assert teachers.load(folder / "teacher").depth_sign == 1
