import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from corl_cli.data.images import MAX_PIXELS, REASONS, Picture, read
from corl_cli.data.items import Unusable

ORIENTATION = 0x0112  # the EXIF tag; 6: the camera was held a quarter turn to the right


def gradient(mode: str = "RGB", size: tuple[int, int] = (48, 32)) -> Image.Image:
    """Red grows to the right, green downwards."""
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([across, down, 0 * down], -1).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(picture.data)).convert("RGB")).astype(int)


def reason(source: Path | bytes) -> str:
    with pytest.raises(Unusable) as caught:
        read(source)
    assert str(caught.value) in REASONS
    return str(caught.value)


def png_header(width: int, height: int) -> bytes:
    """A PNG of any size in less than a hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_files_are_stored_byte_for_byte(kind: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(encoded(gradient(mode), kind))
    picture = read(path)
    assert picture == read(path.read_bytes())
    assert picture.as_is
    assert picture.data == path.read_bytes()
    assert (picture.width, picture.height) == (48, 32)
    assert len(picture.digest) == len(picture.phash) == 16
    int(picture.phash, 16)


@pytest.mark.parametrize(
    ("kind", "mode", "stored"),
    [("WEBP", "RGB", "JPEG"), ("JPEG", "CMYK", "JPEG"), ("BMP", "RGB", "PNG"), ("TIFF", "RGB", "PNG")],
)
def test_other_files_are_stored_anew_with_the_same_look(kind: str, mode: str, stored: str) -> None:
    source = gradient().convert(mode)
    picture = read(encoded(source, kind))
    result = Image.open(BytesIO(picture.data))
    assert not picture.as_is
    assert (result.format, result.mode) == (stored, "RGB")
    assert np.abs(pixels(picture) - np.asarray(gradient()).astype(int)).mean() < 4
    assert picture == read(encoded(source, kind))


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_palettes_become_colours(kind: str) -> None:
    picture = read(encoded(Image.new("RGB", (8, 8), (200, 10, 30)).quantize(4), kind))
    assert pixels(picture)[0, 0].tolist() == [200, 10, 30]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    layer = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
    layer.paste((0, 0, 0, 0), (0, 0, 4, 8))
    if mode == "P":
        source = Image.new("P", (8, 8), 1)
        source.putpalette([9, 9, 9, 0, 0, 0])
        source.paste(0, (0, 0, 4, 8))
        data = encoded(source, "PNG", transparency=0)
    else:
        data = encoded(layer.convert(mode), "PNG")
    found = pixels(read(data))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[0, 7].tolist() == [0, 0, 0]


def test_half_transparent_black_is_grey() -> None:
    found = pixels(read(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG")))
    assert found[0, 0].tolist() == [127, 127, 127]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    levels = np.array([[0, 255, 256, 32768, 65280, 65535]] * 2, dtype=np.uint16)
    picture = read(encoded(Image.fromarray(levels), kind))
    assert pixels(picture)[0, :, 0].tolist() == [0, 1, 1, 128, 254, 255]  # level / 257, rounded


def test_levels_without_a_scale_are_refused() -> None:
    assert reason(encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")) == "image unreadable"
    assert reason(encoded(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF")) == "image unreadable"


def test_pictures_are_turned_as_the_camera_was_held() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture = read(encoded(gradient(), "JPEG", exif=exif, quality=95))
    result = Image.open(BytesIO(picture.data))
    assert (picture.width, picture.height) == result.size == (32, 48)
    assert ORIENTATION not in result.getexif()
    expected = np.asarray(gradient().transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(pixels(picture) - expected).mean() < 8
    exif[ORIENTATION] = 1
    assert read(encoded(gradient(), "JPEG", exif=exif)).as_is


def test_bombs_are_refused_by_their_header() -> None:
    assert reason(png_header(30_000, 30_000)) == "image too large"
    assert reason(png_header(9_500, 9_500)) == "image too large"  # where Pillow only warns
    assert reason(png_header(MAX_PIXELS // 8192 + 1, 8192)) == "image too large"


def test_specks_are_refused() -> None:
    assert reason(encoded(gradient(size=(1, 1)), "PNG")) == "image too small"
    assert reason(encoded(gradient(size=(40, 1)), "PNG")) == "image too small"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_no_image(kind: str) -> None:
    frames = [gradient().rotate(90 * turn) for turn in range(3)]
    assert reason(encoded(frames[0], kind, save_all=True, append_images=frames[1:])) == "image with several frames"


def test_a_phone_file_with_a_preview_is_its_photograph() -> None:
    assert read(encoded(gradient(), "MPO", save_all=True, append_images=[gradient("L")])).width == 48


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_cut_files_are_truncated(kind: str) -> None:
    data = encoded(gradient(), kind)
    assert reason(data[: len(data) // 2]) == "image truncated"


@pytest.mark.parametrize("data", [b"PK\x03\x04" + bytes(200), b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0"])
def test_what_is_no_image_is_unreadable(data: bytes) -> None:
    assert reason(data) == "image unreadable"


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert reason(tmp_path) == "image unreadable"
    assert reason(Path("/dev/zero")) == "image unreadable"
    assert reason(tmp_path / "nowhere.png") == "image missing"
    assert reason(tmp_path / "empty.png") == "image missing"
    assert reason(b"") == "image missing"


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(1 << 32)  # a hole, no bytes on disk
    assert reason(path) == "image too large"


def test_photographs_and_what_looks_like_them() -> None:
    folder = Path(pytest.importorskip("skimage").__file__).parent / "data"
    coffee = Image.open(folder / "coffee.png").convert("RGB")
    original = read(folder / "coffee.png")
    smaller = read(encoded(coffee.resize((300, 200)), "JPEG", quality=60))
    other = read(folder / "rocket.jpg")
    assert (original.as_is, original.width, original.height) == (True, 600, 400)
    assert _distance(original, smaller) <= 4
    assert _distance(original, other) > 16
    assert len({picture.digest for picture in (original, smaller, other)}) == 3


def _distance(one: Picture, other: Picture) -> int:
    return (int(one.phash, 16) ^ int(other.phash, 16)).bit_count()


@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]), st.data())
def test_damaged_files_are_read_or_dropped_by_a_known_reason(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(encoded(gradient(size=(12, 9)), kind))
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=6)):
        damaged[place] = data.draw(st.integers(0, 255))
    outcome = "read"
    try:
        read(bytes(damaged))
    except Unusable as fault:
        outcome = str(fault)
    assert outcome in ("read", *REASONS)
