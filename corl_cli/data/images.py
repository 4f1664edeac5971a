"""Images as they are stored: checked, upright, 8 bits of RGB or grey, the file's own bytes where they will do."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from corl_cli.data.items import Unusable

if TYPE_CHECKING:
    from PIL.Image import Image

MISSING = "image missing"
UNREADABLE = "image unreadable"
TRUNCATED = "image truncated"
TOO_LARGE = "image too large"
TOO_SMALL = "image too small"
SEVERAL_FRAMES = "image with several frames"
REASONS = (MISSING, UNREADABLE, TRUNCATED, TOO_LARGE, TOO_SMALL, SEVERAL_FRAMES)

MAX_BYTES = 1 << 28  # of a file
MAX_PIXELS = 1 << 26  # by its header, 8192 x 8192; decoded that is 192 MiB
MIN_SIDE = 2  # pixels; a perceptual hash of less says nothing
JPEG_QUALITY = 95  # of photographs that are encoded anew, with full colour resolution

# None of them runs a program to decode, as EPS does.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_PHOTOGRAPHS = frozenset(("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000"))  # formats that usually lose detail
_STORED_AS_IS = frozenset(("JPEG", "PNG"))
_ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image to store: `data` is an encoded file, `as_is` whether it is the source's own, byte for byte.

    `digest` is a hash of the source's file and `phash` the perceptual hash of what is stored (a DCT of 32 x 32 grey
    pixels, 64 bits), both as 16 hexadecimal digits.
    """

    data: bytes
    as_is: bool
    width: int
    height: int
    digest: str
    phash: str


def read(source: Path | bytes) -> Picture:
    """The image of a file, or of its bytes, decoded in full; Unusable with the reason when it cannot be stored.

    JPEG and PNG in RGB or grey stay as they are. Anything else is made so: turned as its EXIF says, laid on white where
    it is transparent, 16 bits scaled to 8, CMYK to RGB; photographs as JPEG (quality 95, 4:4:4), the rest as PNG.
    """
    import imagehash
    from PIL import Image

    data = _bytes(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a million files would each say what is wrong with their metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        opened = _open(data)
        kind = opened.format
        picture, upright = _decode(opened)
    plain = _plain(picture)
    as_is = plain is picture and upright and kind in _STORED_AS_IS
    return Picture(
        data=data if as_is else _encode(plain, photograph=kind in _PHOTOGRAPHS),
        as_is=as_is,
        width=plain.width,
        height=plain.height,
        digest=blake2b(data, digest_size=8).hexdigest(),
        phash=str(imagehash.phash(plain)),
    )


def _bytes(source: Path | bytes) -> bytes:
    """The file's bytes; only plain files are read, and none larger than MAX_BYTES."""
    if isinstance(source, Path):
        try:
            if not source.exists():
                raise Unusable(MISSING)
            if not source.is_file():
                raise Unusable(UNREADABLE)
            if source.stat().st_size > MAX_BYTES:
                raise Unusable(TOO_LARGE)
            source = source.read_bytes()
        except (OSError, ValueError) as error:  # a name too long or with a null character is a ValueError
            raise Unusable(UNREADABLE) from error
    if not source:
        raise Unusable(MISSING)
    if len(source) > MAX_BYTES:
        raise Unusable(TOO_LARGE)
    return source


def _open(data: bytes) -> Image:
    """The image behind a header that was judged before anything is decoded."""
    from PIL import Image

    try:
        opened = Image.open(BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise Unusable(TOO_LARGE) from error
    except Exception as error:  # a decoder may raise anything on bytes that are no image
        raise _undecodable(error) from error
    if opened.width * opened.height > MAX_PIXELS:
        raise Unusable(TOO_LARGE)
    if min(opened.size) < MIN_SIDE:
        raise Unusable(TOO_SMALL)
    return opened


def _decode(opened: Image) -> tuple[Image, bool]:
    """The image with all pixels in memory, upright, and whether it was so by itself."""
    from PIL import ImageOps

    try:
        if getattr(opened, "is_animated", False) and opened.format != "MPO":  # a camera's MPO begins with the photo
            raise Unusable(SEVERAL_FRAMES)
        opened.load()
        turned = opened.getexif().get(_ORIENTATION, 1) != 1
        ImageOps.exif_transpose(opened, in_place=True)
    except Unusable:
        raise
    except Exception as error:
        raise _undecodable(error) from error
    return opened, not turned


def _undecodable(error: Exception) -> Unusable:
    return Unusable(TRUNCATED if "truncated" in str(error).lower() else UNREADABLE)


def _plain(picture: Image) -> Image:
    """RGB or grey of 8 bits without transparency; the same object when it already is."""
    from PIL import Image

    if picture.mode in ("RGB", "L") and "transparency" not in picture.info:
        return picture
    try:
        if picture.mode.startswith(("I", "F")):
            return Image.fromarray(_eight_bits(np.asarray(picture)))
        if picture.has_transparency_data:
            layer = picture.convert("RGBA")
            ground = Image.new("RGBA", layer.size, "white")
            return Image.alpha_composite(ground, layer).convert("RGB")
        return picture.convert("RGB")
    except Unusable:
        raise
    except Exception as error:
        raise Unusable(UNREADABLE) from error


def _eight_bits(levels: np.ndarray) -> np.ndarray:
    """Grey of 16 bits scaled to 8, rounded; Unusable where levels have no known scale (floats, more than 16 bits)."""
    if levels.dtype.kind == "f" or levels.min() < 0 or levels.max() > 0xFFFF:
        raise Unusable(UNREADABLE)
    return ((levels.astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)


def _encode(picture: Image, *, photograph: bool) -> bytes:
    """The encoded image without anything besides pixels, so that equal pixels give equal bytes."""
    picture.info.clear()
    file = BytesIO()
    if photograph:
        picture.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        picture.save(file, "PNG")
    return file.getvalue()
