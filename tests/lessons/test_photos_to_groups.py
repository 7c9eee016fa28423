"""Pictures become tokens, and the grouping keeps its promise."""

import numpy as np
import pytest
import torch

from kit import photos
from tssa_lib import rates


# ---- a photograph ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", photos.SAMPLES)
def test_samples_ship_with_the_dependencies(name):
    image = photos.sample(name, longest=64)
    assert max(image.shape) == 64 and image.shape[2] == 3 and image.dtype == np.uint8 and image.std() > 20


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="one of .*got 'cat'"):
        photos.sample("cat")


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


def test_a_picture_smaller_than_a_patch_is_named():
    with pytest.raises(ValueError, match=r"at least 8 × 8 pixels.*got \(1, 1, 3\)"):
        photos.tokens(np.zeros((1, 1), np.uint8))


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


def test_memberships_to_start_from_have_as_many_groups_as_are_asked_for():
    with pytest.raises(ValueError, match=r"expected memberships Pi \(K=4, N=30\) to start from, got \(2, 30\)"):
        photos.group(torch.randn(30, 4).double(), K=4, p=2, Pi=torch.full((2, 30), 0.5).double())
