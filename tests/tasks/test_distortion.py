import math

import pytest
import torch
import torch.nn.functional as F

from esper.tasks.distortion import distort, shift_and_mirror
from esper.tasks.settings import DistortionStrength


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def strength(rotation_degrees=0.0, scale_range=(1.0, 1.0), shift_pixels=0.0, noise_std=0.0):
    return DistortionStrength(
        rotation_degrees=rotation_degrees, scale_range=scale_range, shift_pixels=shift_pixels, noise_std=noise_std
    )


def dot(size=8, row=1, column=6):
    image = torch.zeros(1, 1, size, size)
    image[0, 0, row, column] = 1.0
    return image


def centre_of_mass(images):
    size = images.shape[-1]
    mass = images.sum((1, 2, 3))
    axis = torch.arange(size, dtype=images.dtype)
    row = (images.sum((1, 3)) * axis).sum(1) / mass
    column = (images.sum((1, 2)) * axis).sum(1) / mass
    return row, column


def test_without_strength_it_is_plain_upsampling():
    images = torch.rand(5, 1, 8, 8, generator=generator())
    expected = F.interpolate(images, size=16, mode="bilinear", align_corners=False)
    result = distort(images, strength(), 16, generator())
    assert result.shape == (5, 1, 16, 16)
    assert torch.allclose(
        result[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-5
    )  # borders fade to the 0 outside


def test_matches_the_rotation_of_affine_grid():
    images = torch.rand(6, 3, 9, 9, generator=generator())
    angle = (torch.rand(6, generator=generator(3)) * 2 - 1) * math.radians(40.0)
    nothing = torch.zeros(6)
    theta = torch.stack((angle.cos(), angle.sin(), nothing, -angle.sin(), angle.cos(), nothing), dim=1).view(6, 2, 3)
    expected = F.grid_sample(images, F.affine_grid(theta, [6, 3, 9, 9], align_corners=False), align_corners=False)
    assert torch.allclose(distort(images, strength(rotation_degrees=40.0), 9, generator(3)), expected, atol=1e-5)


def test_shift_is_bounded_in_result_pixels_and_differs_by_image():
    images = F.pad(torch.ones(200, 1, 2, 2), [7, 7, 7, 7])
    row, column = centre_of_mass(distort(images, strength(shift_pixels=3.0), 16, generator()))
    offset = torch.stack((row, column)) - 7.5
    assert offset.abs().max() <= 3.0 + 1e-4
    assert offset.abs().max() > 2.5 and offset.std() > 1.0
    assert (offset[0] - offset[1]).abs().max() > 1.0


def test_scale_keeps_the_centre_and_changes_the_area():
    images = F.pad(torch.ones(300, 1, 4, 4), [6, 6, 6, 6])
    result = distort(images, strength(scale_range=(0.5, 2.0)), 16, generator())
    row, column = centre_of_mass(result)
    assert torch.allclose(row, torch.full_like(row, 7.5), atol=1e-3)
    assert torch.allclose(column, torch.full_like(column, 7.5), atol=1e-3)
    area = result.sum((1, 2, 3)) / 16
    assert 0.2 < area.min() < 0.5 and 3.0 < area.max() < 4.2


def test_rotation_keeps_the_distance_from_the_centre():
    images = dot(17, 4, 8).repeat(100, 1, 1, 1)
    row, column = centre_of_mass(distort(images, strength(rotation_degrees=90.0), 17, generator()))
    radius = torch.hypot(row - 8, column - 8)
    assert torch.allclose(radius, torch.full_like(radius, 4.0), atol=0.3)
    assert column.max() > 11.0 and column.min() < 5.0  # both ways


def test_rotation_and_scale_go_together():
    images = dot(33, 12, 16).repeat(100, 1, 1, 1)
    row, column = centre_of_mass(distort(images, strength(180.0, (2.0, 2.0)), 33, generator()))
    radius = torch.hypot(row - 16, column - 16)
    assert torch.allclose(radius, torch.full_like(radius, 8.0), atol=0.5)


def test_noise_has_the_spread_asked_for():
    result = distort(torch.zeros(50, 1, 8, 8), strength(noise_std=0.5), 16, generator())
    assert result.std() == pytest.approx(0.5, rel=0.05)
    assert result.mean() == pytest.approx(0.0, abs=0.02)


def test_same_generator_state_same_images_and_the_global_stream_is_left_alone():
    images = torch.rand(10, 1, 8, 8, generator=generator())
    full = strength(30.0, (0.8, 1.2), 2.0, 0.2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (distort(images, full, 16, generator(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, distort(images, full, 16, generator(8)))
    assert torch.equal(before, torch.get_rng_state())


def test_shift_and_mirror_moves_whole_pixels():
    images = torch.zeros(400, 3, 8, 8, dtype=torch.uint8)
    images[:, :, 3, 2] = 200
    moved = shift_and_mirror(images, 2, generator())
    assert moved.dtype == torch.uint8 and moved.shape == images.shape
    where = moved[:, 0].nonzero()
    assert len(where) == 400 and torch.equal(moved[:, 0], moved[:, 2])
    assert set(where[:, 1].tolist()) == {1, 2, 3, 4, 5}
    # column 2 goes to 0..4, its mirror image 5 to 3..7
    assert set(where[:, 2].tolist()) == set(range(8))


def test_shift_and_mirror_fills_with_zeros_and_zero_shift_only_mirrors():
    images = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4).repeat(50, 1, 1, 1)
    plain = shift_and_mirror(images, 0, generator())
    mirrored = (plain == images.flip(3)).flatten(1).all(1)
    kept = (plain == images).flatten(1).all(1)
    assert bool((mirrored | kept).all()) and 10 < int(mirrored.sum()) < 40
    shifted = shift_and_mirror(images, 3, generator())
    assert int((shifted == 0).sum()) > 0
