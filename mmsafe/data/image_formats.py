"""What stands in place of an image, or of a file, that can be read, in the words of a message."""

from __future__ import annotations

import re
from pathlib import Path

from mmsafe.core.errors import UserError

HEAD = 512
"""Bytes at the beginning of a file that tell what it is."""
AGAIN = "get the image again"
CONVERT = "convert it to PNG or JPEG"
FORMATS = {
    r"\s*$": f"an empty file; {AGAIN}",
    r"version https://git-lfs": "a Git LFS pointer to it; run `git lfs pull` in that repository, or download the file",
    r".{4}ftyp.{0,40}avi[fs]": f"AVIF, damaged or of a kind that is not supported; get it again, or {CONVERT}",
    r".{4}ftyp(hei|hev|mif1|msf1)": f"HEIC, as phones write photographs; {CONVERT}",
    r".{4}ftyp": "a video; save one picture of it as PNG or JPEG",
    r"\xff\x0a|\0\0\0\x0cJXL ": f"JPEG XL; {CONVERT}",
    r"%!PS|\xc5\xd0\xd3\xc6": "EPS, a program that Ghostscript would have to run; save the picture in it as PNG",
    r"%PDF": "PDF; save the picture in it as PNG or JPEG",
    r"PK\x03\x04|\x1f\x8b|7z\xbc|Rar!": "an archive; unpack it",
    r"(\xef\xbb\xbf)?(\s|<[?!][^>]*>)*<svg": f"SVG, a drawing without pixels; {CONVERT}",
    r"(\xef\xbb\xbf)?\s*<[a-z?!]": f"a web page, or what else a server said in place of it; {AGAIN}",
    r"data:image|[a-z0-9+/\r\n]{64,}=*\s*$": "base64 text; decode it",
    r"[\t\n\r -~]+$": f"text, such as the error message of a server; {AGAIN}",
}
"""How what is often saved under an image's name begins, and what it is."""
KNOWN = [(re.compile(begin.encode("latin-1"), re.DOTALL | re.IGNORECASE), what) for begin, what in FORMATS.items()]
LONGEST_NAME = 255
POINTER = b"version https://git-lfs"
BASE64 = re.compile(r"(?=[^A-Z]*[A-Z])(?=[^a-z]*[a-z])(?=[^0-9+/]*[0-9+/])[A-Za-z0-9+/\r\n]+=*\s*")
BYTES = "write it into a file and name that, or its bytes into a parquet column"


def refuse_pointer(file: Path) -> None:
    """Raise `UserError` if it is what Git LFS puts in place of any large file."""
    if file.is_file():
        with file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                raise UserError(f"{file}: is a Git LFS pointer, not the file itself: run `git lfs pull` beside it")


def what_it_is(head: bytes) -> str | None:
    """What a file is that begins so, and what to do about it; None where that is not known."""
    return next((what for begin, what in KNOWN if begin.match(head)), None)


def no_name(text: str) -> str | None:
    """What stands in place of an image's name, and what to do about it; None for what can be a name."""
    if text.startswith("data:image/"):
        return f"is the image itself, as a data URI; {BYTES}"
    if len(text) > LONGEST_NAME and BASE64.fullmatch(text):
        return f"is the image itself, as base64 text; {BYTES}"
    return None
