"""Images as they are sent to a chat endpoint."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any, Literal

from mmsafe.data.example import ImageSource

ImageFormat = Literal["jpeg", "png"]
JPEG_QUALITY = 90


def image_part(image: ImageSource, image_format: ImageFormat, max_side: int | None = None) -> dict[str, Any]:
    """A content part with the image, decoded and encoded anew: nothing of the file but its pixels is sent.

    Its longer side is at most `max_side` pixels; None keeps its size.
    """
    pixels = image.load()
    if max_side is not None:
        pixels.thumbnail((max_side, max_side))
    encoded = BytesIO()
    pixels.save(encoded, image_format, quality=JPEG_QUALITY)
    data = base64.b64encode(encoded.getvalue()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/{image_format};base64,{data}"}}
