"""Any picture a person points to becomes an array, the right way up."""

import numpy as np
import pytest
import torch
from PIL import Image

from tssa_lib import photos

RED, WHITE = (200, 30, 30), (255, 255, 255)


def picture(height=40, width=64):
    """Red in the upper left corner, grey ramps elsewhere: any turn or flip shows."""
    a = np.add.outer(np.arange(height), np.arange(width))[..., None].repeat(3, 2).astype(np.uint8)
    a[:8, :8] = RED
    return a


def test_png_and_jpeg(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    Image.fromarray(picture()).save(tmp_path / "a.jpg", quality=95)
    assert (photos.load_image(tmp_path / "a.png") == picture()).all()
    assert np.abs(photos.load_image(str(tmp_path / "a.jpg"))[2:6, 2:6] - np.array(RED, float)).max() < 20


@pytest.mark.parametrize(
    "orientation,turn",
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, 3)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, np.rot90),
    ],
)
@pytest.mark.parametrize("longest", [None, 64])
def test_exif_rotation_is_applied(tmp_path, orientation, turn, longest):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
    assert (photos.load_image(tmp_path / "a.png", longest) == turn(picture())).all()


def test_grey_palette_transparent_and_cmyk(tmp_path):
    grey = picture()[..., 1]
    assert (photos.load_image(Image.fromarray(grey)) == grey[..., None]).all()
    assert np.abs(photos.load_image(Image.fromarray(picture()).convert("P"))[0, 0] - np.array(RED, float)).max() < 60
    clear = Image.fromarray(np.dstack([picture(), np.zeros((40, 64), np.uint8)]))
    clear.save(tmp_path / "a.png")
    assert (photos.load_image(tmp_path / "a.png") == 255).all()  # laid on white, not black
    assert (photos.load_image(np.dstack([picture(), np.full((40, 64), 255, np.uint8)])) == picture()).all()
    assert photos.load_image(Image.fromarray(picture()).convert("CMYK")).shape == (40, 64, 3)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    deep = (np.arange(40 * 64).reshape(40, 64) * 25).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    want = np.rint(deep / 257)[..., None].repeat(3, 2)
    assert np.abs(photos.load_image(tmp_path / "a.png") - want).max() <= 1
    assert np.abs(photos.load_image(deep) - want).max() <= 1


def test_arrays_of_floats_and_bools():
    assert (photos.load_image(picture() / 255.0) == picture()).all()
    assert (photos.load_image(torch.as_tensor(picture() / 255.0)) == picture()).all()
    assert set(np.unique(photos.load_image(np.eye(9, dtype=bool)))) == {0, 255}
    assert (photos.load_image(picture()[..., :1]) == picture()[..., :1]).all()


def test_tiny_and_very_large(tmp_path):
    assert photos.load_image(np.zeros((1, 1), np.uint8)).shape == (1, 1, 3)
    Image.new("RGB", (9000, 6000), RED).save(tmp_path / "large.jpg")
    small = photos.load_image(tmp_path / "large.jpg", longest=300)
    assert small.shape == (200, 300, 3) and np.abs(small - np.array(RED, float)).max() < 5


def test_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.fromarray(picture()).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="decompression bomb"):
        photos.load_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    "bad,message",
    [
        (np.zeros((4, 4, 2), np.uint8), r"got an array \(4, 4, 2\)"),
        (np.zeros((0, 4), np.uint8), r"got an array \(0, 4\)"),
        (np.zeros(4, np.uint8), r"got an array \(4,\)"),
        (np.full((4, 4), 7.0), "got values from 7.0 to 7.0"),
        (np.full((4, 4), np.nan), "got values from nan"),
        (np.zeros((4, 4), np.int64), "got int64"),
        (np.array([["a"]]), "got <U1"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_bad_input_says_what_was_expected(bad, message):
    with pytest.raises(ValueError, match=f"expected.*{message}"):
        photos.load_image(bad)


def test_no_picture_and_half_a_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.jpg", quality=95)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:9000])
    for name in ("a.png", "b.jpg"):
        with pytest.raises(ValueError, match=f"expected an image file.*{name}") as told:
            photos.load_image(tmp_path / name)
        assert "pi_heif" not in str(told.value), "what other formats need is not the reason"
    with pytest.raises(ValueError, match="longest >= 1"):
        photos.load_image(picture(), longest=0)


def test_a_picture_of_any_proportions_keeps_a_pixel(tmp_path):
    Image.new("RGB", (2000, 2)).save(tmp_path / "long.png")
    assert photos.load_image(tmp_path / "long.png", 320).shape == (1, 320, 3)
    Image.new("RGB", (640, 480)).save(tmp_path / "usual.png")
    assert photos.load_image(tmp_path / "usual.png", 320).shape == (240, 320, 3)


def test_an_empty_file_is_called_one(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ValueError, match="a.jpg', an empty file"):
        photos.load_image(tmp_path / "a.jpg")
