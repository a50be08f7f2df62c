"""Ask a served champion about images: needs nothing but Python.

MLFLOW_TRACKING_URI=... mlflow models serve --model-uri models:/tiles@champion --env-manager local --port 5001
python examples/ask_served_model.py http://127.0.0.1:5001 photo-1.png photo-2.png --heat-maps maps
"""

import argparse
import base64
import json
import urllib.request
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a served champion about images.")
    parser.add_argument("server", help="its address, such as http://127.0.0.1:5001")
    parser.add_argument("images", nargs="+", type=Path, help="image files")
    parser.add_argument("--heat-maps", type=Path, metavar="FOLDER", help="write where each image is odd, as PNG")
    arguments = parser.parse_args()
    rows = ask(arguments.server, [path.read_bytes() for path in arguments.images], bool(arguments.heat_maps))
    for path, row in zip(arguments.images, rows, strict=True):
        print(f"{path}: {in_words(row)}")
        if row.get("heat_map"):
            arguments.heat_maps.mkdir(parents=True, exist_ok=True)
            (arguments.heat_maps / f"{path.stem}.png").write_bytes(base64.b64decode(row["heat_map"]))


def ask(server: str, images: list[bytes], heat_maps: bool = False) -> list[dict[str, Any]]:
    """One row an image: score, threshold, flag, p_value, status, reason and, where wished, heat_map."""
    records = [{"image": base64.b64encode(image).decode()} for image in images]
    document = {"dataframe_records": records, "params": {"heat_map": heat_maps}}
    request = urllib.request.Request(
        f"{server.rstrip('/')}/invocations", json.dumps(document).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        rows: list[dict[str, Any]] = json.load(answer)["predictions"]
    return rows


def in_words(row: dict[str, Any]) -> str:
    """A row for people."""
    if row["status"] != "scored":
        return f"unreadable, {row['reason']}"
    flag = "FLAGGED" if row["flag"] else "nominal"
    return f"{flag}, score {row['score']:.4g} (threshold {row['threshold']:.4g}), p {row['p_value']:.3g}"


if __name__ == "__main__":
    main()
