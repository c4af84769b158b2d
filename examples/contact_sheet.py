"""Put the images of a data set on one sheet: ``python examples/contact_sheet.py OUTPUT SHEET.png``."""

import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLUMNS, SIDE_PX, GAP_PX = 12, 64, 4

output, sheet_path = Path(sys.argv[1]), sys.argv[2]
parts = [pq.read_table(path, columns=["key", "image"]) for path in sorted(output.glob("data/*.parquet"))]
images = pa.concat_tables(parts).sort_by("key")["image"].to_pylist()
rows = -(-len(images) // COLUMNS)
pitch = SIDE_PX + GAP_PX
sheet = Image.new("RGB", (COLUMNS * pitch - GAP_PX, rows * pitch - GAP_PX), "white")
for number, image in enumerate(images):
    tile = Image.open(io.BytesIO(image["bytes"])).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    sheet.paste(tile, (number % COLUMNS * pitch, number // COLUMNS * pitch))
sheet.save(sheet_path, optimize=True)
