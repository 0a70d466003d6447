# check_images.py - pictures of every kind through examples/vision/pictures.c: pixels, damage, and a run of distill_vision.
# SPDX-License-Identifier: MIT
#
#     check_images.py FOLDER DECODER SANITIZED PROGRAM
#
# PNGs are written here, chunk by chunk, so that the right pixels are known without a decoder, and read by Pillow as well; JPEGs are
# written and read by Pillow, whose libjpeg-turbo must give the same numbers.
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
from PIL import Image

warnings.simplefilter("ignore")   # Pillow on palettes with transparency
folder, decoder, sanitized, program = sys.argv[1:5]
rng = np.random.default_rng(8)
counts = {"passed": 0, "failed": 0}


def result(name, good, more=""):
    counts["passed" if good else "failed"] += 1
    print(f"{'ok' if good else 'FAILED':8} {name}{': ' + str(more) if more != '' else ''}", flush=True)


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return done.returncode, done.stdout.strip()


def pixels(path):
    """What the decoder reads; text where it refuses."""
    status, text = run(decoder, "pixels", path, path + ".rgb")
    if status:
        return text
    height, width = map(int, text.split())
    return np.fromfile(path + ".rgb", np.uint8).reshape(height, width, 3)


# ---- PNG, as its specification says ------------------------------------------------------------------------------------------
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def filtered(rows, step):
    """Each row with a filter of its own, of the five by turns."""
    out, above = b"", np.zeros(len(rows[0]), int)
    for y, row in enumerate(rows):
        row = np.frombuffer(row, np.uint8).astype(int)
        left = np.concatenate([np.zeros(step, int), row])[: len(row)]
        corner = np.concatenate([np.zeros(step, int), above])[: len(row)]
        p = left + above - corner
        a, b, c = abs(p - left), abs(p - above), abs(p - corner)
        paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, above, corner))
        guess = [0, left, above, (left + above) // 2, paeth][y % 5]
        out += bytes([y % 5]) + ((row - guess) % 256).astype(np.uint8).tobytes()
        above = row
    return out


ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def png(samples, kind, depth, interlaced=False, extra=b""):
    """samples [height, width, channels] below 2^depth."""
    height, width, channels = samples.shape
    data = b""
    for y, x, down, right in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        part = samples[y::down, x::right]
        if not part.size:
            continue
        if depth == 16:
            rows = [r.astype(">u2").tobytes() for r in part]
        elif depth == 8:
            rows = [r.astype(np.uint8).tobytes() for r in part]
        else:
            bits = (part.reshape(len(part), -1, 1) >> np.arange(depth - 1, -1, -1)) & 1
            rows = [np.packbits(r.reshape(-1).astype(np.uint8)).tobytes() for r in bits]
        data += filtered(rows, max(1, channels * depth // 8))
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    packed = zlib.compress(data)
    half = len(packed) // 2
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", packed[:half]) + chunk(b"IDAT", packed[half:]) +
            chunk(b"tEXt", b"Title\0by hand") + chunk(b"IEND", b""))


def write(name, data):
    path = f"{folder}/{name}"
    with open(path, "wb") as f:
        f.write(data)
    return path


def eight(samples, depth):
    """As 8 bits: few bits stretched, 16 rounded."""
    return ((samples.astype(np.int64) * 255 + (2**depth - 1) // 2) // (2**depth - 1)).astype(np.uint8)


damaged = []
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
for kind, depths in ((GREY, (1, 2, 4, 8, 16)), (RGB, (8, 16)), (PALETTE, (1, 2, 4, 8)), (GREY_ALPHA, (8, 16)), (RGBA, (8, 16))):
    for depth in depths:
        for interlaced in (False, True):
            for height, width in ((1, 1), (13, 19), (33, 8)):
                samples = rng.integers(0, 2**depth, (height, width, CHANNELS[kind]))
                extra, palette = b"", None
                if kind == PALETTE:
                    palette = rng.integers(0, 256, (2**depth, 3)).astype(np.uint8)
                    extra = chunk(b"PLTE", palette.tobytes()) + chunk(b"tRNS", bytes([0, 128]))
                    want = palette[samples[..., 0]]
                else:
                    colours = samples if CHANNELS[kind] % 2 else samples[..., :-1]
                    want = np.broadcast_to(eight(colours, depth), (height, width, 3))
                if kind == RGB and depth == 8:
                    extra = chunk(b"tRNS", struct.pack(">HHH", *samples[0, 0]))
                name = f"png-{kind}-{depth}-{int(interlaced)}-{height}x{width}.png"
                path = write(name, png(samples, kind, depth, interlaced, extra))
                got = pixels(path)
                result(name, isinstance(got, np.ndarray) and np.array_equal(got, want), got if isinstance(got, str) else "")
                if depth <= 8:
                    same = np.array_equal(np.asarray(Image.open(path).convert("RGB")), want)
                    result(name + " beside Pillow", same)
                if height == 13:
                    damaged.append(path)

# ---- JPEG ----------------------------------------------------------------------------------------------------------------------
photo = np.clip(rng.normal(128, 20, (61, 47, 3)) + 80 * np.sin(np.arange(61) / 9)[:, None, None] * np.array([1, .5, -1]), 0, 255)
photo = Image.fromarray(photo.astype(np.uint8))
for name, image, how in (
    ("444", photo, dict(quality=95, subsampling=0)), ("422", photo, dict(quality=80, subsampling=1)),
    ("420", photo, dict(quality=80, subsampling=2)), ("low", photo, dict(quality=5)), ("progressive", photo, dict(progressive=True)),
    ("restarts", photo, dict(restart_marker_blocks=2)), ("grey", photo.convert("L"), dict(quality=90)),
    ("rgb", photo, dict(keep_rgb=True, subsampling=0)), ("dot", photo.crop((0, 0, 1, 1)), dict()),
    ("line", photo.crop((0, 0, 47, 1)), dict()),
    ("exif", photo, dict(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")),
):
    path = f"{folder}/{name}.jpg"
    image.save(path, "JPEG", **how)
    got, want = pixels(path), np.asarray(Image.open(path).convert("RGB"))
    if isinstance(got, str) or got.shape != want.shape:
        result(f"{name}.jpg", False, got)
    else:
        result(f"{name}.jpg beside Pillow", np.array_equal(got, want), f"at most {abs(got.astype(int) - want).max()} apart")
    if image.size[0] > 1:
        damaged.append(path)

# ---- what must be refused, with a name and a place -------------------------------------------------------------------------------
small = png(rng.integers(0, 256, (4, 5, 3)), RGB, 8)
photo.convert("CMYK").save(f"{folder}/cmyk.jpg")
jpeg = open(f"{folder}/420.jpg", "rb").read()
frame = jpeg.index(b"\xff\xc0")


def head(width, height, depth=8, kind=RGB):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))


for name, data, says in (
    ("crc.png", small[:30] + bytes([small[30] ^ 1]) + small[31:], "CRC error"),
    ("wide.png", head(65536, 1) + small[33:], "Invalid IHDR"),
    ("large.png", head(65535, 65535) + small[33:], "more than 67108864 pixels"),
    ("nothing.png", head(0, 5) + small[33:], "Invalid IHDR"),
    ("depth.png", head(4, 5, 3) + small[33:], "Invalid IHDR"),
    ("more-rows.png", head(5, 40) + small[33:], "Not enough image data"),
    ("large.jpg", jpeg[:frame + 5] + b"\xff\x00\xff\x00" + jpeg[frame + 9:], "more than 67108864 pixels"),
    ("nothing.jpg", jpeg[:frame + 5] + b"\0\0\0\0" + jpeg[frame + 9:], "Empty JPEG image"),
    ("no-tables.jpg", jpeg[:2] + jpeg[frame:], "Quantization table 0x00 was not defined"),
    ("cmyk.jpg", None, "CMYK"),
):
    path = f"{folder}/{name}" if data is None else write(name, data)
    got = pixels(path)
    form = rf"{re.escape(path)}: (PNG|JPEG), byte [0-9]+: .*{re.escape(says)}"
    result(name, isinstance(got, str) and re.match(form, got, re.I) is not None, got)
for name, data in (("text.png", b"no picture at all\n"), ("empty.jpg", b""), ("photo.ppm", b"P6\n1 1\n255\nabc")):
    result(f"{name} is passed on", pixels(write(name, data)) == "no picture")

# ---- damage: with the address sanitizer's eyes --------------------------------------------------------------------------------------
for path in damaged:
    name, size, is_png = os.path.basename(path), os.path.getsize(path), path.endswith(".png")
    status, text = run(sanitized, "cut", path)
    ways = text.split()[-3:]
    known = 8 if is_png else 3
    result(f"{name}: {size} beginnings refused", status == 0 and ways == [str(size - known), str(known), "0"], text)
    status, text = run(sanitized, "flip", path)
    ways = text.split()[-4:]
    # PNG has check sums: never other pixels; JPEG has none
    result(f"{name}: {2 * size} wrong bytes", status == 0 and len(ways) == 4 and (ways[3] == "0" or not is_png), text)

# ---- the same pixels make the same run ------------------------------------------------------------------------------------------------
for part, images in (("train", 8), ("test", 3)):
    for c, label in enumerate(("ant", "bee")):
        for form in ("png", "jpg", "of-png", "of-jpg", "cut"):
            os.makedirs(f"{folder}/{form}/{part}/{label}", exist_ok=True)
        for i in range(images):
            size = tuple(rng.integers(20, 50, 2))
            image = Image.fromarray(np.clip(rng.normal(90 + 60 * c, 30, size + (3,)), 0, 255).astype(np.uint8))
            for form in ("png", "jpg"):
                path = f"{folder}/{form}/{part}/{label}/{i}.{form}"
                image.save(path)
                Image.open(path).convert("RGB").save(f"{folder}/of-{form}/{part}/{label}/{i}.ppm")
            with open(f"{folder}/cut/{part}/{label}/{i}.jpg", "wb") as f:
                data = open(f"{folder}/jpg/{part}/{label}/{i}.jpg", "rb").read()
                f.write(data[: len(data) * 2 // 3] if (part, c, i) == ("test", 1, 2) else data)


def train(form):
    status, text = run(program, "--data", f"folder:{folder}/{form}", "--side", "32", "--student", "resnet8", "--set", "epochs=1", "--set",
                       "batch=8", "--threads", "1", "--time", "0", "--out", f"{folder}/run-{form}")
    return status, (re.findall(r"weights ([0-9a-f]{16})", text) or [text])[0]


for form in ("png", "jpg"):
    one, two = train(form), train("of-" + form)
    result(f"distill_vision on {form} and on PPM of the same pixels: equal weights", one == two and one[0] == 0, one[1])
status, text = train("cut")
result("distill_vision names a cut file and writes nothing",
       status == 1 and "cut/test/bee/2.jpg: JPEG, byte " in text and not os.path.exists(f"{folder}/run-cut"), text)
print(f"{counts['passed']} passed, {counts['failed']} failed, 0 skipped")
sys.exit(counts["failed"] > 0)
