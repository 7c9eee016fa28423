"""Any picture a person points to becomes tokens the right way up, and the grouping keeps its promise."""

import numpy as np
import pytest
import torch
from PIL import Image

from tssa_lib import photos, rates

RED, WHITE = (200, 30, 30), (255, 255, 255)


def picture(height=40, width=64):
    """Red in the upper left corner, grey ramps elsewhere: any turn or flip shows."""
    a = np.add.outer(np.arange(height), np.arange(width))[..., None].repeat(3, 2).astype(np.uint8)
    a[:8, :8] = RED
    return a


# ---- file → image -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", photos.SAMPLES)
def test_samples_ship_with_the_dependencies(name):
    image = photos.sample(name, longest=64)
    assert max(image.shape) == 64 and image.shape[2] == 3 and image.dtype == np.uint8 and image.std() > 20


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
    with pytest.raises(ValueError, match=r"at least 8 × 8 pixels.*got \(1, 1, 3\)"):
        photos.tokens(np.zeros((1, 1), np.uint8))
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
    Image.fromarray(photos.sample("china")).save(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:9000])
    for name in ("a.png", "b.jpg"):
        with pytest.raises(ValueError, match=f"expected an image file.*{name}") as told:
            photos.load_image(tmp_path / name)
        assert "pi_heif" not in str(told.value), "what other formats need is not the reason"
    with pytest.raises(ValueError, match="one of .*got 'cat'"):
        photos.sample("cat")
    with pytest.raises(ValueError, match="longest >= 1"):
        photos.load_image(picture(), longest=0)


# ---- image → tokens ---------------------------------------------------------------------------------
def test_patches_are_the_windows_of_the_picture():
    image = np.random.default_rng(0).random((19, 26, 3))
    x, (rows, columns) = photos.patches(image, size=8, stride=4)
    assert (rows, columns) == (3, 5) and x.shape == (15, 192)
    for i in range(rows):
        for j in range(columns):
            assert np.array_equal(x[i * columns + j].numpy(), image[4 * i : 4 * i + 8, 4 * j : 4 * j + 8].ravel())


def test_tokens_are_centred_uncorrelated_and_of_unit_size():
    x, grid = photos.tokens(photos.sample("flower"), longest=96)
    assert x.shape == (grid[0] * grid[1], 16) and x.dtype == torch.float64
    S = x.T @ x / len(x)
    assert x.mean(0).abs().max() < 1e-9 and abs(S.trace() - 1) < 1e-9
    assert (S - S.diag().diag()).abs().max() < 1e-9 and (S.diag().diff() <= 0).all()


def test_a_blank_picture_gives_finite_groups():
    x, _ = photos.tokens(np.full((32, 32, 3), 128, np.uint8))
    with pytest.warns(UserWarning):
        assert torch.isfinite(photos.group(x, steps=3).Pi).all()


# ---- tokens → groups --------------------------------------------------------------------------------
def objective(x, Pi, U, eps2):
    return rates.variational_rate(x, Pi, U, eps2, corrected=True) - torch.special.entr(Pi).sum() / len(x)


@pytest.mark.parametrize("name", ["china", "flower", "bus", "zidane"])
def test_alternation_never_increases_the_corrected_objective(name):
    x, _ = photos.tokens(photos.sample(name), longest=120)
    for eps2 in (0.0005, 0.002, 0.05):
        values = torch.tensor(photos.group(x, eps2=eps2, steps=25).objective, dtype=torch.float64)
        assert values.diff().max() <= 1e-9 and values[-1] < values[0] - 1e-3


def test_both_half_steps_descend_and_the_last_state_has_the_last_objective():
    x, _ = photos.tokens(photos.sample("flower"), longest=120)
    Pi, U, values = photos.group(x, steps=1)
    assert abs(objective(x, Pi, U, 0.002) - values[-1]) < 1e-12
    for _ in range(6):
        new = photos.group(x, steps=1, Pi=Pi)
        frame_only = objective(x, Pi, new.U, 0.002)
        assert values[-1] + 1e-9 >= frame_only >= new.objective[-1] - 1e-9
        Pi, U, values = new


def test_known_subspaces_are_found():
    torch.manual_seed(0)
    lines = torch.eye(6, dtype=torch.float64)
    truth = torch.arange(90) % 3
    x = torch.randn(90, 1, dtype=torch.float64).sign() * lines[truth] + 0.02 * torch.randn(90, 6, dtype=torch.float64)
    Pi = torch.full((3, 90), 0.3, dtype=torch.float64).scatter(0, truth[None], 0.4)
    found = photos.group(x, K=3, p=1, eps2=0.01, steps=20, Pi=Pi)
    assert (found.Pi.argmax(0) == truth).all() and found.Pi.max(0).values.min() > 0.99
    assert torch.allclose(found.U.abs().squeeze(-1), lines[:3].abs(), atol=0.02)


@pytest.mark.parametrize("bad", [dict(K=1), dict(K=99), dict(p=0), dict(p=7), dict(steps=0), dict(eps2=0.0)])
def test_bad_grouping_arguments(bad):
    with pytest.raises(ValueError, match="expected .*got"):
        photos.group(torch.randn(20, 6, dtype=torch.float64), **bad)


def test_a_picture_of_any_proportions_keeps_a_pixel(tmp_path):
    Image.new("RGB", (2000, 2)).save(tmp_path / "long.png")
    assert photos.load_image(tmp_path / "long.png", 320).shape == (1, 320, 3)
    Image.new("RGB", (640, 480)).save(tmp_path / "usual.png")
    assert photos.load_image(tmp_path / "usual.png", 320).shape == (240, 320, 3)


def test_an_empty_file_is_called_one(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ValueError, match="a.jpg', an empty file"):
        photos.load_image(tmp_path / "a.jpg")


def test_memberships_to_start_from_have_as_many_groups_as_are_asked_for():
    with pytest.raises(ValueError, match=r"expected memberships Pi \(K=4, N=30\) to start from, got \(2, 30\)"):
        photos.group(torch.randn(30, 4).double(), K=4, p=2, Pi=torch.full((2, 30), 0.5).double())
