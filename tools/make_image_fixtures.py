"""Makes fixtures/images: image files of many kinds and sizes, and what Pillow makes of them.

    python -m venv venv && venv/bin/pip install pillow==11.3.0 numpy
    venv/bin/python tools/make_image_fixtures.py fixtures/images [--reference FOLDER]

`expected.json` holds, for each file and each way to resize, the sha256 of the 8-bit pixels (height, width, RGB) of
`Image.open(file).convert("RGB").resize(…)` and a few of the pixels. The files are the same on every run. What Pillow
cannot write is written here by hand: interlaced PNG, JPEG with other sampling factors, in several scans, or damaged.
`--reference` adds photographs and odd files from Pillow's and image-rs' test suites (see README.md there).
"""

import argparse
import hashlib
import io
import json
import pathlib
import struct
import zlib

import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageOps

WAYS = {
    "bicubic384": (384, Image.Resampling.BICUBIC),
    "bicubic224": (224, Image.Resampling.BICUBIC),
    "bilinear224": (224, Image.Resampling.BILINEAR),
    "bilinear37": (37, Image.Resampling.BILINEAR),
}

# MIT-CMU (Pillow) or MIT OR Apache-2.0 (image-rs).
REFERENCE = """
pil_hopper.jpg pil_hopper.webp pil_hopper.bmp pil_hopper_gray.jpg pil_pil_sample_cmyk.jpg
pil_hopper_orientation_2.jpg pil_hopper_orientation_6.jpg pil_hopper_orientation_8.jpg pil_transparent.webp
pil_transparent.gif pil_flower.webp pil_truncated_jpeg.jpg pil_broken.png pil_orientation_rectangle.jpg
pil_16bit.cropped.tif pil_icc-after-SOF.jpg imagers_jpg_progressive_3.jpg imagers_jpg_portrait_2.jpg
imagers_png_16bpc_basn2c16.png imagers_png_16bpc_basi0g16.png imagers_png_transparency_tp1n3p08.png
imagers_png_transparency_tbrn2c08.png imagers_png_apng_ball.png imagers_webp_lossless_images_simple.webp
imagers_webp_extended_images_lossy_alpha.webp
""".split()


def picture(width, height, seed, channels=3):
    """Smooth colours, hard edges and a noisy patch: what a photograph and a drawing have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for _ in range(channels):
        fx, fy, phase = rng.uniform(0.5, 4, 2).tolist() + [rng.uniform(0, 6)]
        planes.append(127 + 120 * np.sin(6.28 * (fx * x / max(width, 1) + fy * y / max(height, 1)) + phase))
    pixels = np.stack(planes, -1).clip(0, 255).astype(np.uint8)
    patch = pixels[height // 3 : height // 2, width // 4 : width * 3 // 4]
    patch[:] = rng.integers(0, 256, patch.shape)
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode)
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        corners = rng.uniform(0, 1, (3, 2)) * (width, height)
        fill = tuple(rng.integers(0, 256, channels).tolist())
        draw.polygon([tuple(corner) for corner in corners.tolist()], fill=fill if channels > 1 else fill[0])
    return image


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


# --- JPEG -----------------------------------------------------------------------------------------------------------


def segments(jpeg):
    """The file as a list of (marker, contents); the last is SOS with the data up to the end."""
    parts, at = [], 2
    while True:
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker == 0xDA:
            return parts + [(marker, jpeg[at + 4 :])]
        parts.append((marker, jpeg[at + 4 : at + 2 + length]))
        at += 2 + length


def joined(parts):
    out = b"\xff\xd8"
    for marker, contents in parts:
        head = 2 + contents[0] * 2 + 4 if marker == 0xDA else len(contents) + 2
        out += bytes([0xFF, marker]) + head.to_bytes(2, "big") + contents
    return out


def with_frame(jpeg, factors=None, size=None):
    """Changes the sampling factors of the first component, or the size; the data must happen to fit."""
    parts = []
    for marker, contents in segments(jpeg):
        if marker in (0xC0, 0xC1, 0xC2):
            contents = bytearray(contents)
            if factors:
                contents[7] = factors
            if size:
                contents[1:5] = struct.pack(">HH", size[1], size[0])
        parts.append((marker, bytes(contents)))
    return joined(parts)


def with_adobe(jpeg, transform):
    """Puts another colour transform into Adobe's marker, or takes the marker out."""
    parts = [(marker, bytearray(contents)) for marker, contents in segments(jpeg)]
    for marker, contents in parts:
        if marker == 0xEE and transform is not None:
            contents[11] = transform
    return joined([(m, bytes(c)) for m, c in parts if m != 0xEE or transform is not None])


def in_three_scans(width, height, seed, halved):
    """A sequential file whose components come one after the other: three gray files put together."""
    small = ((width + 1) // 2, (height + 1) // 2) if halved else (width, height)
    grays = [saved(picture(*size, seed + i, 1), "JPEG", quality=85) for i, size in enumerate([(width, height), small, small])]
    parts = segments(grays[0])
    out = [part for part in parts if part[0] in (0xE0, 0xDB, 0xC4)]
    factor = 0x22 if halved else 0x11
    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes([1, factor, 0, 2, 0x11, 0, 3, 0x11, 0])
    out.insert(2, (0xC0, frame))
    for number, gray in enumerate(grays):
        data = segments(gray)[-1][1]
        scan = bytes([1, number + 1, 0, 0, 63, 0]) + data[6:-2]
        out.append((0xDA, scan))
    return joined(out) + b"\xff\xd9"


def damaged(jpeg, seed, changes):
    """Changes bytes of the coded data, but leaves no new marker and the end in place."""
    out = bytearray(jpeg)
    start = jpeg.index(b"\xff\xda") + 20
    rng = np.random.default_rng(seed)
    for at in rng.integers(start, len(jpeg) - 2, changes).tolist():
        if out[at] != 0xFF and out[at - 1] != 0xFF:
            out[at] = int(rng.integers(0, 255))
    return bytes(out)


def jpegs():
    sizes = [(1, 1), (2, 3), (5, 4), (7, 9), (8, 8), (9, 17), (16, 16), (17, 15), (31, 33), (64, 48), (101, 67), (150, 200), (233, 113)]
    for number, (width, height) in enumerate(sizes):
        for subsampling in (0, 1, 2):
            for progressive in (False, True):
                image = picture(width, height, number)
                quality = (30, 75, 92, 100)[(number + subsampling) % 4]
                kind = "progressive" if progressive else "baseline"
                yield f"{kind}_{width}x{height}_s{subsampling}_q{quality}.jpg", saved(
                    image, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive
                )
        yield f"gray_{width}x{height}.jpg", saved(picture(width, height, number, 1), "JPEG", progressive=number % 2 == 1)
    image = picture(90, 70, 50)
    yield "rgb_90x70.jpg", saved(image, "JPEG", keep_rgb=True)
    for blocks, subsampling in ((1, 0), (3, 2), (7, 1)):
        yield f"restart{blocks}_90x70.jpg", saved(image, "JPEG", subsampling=subsampling, restart_marker_blocks=blocks)
    yield "restart_progressive_90x70.jpg", saved(image, "JPEG", progressive=True, restart_marker_blocks=4)
    yield "optimized_90x70.jpg", saved(image, "JPEG", optimize=True)
    cmyk = Image.merge("CMYK", picture(83, 61, 51, 4).split())
    for transform in (0, 2, None):
        yield f"cmyk_{transform}_83x61.jpg", with_adobe(saved(cmyk, "JPEG", quality=90), transform)
    yield "cmyk_progressive_83x61.jpg", saved(cmyk, "JPEG", quality=80, progressive=True)
    # As many blocks in an MCU, set differently: 4:4:0, 4:1:1, 1:4.
    square = picture(64, 64, 52)
    for name, subsampling, factors in (("440", 1, 0x12), ("411", 2, 0x41), ("441", 2, 0x14)):
        for progressive in (False, True):
            jpeg = saved(square, "JPEG", subsampling=subsampling, progressive=progressive)
            size = (57, 51) if not progressive else None
            yield f"sampling{name}_{'progressive' if progressive else 'baseline'}.jpg", with_frame(jpeg, factors, size)
    yield "three_scans_45x37.jpg", in_three_scans(45, 37, 53, False)
    yield "three_scans_420_46x39.jpg", in_three_scans(46, 39, 54, True)
    for number in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = number
        yield f"orientation{number}_60x35.jpg", saved(picture(60, 35, 55), "JPEG", exif=exif)
    photo = picture(120, 90, 56)
    for number in range(6):
        options = {"progressive": number % 2 == 1, "restart_marker_blocks": 5 if number > 3 else 0}
        yield f"damaged{number}_120x90.jpg", damaged(saved(photo, "JPEG", **options), number, 4)
    whole = saved(photo, "JPEG")
    yield "early_end_120x90.jpg", whole[: len(whole) // 2] + b"\xff\xd9"
    yield "early_end_restart_120x90.jpg", saved(photo, "JPEG", restart_marker_blocks=4)[:3000] + b"\xff\xd9"
    yield "extreme_1x3000.jpg", saved(picture(1, 3000, 57), "JPEG")
    yield "extreme_3000x1.jpg", saved(picture(3000, 1, 58), "JPEG")
    yield "truncated_half.jpg", whole[: len(whole) // 2]
    yield "truncated_end.jpg", whole[:-2]
    progressive = saved(photo, "JPEG", progressive=True)
    yield "truncated_progressive.jpg", progressive[: len(progressive) * 3 // 4]
    yield "truncated_header.jpg", whole[:100]
    yield "zero_size.jpg", with_frame(whole, size=(0, 0))
    yield "huge_header.jpg", with_frame(whole, size=(30000, 30000))


# --- PNG ------------------------------------------------------------------------------------------------------------

PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def chunk(kind, contents):
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))


def packed(rows, depth):
    """Rows of samples to bytes, with the filter byte 0."""
    out = b""
    for row in rows.reshape(rows.shape[0], -1):
        if depth == 16:
            data = row.astype(">u2").tobytes()
        elif depth == 8:
            data = row.astype(np.uint8).tobytes()
        else:
            bits = ((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8)
            data = np.packbits(bits.reshape(-1)).tobytes()
        out += b"\0" + data
    return out


def png(width, height, color, depth, interlaced, seed, transparency=False, colors=None):
    """A PNG of any kind: color 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGBA."""
    rng = np.random.default_rng(seed)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    base = np.asarray(picture(width, height, seed, channels)).reshape(height, width, channels).astype(np.int64)
    samples = base * ((1 << depth) - 1) // 255
    if depth == 16:
        samples = (base * 257 + rng.integers(0, 256, base.shape)).clip(0, 65535)
        if color == 0:
            samples = samples >> (4 * (seed % 3))
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced))
    if color == 3:
        count = colors or 1 << depth
        out += chunk(b"PLTE", rng.integers(0, 256, count * 3).astype(np.uint8).tobytes())
        if transparency:
            out += chunk(b"tRNS", rng.integers(0, 256, count).astype(np.uint8).tobytes())
    elif transparency:
        out += chunk(b"tRNS", struct.pack(f">{channels}H", *samples[0, 0].tolist()))
    if interlaced:
        parts = [samples[y::dy, x::dx] for x, y, dx, dy in PASSES]
        data = b"".join(packed(part, depth) for part in parts if part.size)
    else:
        data = packed(samples, depth)
    return out + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def pngs():
    kinds = [(0, d) for d in (1, 2, 4, 8, 16)] + [(2, 8), (2, 16)] + [(3, d) for d in (1, 2, 4, 8)] + [(4, 8), (4, 16), (6, 8), (6, 16)]
    sizes = [(33, 21), (13, 40), (50, 7), (1, 1), (3, 2)]
    for number, (color, depth) in enumerate(kinds):
        for interlaced in (0, 1):
            width, height = sizes[(number + interlaced) % 3]
            kind = f"c{color}d{depth}{'i' if interlaced else ''}"
            yield f"{kind}_{width}x{height}.png", png(width, height, color, depth, interlaced, number)
        if color in (0, 2, 3):
            yield f"c{color}d{depth}t_29x31.png", png(29, 31, color, depth, 0, number, transparency=True)
        yield f"c{color}d{depth}_tiny.png", png(*sizes[3 + number % 2], color, depth, 1, number)
    yield "short_palette_20x20.png", png(20, 20, 3, 8, 0, 70, colors=100)
    for number, (width, height) in enumerate([(1, 200), (200, 1), (97, 389), (384, 384), (224, 224), (224, 50), (385, 383), (37, 90)]):
        small = picture(width, height, 80 + number).quantize(60).convert("RGB")
        yield f"rgb_{width}x{height}.png", saved(small, "PNG", optimize=True)
    yield "extreme_1x10000.png", png(1, 10000, 2, 8, 0, 71)
    yield "extreme_10000x1.png", png(10000, 1, 0, 8, 0, 72)
    frames = [picture(40, 30, 90 + i, 4) for i in range(3)]
    yield "animated_40x30.png", saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    yield "animated_default_40x30.png", saved(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "orientation6_30x20.png", saved(picture(30, 20, 93), "PNG", exif=exif)
    whole = png(60, 50, 2, 8, 0, 73)
    yield "truncated.png", whole[: len(whole) // 2]
    yield "zero_size.png", whole[:16] + bytes(8) + whole[24:]
    ihdr = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    yield "huge_header.png", whole[:8] + chunk(b"IHDR", ihdr) + whole[33:]


# --- the others -----------------------------------------------------------------------------------------------------


def webps():
    for number, (width, height) in enumerate([(1, 1), (2, 2), (15, 16), (17, 33), (64, 47), (130, 99), (201, 150)]):
        for quality in (10, 75, 95):
            yield f"lossy_{width}x{height}_q{quality}.webp", saved(picture(width, height, 100 + number), "WEBP", quality=quality)
        yield f"alpha_{width}x{height}.webp", saved(picture(width, height, 110 + number, 4), "WEBP", quality=80)
        small = picture(width, height, 120 + number, 4 if number % 2 else 3)
        yield f"lossless_{width}x{height}.webp", saved(small, "WEBP", lossless=True, exact=True)
    frames = [picture(50, 40, 130 + i, 4) for i in range(3)]
    yield "animated_50x40.webp", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    opaque = [frame.convert("RGB") for frame in frames]
    yield "animated_lossless_50x40.webp", saved(opaque[0], "WEBP", save_all=True, append_images=opaque[1:], lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 8
    yield "orientation8_30x20.webp", saved(picture(30, 20, 134), "WEBP", exif=exif)
    yield "truncated.webp", saved(picture(64, 47, 135), "WEBP")[:600]


def gifs():
    for number, (width, height) in enumerate([(1, 1), (20, 31), (77, 60), (130, 45)]):
        image = picture(width, height, 140 + number)
        yield f"colors_{width}x{height}.gif", saved(image.quantize(64), "GIF", interlace=number % 2)
        yield f"gray_{width}x{height}.gif", saved(image.convert("L"), "GIF")
    yield "transparent_40x40.gif", saved(picture(40, 40, 145).quantize(32), "GIF", transparency=3)
    frames = [picture(45, 35, 146 + i).quantize(32) for i in range(3)]
    yield "animated_45x35.gif", saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    whole = saved(picture(40, 30, 150).quantize(32), "GIF")
    # A frame smaller than the screen, and one that reaches past it.
    at = whole.index(b"\x2c", 13 + 96)
    yield "smaller_frame_60x50.gif", whole[:6] + struct.pack("<HH", 60, 50) + whole[10 : at + 1] + struct.pack("<HH", 7, 9) + whole[at + 5 :]
    yield "larger_frame_40x30.gif", whole[:6] + struct.pack("<HH", 20, 20) + whole[10:]
    clear = saved(picture(40, 30, 151).quantize(32), "GIF", transparency=5)
    at = clear.index(b"\x2c", 13 + 96 + 8)
    yield "smaller_transparent_frame.gif", clear[:6] + struct.pack("<HH", 60, 50) + clear[10 : at + 1] + struct.pack("<HH", 3, 4) + clear[at + 5 :]
    yield "truncated.gif", whole[: len(whole) // 2]


def bmp16(width, height, seed, masks):
    """16 bits a pixel, with masks or without."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 1 << 16, (height, width)).astype("<u2")
    stride = (width * 2 + 3) // 4 * 4
    data = b"".join(row.tobytes().ljust(stride, b"\0") for row in rows)
    extra = struct.pack("<III", *masks) if masks else b""
    offset = 54 + len(extra)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 3 if masks else 0, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + head + extra + data


def bmp_rle(width, height, bits, seed):
    """Run-length coded: runs, literals of odd and even length, ends of lines, the end of the picture."""
    rng = np.random.default_rng(seed)
    data = b""
    for _ in range(height):
        x = 0
        while x < width - 4:
            count = int(rng.integers(4, min(12, width - x) + 1))
            values = rng.integers(0, 256, count).astype(np.uint8).tobytes()
            if rng.integers(0, 2):
                data += bytes([count, values[0]])
            else:
                if bits == 4:
                    # Of odd literals Pillow loses the last pixel.
                    count -= count % 2
                    values = values[: count // 2]
                data += bytes([0, count]) + values + bytes(len(values) % 2)
            x += count
        data += bytes([0, 0])
    data += bytes([0, 1])
    colors = rng.integers(0, 256, (1 << bits, 4)).astype(np.uint8).tobytes()
    offset = 54 + len(colors)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, {8: 1, 4: 2}[bits], len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + head + colors + data


def bmp32(image):
    """32 bits a pixel, red in the lowest byte."""
    data = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).convert("RGBA").tobytes()
    masks = struct.pack("<IIII", 0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    offset = 54 + 16 + 36 + 12
    head = struct.pack("<IiiHHIIiiII", 108, *image.size, 1, 32, 3, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + head + masks + bytes(48) + data


def bmps():
    image = picture(37, 29, 160)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"{mode.lower()}_37x29.bmp", saved(image.quantize(50) if mode == "P" else image.convert(mode), "BMP")
    yield "p4_37x29.bmp", saved(image.quantize(16), "BMP")
    yield "rgb_1x1.bmp", saved(picture(1, 1, 161), "BMP")
    yield "bits555_21x17.bmp", bmp16(21, 17, 162, None)
    yield "bits565_21x17.bmp", bmp16(21, 17, 163, (0xF800, 0x7E0, 0x1F))
    rgb = saved(image, "BMP")
    data, stride = rgb[54:], (37 * 3 + 3) // 4 * 4
    flipped = b"".join(data[i : i + stride] for i in range(len(data) - stride, -1, -stride))
    yield "top_down_37x29.bmp", rgb[:22] + struct.pack("<i", -29) + rgb[26:54] + flipped
    for bits in (8, 4):
        yield f"rle{bits}_33x14.bmp", bmp_rle(33, 14, bits, 164)
    yield "bit_fields32_37x29.bmp", bmp32(image)
    palette = image.quantize(16)
    colors = bytes(np.array(palette.getpalette("RGB"), np.uint8).reshape(-1, 3)[:16, ::-1])
    rows = [packed(row[None], 4)[1:].ljust(20, b"\0") for row in np.asarray(palette)[::-1]]
    head = struct.pack("<IHHHH", 12, 37, 29, 1, 4) + colors
    yield "os2_37x29.bmp", b"BM" + struct.pack("<IHHI", 14 + len(head) + 20 * 29, 0, 0, 14 + len(head)) + head + b"".join(rows)
    yield "truncated.bmp", rgb[: len(rgb) // 2]


def tiffs():
    image = picture(43, 31, 170)
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"):
            if mode == "I;16":
                converted = Image.fromarray((np.asarray(image.convert("L")).astype(np.uint16) * 5))
            elif mode in "IF":
                converted = Image.fromarray(np.asarray(image.convert("L")).astype("i4" if mode == "I" else "f4") * 2 - 100)
            else:
                converted = image.quantize(40) if mode == "P" else image.convert(mode)
            if compression in ("raw", "tiff_lzw") or mode in ("1", "RGB"):
                name = mode.replace(";", "").lower()
                yield f"{name}_{compression}_43x31.tif", saved(converted, "TIFF", compression=compression)
    yield "bits_group4_43x31.tif", saved(image.convert("1"), "TIFF", compression="group4")
    yield "bits_group3_43x31.tif", saved(image.convert("1"), "TIFF", compression="group3")
    yield "pages_43x31.tif", saved(image, "TIFF", save_all=True, append_images=[picture(20, 20, 171)])
    yield "predictor_43x31.tif", saved(image, "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
    yield "planar_43x31.tif", planar_tiff(image)
    yield "big_endian_43x31.tif", saved(image, "TIFF", big_endian=True)
    yield "white_is_zero_43x31.tif", saved(image.convert("L"), "TIFF", tiffinfo={262: 0})
    yield "white_is_zero_bits_43x31.tif", saved(image.convert("1"), "TIFF", tiffinfo={262: 0})
    yield "truncated.tif", saved(image, "TIFF")[:2000]


def planar_tiff(image):
    width, height = image.size
    planes = [plane.tobytes() for plane in image.split()]
    start = 8
    offsets = [start + i * width * height for i in range(3)]
    tables = start + 3 * width * height
    after = tables + 24 + 6
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, tables + 24), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 3, tables), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 3, tables + 12), (284, 3, 1, 2),
    ]
    ifd = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHI", tag, kind, count) + (struct.pack("<HH", value, 0) if kind == 3 and count == 1 else struct.pack("<I", value))
        for tag, kind, count, value in entries
    ) + bytes(4)
    lists = struct.pack("<3I", *offsets) + struct.pack("<3I", *[width * height] * 3) + struct.pack("<3H", 8, 8, 8)
    return b"II*\0" + struct.pack("<I", after) + b"".join(planes) + lists + ifd


def expected(data):
    """What Pillow makes of a file: sizes and pixels, or the error's name."""
    try:
        opened = Image.open(io.BytesIO(data))
        image = opened.convert("RGB")
    except Exception as error:
        return {"error": type(error).__name__}
    entry = {"format": opened.format, "size": list(image.size)}
    for way, (side, filter) in WAYS.items():
        pixels = np.asarray(image.resize((side, side), filter))
        places = [(0, 0), (side // 2, side // 3), (side - 1, side - 1)]
        entry[way] = {
            "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
            "pixels": [[y, x, *pixels[y, x].tolist()] for y, x in places],
        }
    if opened.getexif().get(0x0112, 1) != 1:
        # Turned upright first: an option, off by default.
        upright = ImageOps.exif_transpose(opened).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        entry["upright224"] = hashlib.sha256(upright.tobytes()).hexdigest()
    return entry


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--reference", type=pathlib.Path)
    arguments = parser.parse_args()
    assert PIL.__version__ == "11.3.0", f"Pillow must be 11.3.0, but is {PIL.__version__}"
    Image.MAX_IMAGE_PIXELS = 64 << 20
    arguments.folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for kind, makers in (("jpeg", jpegs), ("png", pngs), ("webp", webps), ("gif", gifs), ("bmp", bmps), ("tiff", tiffs)):
        for name, data in makers():
            assert f"{kind}/{name}" not in files, name
            files[f"{kind}/{name}"] = data
    if arguments.reference:
        for name in REFERENCE:
            files[f"reference/{name}"] = (arguments.reference / name).read_bytes()
    entries = {}
    for name, data in files.items():
        path = arguments.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        entries[name] = expected(data)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
    head = f'{{"pillow": {json.dumps(PIL.__version__)}, "images": {{\n'
    (arguments.folder / "expected.json").write_text(head + lines + "\n}}\n")
    total = sum(map(len, files.values()))
    print(f"{len(files)} files, {total} bytes, {sum('error' in entry for entry in entries.values())} of them errors")


if __name__ == "__main__":
    main()
