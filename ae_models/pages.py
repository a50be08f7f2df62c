"""Pages that need no network: a template of this package with its data inside, and pictures as addresses.

Whatever names hold is shown as text: a page gets them as data, and writes them as text.
"""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

PARTS = {  # that pages share: what they may load; colours, light and dark, and type; how data becomes text and shapes
    "__HEAD__": Path(__file__).with_name("page_head.html"),
    "__STYLE__": Path(__file__).with_name("page.css"),
    "__SCRIPT__": Path(__file__).with_name("page.js"),
}
EXACT = 64  # pixels of the long side up to which every pixel is kept as it is
QUALITY = 75  # of larger pictures, as JPEG


def page(template: Path, data: Mapping[str, Any]) -> str:
    """The template with the shared parts in it, and `data` as JSON in place of `__DATA__`."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    html = template.read_text(encoding="utf-8")
    for name, path in PARTS.items():
        html = html.replace(name, path.read_text(encoding="utf-8"))
    return html.replace("__DATA__", text.replace("<", "\\u003c"))  # so that no name ends the script element


def picture_address(picture: Image.Image, longest: int) -> str:
    """The picture as a data address, made smaller where its long side has more than `longest` pixels."""
    if max(picture.size) > longest:
        picture = picture.copy()
        picture.thumbnail((longest, longest), Image.Resampling.BOX)
    file, exact = io.BytesIO(), max(picture.size) <= EXACT
    picture.save(file, "PNG", optimize=True) if exact else picture.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"
