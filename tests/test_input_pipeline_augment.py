"""Augmentation: landmarks, pictures and the teacher's camera change together."""

import io

import numpy as np
import pytest
from PIL import Image
from tiny_data import dot_picture

from input_pipeline import augment
from input_pipeline.skeleton import H36M_17

ALL = augment.Augmentation(0.25, 60.0, 0.6, 0.5, 0.2)
PERMUTATION = H36M_17.flip_permutation


def _encode(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=kind, quality=98, subsampling=0)
    return buffer.getvalue()


def _draw(encoded, centre, half_side, *, scale=1.0, angle=0.0, flip=False, size=32):
    matrix = augment.patch_matrix(scale, angle, flip)
    image = augment.draw_patch(
        encoded,
        np.array(centre, np.float32),
        half_side,
        matrix,
        np.ones(3, np.float32),
        size,
    )
    return image, matrix


def _centre_of_light(image: np.ndarray) -> np.ndarray:
    """Patch coordinates of the mean of a bright dot on black."""
    weight = image[..., 0].astype(float)
    weight[weight < 8] = 0
    grid = (np.arange(len(image)) + 0.5) * 2 / len(image) - 1
    return np.array([weight.sum(0) @ grid, weight.sum(1) @ grid]) / weight.sum()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("scale", "angle", "half_side", "size"),
    [
        (1.0, 0.0, 40.0, 80),  # one to one
        (1.0, 0.0, 40.0, 33),  # smaller: averaged first
        (1.0, 0.0, 20.0, 96),  # larger
        (1.25, 0.7, 40.0, 64),
        (0.75, -1.0, 40.0, 64),
        (0.8, 2.5, 35.0, 20),
    ],
)
def test_a_dot_lands_on_its_landmark(kind, flip, scale, angle, half_side, size):
    """Within a tenth of a pixel of the patch, and of a picture of like resolution."""
    point, centre = np.array([131.3, 118.6]), np.array([124.2, 125.9])
    picture = _encode(dot_picture([*point], size=256), kind)
    image, matrix = _draw(
        picture, centre, half_side, scale=scale, angle=angle, flip=flip, size=size
    )
    expected = matrix @ ((point - centre) / half_side)
    off = np.linalg.norm(_centre_of_light(image) - expected)
    assert off * size / 2 < 0.1
    if half_side / scale < size:
        assert off * half_side / scale < 0.1


def test_one_to_one_crop_is_exact():
    """A crop on whole pixels copies them."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    patch, _ = _draw(_encode(image), (25.0, 20.0), 8.0, size=16)
    np.testing.assert_array_equal(patch, image[12:28, 17:33])


def test_minified_crop_is_the_mean_of_blocks():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    patch, _ = _draw(_encode(image), (32.0, 32.0), 32.0, size=16)
    blocks = image.reshape(16, 4, 16, 4, 3).mean((1, 3))
    assert np.abs(patch - blocks).max() <= 0.5 + 1e-3


def test_a_jpeg_is_shrunk_like_a_png():
    """Decoded at a quarter of its size, it shows the means of its blocks."""
    rng = np.random.default_rng(0)
    smooth = rng.integers(64, 192, (32, 40, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(smooth).resize((161, 131)))
    encoded = _encode(image, "JPEG")
    exact = _encode(np.asarray(Image.open(io.BytesIO(encoded))))
    for half_side, size in ((60.0, 30), (64.0, 24), (70.0, 17)):
        pair = [
            _draw(e, (80.2, 66.1), half_side, size=size)[0] for e in (encoded, exact)
        ]
        assert np.abs(pair[0].astype(int) - pair[1]).mean() < 0.6


@pytest.mark.parametrize("angle", [0.0, 0.5])
@pytest.mark.parametrize("minify", [1.1, 1.4, 1.7, 1.95, 2.5, 3.6])
def test_what_is_finer_than_a_pixel_is_smoothed_away(minify, angle):
    """Noise above the patch's resolution against noise well below it: no more of it
    than area averages at the patch's resolution let through."""
    size, count = 64, 512
    frequency = np.abs(np.fft.fftfreq(count))
    frequency = np.maximum(frequency, frequency[:, None])
    white = np.fft.fft2(np.random.default_rng(0).normal(size=(count, count)))
    spread = {"ours": [], "area averages": []}
    for band in (frequency > 0.5 / minify, frequency < 0.25 / minify):
        noise = np.fft.ifft2(white * band).real
        noise = np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)
        image = np.repeat(noise[..., None], 3, axis=2)
        half_side = minify * size / 2
        ours, _ = _draw(
            _encode(image), (256.3, 255.8), half_side, angle=angle, size=size
        )
        small = np.round(count / minify).astype(int)
        areas = Image.fromarray(image).resize((small, small), Image.Resampling.BOX)
        ratio = small / count
        theirs, _ = _draw(
            _encode(np.asarray(areas)),
            (256.3 * ratio, 255.8 * ratio),
            half_side * ratio * (1 - 1e-3),
            angle=angle,
            size=size,
        )
        spread["ours"].append(ours[..., 0].std())
        spread["area averages"].append(theirs[..., 0].std())
    (fine, coarse), (fine_area, coarse_area) = spread.values()
    assert fine / coarse < 1.08 * fine_area / coarse_area


def test_the_part_of_a_large_jpeg_is_that_of_the_whole():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
    encoded = _encode(np.asarray(Image.fromarray(image).resize((800, 600))), "JPEG")
    whole = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    for half_side in (40.0, 100.0):  # the second is decoded at half the size
        options = {"scale": 1.1, "angle": 0.4, "flip": True, "size": 48}
        part, _ = _draw(encoded, (300.2, 410.7), half_side, **options)
        expected, _ = _draw(whole, (300.2, 410.7), half_side, **options)
        assert np.abs(part.astype(int) - expected).max() <= 3


def test_an_orientation_in_the_file_is_not_applied():
    """Landmarks belong to the pixels as they are stored."""
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 20:] = 255
    buffer, picture = io.BytesIO(), Image.fromarray(image)
    exif = picture.getexif()
    exif[0x0112] = 3
    picture.save(buffer, "JPEG", quality=98, subsampling=0, exif=exif)
    patch, _ = _draw(buffer.getvalue(), (15.0, 10.0), 10.0, size=20)
    assert patch[:, -4:].min() > 250
    assert patch[:, :4].max() < 5


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_are_no_picture(content):
    with pytest.raises(ValueError, match="bytes"):
        _draw(content, (5.0, 5.0), 5.0)


def test_outside_the_picture_is_grey():
    white = np.full((20, 20, 3), 255, np.uint8)
    patch, _ = _draw(_encode(white), (0.0, 0.0), 20.0, size=20)
    assert (patch[:9, :9] == augment.FILL).all()
    assert (patch[11:, 11:] == 255).all()


def test_crop_far_outside_does_not_fail():
    white = np.full((20, 20, 3), 255, np.uint8)
    for kind in ("PNG", "JPEG"):
        patch, _ = _draw(_encode(white, kind), (500.0, -90.0), 20.0, size=8)
        assert (patch == augment.FILL).all()


def test_no_augmentation_is_the_plain_crop():
    drawn = augment.draw_augmentation(7, 2, 0, augment.Augmentation())
    assert drawn.scale.tolist() == [1.0, 1.0]
    assert drawn.angle.tolist() == [0.0, 0.0]
    assert not drawn.flip.any()
    assert (drawn.gain == 1).all()


def test_random_numbers_have_the_stated_ranges_and_shares():
    scale, angle, flip, gain = augment.draw_augmentation(0, 2000, 0, ALL)
    assert 0.75 <= scale.min() < 0.76
    assert 1.24 < scale.max() <= 1.25
    assert np.abs(angle).max() <= np.deg2rad(60)
    assert np.abs(angle).max() > np.deg2rad(58)
    assert np.mean(angle != 0) == pytest.approx(0.6, abs=0.05)
    assert np.mean(flip) == pytest.approx(0.5, abs=0.05)
    assert gain.min() >= 0.8
    assert gain.max() <= 1.2


def test_random_numbers_follow_from_seed_and_counter():
    whole = augment.draw_augmentation(0, 12, 3, ALL)
    part = augment.draw_augmentation(5, 4, 3, ALL)
    for values, some in zip(whole, part, strict=True):
        np.testing.assert_array_equal(values[5:9], some)
    other = augment.draw_augmentation(0, 12, 4, ALL)
    assert not np.isin(other.scale, whole.scale).any()
    assert len(set(whole.scale.tolist())) == 12


def test_colour_multiplies_channels_and_saturates():
    image = np.full((8, 8, 3), 100, np.uint8)
    image[..., 2] = 250
    gain = np.array([0.8, 1.1, 1.2], np.float32)
    patch = augment.draw_patch(
        _encode(image), np.array([4.0, 4.0]), 2.0, np.eye(2), gain, 4
    )
    assert patch[0, 0].tolist() == [80, 110, 255]


def test_mirrored_landmarks_change_sides():
    patch = np.random.default_rng(0).normal(size=(1, 17, 2)).astype(np.float32)
    labelled = np.ones((1, 17), bool)
    labelled[0, 1] = False  # the right hip, which becomes the left one, index 4
    patch[0, 1] = 0
    flip = np.array([True])
    matrix = augment.patch_matrix(np.ones(1), np.zeros(1), flip)
    mirrored, seen = augment.augment_landmarks(
        patch, labelled, matrix, flip, PERMUTATION
    )
    assert not seen[0, 4]
    assert seen.sum() == 16
    assert mirrored[0, 4].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(mirrored[0, 6], patch[0, 3] * [-1, 1])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("angle", [0.0, 0.9])
def test_plain_teacher_equals_the_turned_and_mirrored_one(flip, angle):
    """The loss of ``z'[perm] / s`` against the plain teacher is that of ``z' / s``
    against a teacher whose camera is turned and whose shapes are mirrored.

    The mirrored teacher has the dictionary with x of the camera frame negated and
    left and right exchanged; the turned one has the camera M R^T. Both are rebuilt
    here from their definition and Eqs. 5-7 and 12-14.
    """
    rng = np.random.default_rng(1)
    count, atoms, scale = 17, 40, 1.2
    D = rng.normal(size=(count, 3, atoms))
    M = np.linalg.qr(rng.normal(size=(3, 3)))[0][:, :2]
    phi, w = rng.normal(size=atoms), rng.normal(size=(count, 2))
    z_aug = rng.normal(size=count)

    plain = _loss(D, M, phi, w, np.where(flip, z_aug[PERMUTATION], z_aug) / scale)

    flips = np.array([flip])
    matrix = augment.patch_matrix(np.array([scale]), np.array([angle]), flips)
    (w_aug,), _ = augment.augment_landmarks(
        w[None], np.ones((1, count), bool), matrix, flips, PERMUTATION
    )
    if flip:  # mirror x of the camera frame, which is the canonical axis m1
        mirror = np.eye(3) - 2 * np.outer(M[:, 0], M[:, 0])
        D = np.einsum("pck,cd->pdk", D, mirror)[PERMUTATION]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    changed = _loss(D, M @ turn.T, phi, w_aug / scale, z_aug / scale)
    assert changed == pytest.approx(plain, rel=1e-5)


def _loss(D, M, phi, w, z) -> float:
    """Eq. 14 of the code projected onto the depth z (Eqs. 12, 13)."""
    axis = np.cross(M[:, 0], M[:, 1])
    B_xy = np.einsum("pck,cd->pdk", D, M).reshape(-1, len(phi))
    B_z = np.einsum("pck,c->pk", D, axis)
    phi = phi + np.linalg.pinv(B_z) @ (z - B_z @ phi)
    return float(np.linalg.norm(B_xy @ phi - w.ravel()) + 0.3 * np.abs(phi).sum())


@pytest.mark.parametrize(
    ("field", "value"), [("scale", 1.0), ("flip_prob", 1.5), ("rotation_prob", -0.1)]
)
def test_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=f"augment.{field} = "):
        augment.Augmentation(**{field: value})
