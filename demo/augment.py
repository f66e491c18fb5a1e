"""Random views of the drawings: where the object lies, what is behind it, and how its colours come out."""

import math

import torch
import torch.nn.functional as F


def between(low: float, high: float, *shape: int) -> torch.Tensor:
    return torch.empty(*shape).uniform_(low, high)


def chance(probability: float, n: int) -> torch.Tensor:
    """A mask [n, 1, 1, 1] that is one with the given probability."""
    return (torch.rand(n, 1, 1, 1) < probability).float()


def place(rgba: torch.Tensor, mirror: torch.Tensor, size: int, strength: float) -> torch.Tensor:
    """Rotate, scale, shear, shift and perhaps mirror each drawing onto a canvas of `size` pixels a side."""
    n = len(rgba)
    angle = torch.randn(n) * math.radians(9) * strength
    scale = between(1 - 0.3 * strength, 1 + 0.12 * strength, n)
    stretch = (between(-0.12, 0.12, n) * strength).exp()
    shear = torch.randn(n) * 0.06 * strength
    shift = between(-0.2, 0.2, n, 2) * strength
    sign = 1 - 2 * (mirror & (torch.rand(n) < 0.5)).float()

    # affine_grid wants the map from the canvas to the drawing, so everything here is the inverse of what is seen
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    theta = torch.stack(
        [
            torch.stack([sign * cos * stretch, sign * (shear - sin), shift[:, 0]], 1),
            torch.stack([sin, cos / stretch, shift[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [n, 4, size, size], align_corners=False)
    return F.grid_sample(rgba, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def backgrounds(n: int, size: int, strength: float) -> torch.Tensor:
    """White, one colour, a gradient between colours, or soft texture; at full strength 40, 30, 15 and 15 %."""
    colour = torch.rand(n, 3, 1, 1)
    soft = F.interpolate(torch.rand(n, 3, 2, 2), size=size, mode="bilinear", align_corners=True)
    texture = F.interpolate(torch.randn(n, 3, 8, 8) * 0.2, size=size, mode="bicubic", align_corners=False)
    kind = 1 - torch.rand(n, 1, 1, 1) / max(strength, 1e-6)  # below zero: white
    plain = torch.where(kind < 0.4, torch.ones_like(colour), colour)
    rich = torch.where(kind < 0.85, soft, (colour + texture).clamp(0, 1))
    return torch.where(kind < 0.7, plain.expand_as(rich), rich)


def recolour(image: torch.Tensor, strength: float) -> torch.Tensor:
    """Brightness, contrast, saturation, a turn of the hue; some pictures go grey."""
    n = len(image)
    turn = torch.randn(n) * math.radians(12) * strength
    saturation = (1 + between(-0.4, 0.4, n) * strength) * (1 - chance(0.08 * strength, n).view(n))
    # a rotation about the grey axis, scaled off that axis by the saturation
    identity, ones = torch.eye(3), torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    cos, sin = (torch.cos(turn) * saturation).view(n, 1, 1), (torch.sin(turn) * saturation).view(n, 1, 1)
    matrix = ones + cos * (identity - ones) + sin * cross
    image = torch.einsum("nij,njhw->nihw", matrix, image)
    mean = image.mean((1, 2, 3), keepdim=True)
    image = (image - mean) * (1 + between(-0.3, 0.25, n, 1, 1, 1) * strength) + mean
    image = image + torch.randn(n, 1, 1, 1) * 0.08 * strength
    return image.clamp(0, 1)


def soften(image: torch.Tensor, strength: float) -> torch.Tensor:
    """Some pictures blurred, some noisy."""
    n = len(image)
    blurred = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blur = chance(0.25 * strength, n) * torch.rand(n, 1, 1, 1)
    image = image + blur * (blurred - image)
    return image + torch.randn_like(image) * chance(0.3 * strength, n) * between(0, 0.06, n, 1, 1, 1)


def augment(rgba: torch.Tensor, mono: torch.Tensor, mirror: torch.Tensor, size: int, strength: float) -> torch.Tensor:
    """Turn premultiplied uint8 drawings [n, h, w, 4] into normalised pixels [n, 3, size, size].

    `mono` marks black line art, which is drawn in a random colour that stands out from its background; `mirror` marks
    the drawings that stay true when mirrored; `strength` from 0 to 1 says how far the views stray from the drawings.
    """
    n = len(rgba)
    placed = place(rgba.permute(0, 3, 1, 2).float() / 255, mirror, size, strength)
    colour, alpha = placed[:, :3], placed[:, 3:]
    behind = backgrounds(n, size, strength)
    light = (behind.mean((1, 2, 3), keepdim=True) > 0.5).float()
    ink = torch.rand(n, 3, 1, 1) * 0.35 + (1 - light) * 0.65
    colour = colour + mono.view(n, 1, 1, 1).float() * ink * alpha
    image = soften(recolour(colour + (1 - alpha) * behind, strength), strength)
    return (image.clamp(0, 1) - 0.5) / 0.5
