"""Random distortions of whole image sets, a few tensor operations a set."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from esper.tasks.settings import DistortionStrength


def _uniform(count: int, bound: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(count, generator=generator, device=generator.device) * 2 - 1) * bound


def _pixel_centres(size: int, device: torch.device) -> Tensor:
    """x, y and 1 for each pixel of a square image that spans [-1, 1], row by row: [3, size * size]."""
    centre = (torch.arange(size, device=device) * 2 + 1) / size - 1
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    return torch.stack((x.flatten(), y.flatten(), torch.ones_like(x).flatten()))


def distort(images: Tensor, strength: DistortionStrength, size: int, generator: torch.Generator) -> Tensor:
    """Rotate, scale, shift, resample and roughen every image its own way; what enters from outside is 0.

    Args:
        images: [N, C, H, W] float32, of any size.
        size: height and width of the result; resampling happens in the same pass as the distortion.
        generator: the only source of chance; on the images' device or the CPU.

    Returns:
        [N, C, size, size] on the images' device.
    """
    count = len(images)
    angle = _uniform(count, math.radians(strength.rotation_degrees), generator)
    low, high = strength.scale_range
    scale = (low + high) / 2 + _uniform(count, (high - low) / 2, generator)
    shift = _uniform(2 * count, 2 * strength.shift_pixels / size, generator).view(2, count)  # an image spans [-1, 1]
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # The way back: where in the source each pixel of the result comes from. One matrix product for the whole set is
    # many times faster on a CPU than the small products of F.affine_grid.
    back = torch.stack((cos, sin, shift[0], -sin, cos, shift[1]), dim=1).view(2 * count, 3).to(images.device)
    grid = (back @ _pixel_centres(size, images.device)).view(count, 2, size, size).permute(0, 2, 3, 1)
    distorted = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    noise = torch.randn(distorted.shape, generator=generator, device=generator.device).to(images.device)
    return distorted.add_(noise, alpha=strength.noise_std)


def shift_and_mirror(images: Tensor, max_shift: int, generator: torch.Generator, is_mirrored: bool = True) -> Tensor:
    """Move every image by whole pixels, up to `max_shift` along each axis, and mirror every other one at random.

    Args:
        images: [N, C, H, W] of any dtype; what enters from outside is 0.
        generator: the only source of chance; on the images' device or the CPU.
        is_mirrored: False: none is mirrored.

    Returns:
        [N, C, H, W], same dtype and device.
    """
    count, channels, height, width = images.shape
    device = images.device
    span = 2 * max_shift + 1
    offset = torch.randint(span, (2, count, 1), generator=generator, device=generator.device).to(device)
    mirror = (torch.rand(count, 1, generator=generator, device=generator.device) < 0.5 * is_mirrored).to(device)
    column = torch.arange(width, device=device)
    rows = offset[0] + torch.arange(height, device=device)  # [N, H]
    columns = offset[1] + torch.where(mirror, column.flip(0), column)  # [N, W]
    padded = F.pad(images, [max_shift] * 4)
    return padded[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
