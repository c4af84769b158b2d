"""Tables of generated rows for the tests of what is made of them."""

import datetime
import decimal
import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.part_schema import part_schema
from zimage_models.image_files.image_codec import Encoding, encode_image

# One column of each kind that a catalogue may hold, with a value; the second row has nulls.
CATALOGUE: dict[str, tuple[pa.DataType, Any]] = {
    "brand": (pa.string(), '苹果 "A" <b>'),
    "price": (pa.decimal128(10, 2), decimal.Decimal("12.50")),
    "weight": (pa.float32(), 1.5),
    "stock": (pa.uint16(), 60_000),
    "on_sale": (pa.bool_(), True),
    "listed": (pa.date32(), datetime.date(2026, 2, 28)),
    "updated": (
        pa.timestamp("us", "UTC"),
        datetime.datetime(2026, 1, 2, 3, 4, 5, 678, datetime.UTC),
    ),
    "opens": (pa.time64("us"), datetime.time(9, 30)),
    "lead_time": (pa.duration("s"), datetime.timedelta(hours=36)),
    "barcode": (pa.binary(), b"\x00\xffab"),
    "category": (pa.dictionary(pa.int32(), pa.string()), "fruit"),
    "tags": (pa.list_(pa.string()), ["red", "round"]),
    "box_cm": (pa.list_(pa.float64(), 3), [1.0, 2.5, 3.0]),
    "maker": (
        pa.struct([("name", pa.string()), ("sites", pa.list_(pa.struct([("city", pa.string())])))]),
        {"name": "Orchard", "sites": [{"city": "Kent"}, {"city": None}]},
    ),
    "remark": (pa.null(), None),
}


def make_image(row: int, image_format: str = "png") -> bytes:
    """Encode a small image that differs by row."""
    pixels = np.full((16, 24, 3), (40 * row) % 256, dtype=np.uint8)
    return encode_image(pixels, Encoding(format=image_format), parameters={"seed": row})


def make_table(num_rows: int = 2, *, image_format: str = "png", catalogue: bool = False) -> pa.Table:
    """Build a part's rows, with every catalogue column if asked."""
    names = CATALOGUE if catalogue else {}
    schema = part_schema(pa.schema([(name, dtype) for name, (dtype, _) in names.items()]))
    rows = []
    for row in range(num_rows):
        image = make_image(row, image_format)
        rows.append(
            {
                "unit_id": hashlib.sha256(str(row).encode()).hexdigest()[:32],
                "key": f"sku/{row}.a",
                "variant": row % 2,
                "image": {"bytes": image, "path": f"sku/{row}.a_00.{image_format}"},
                "prompt": f"a red apple 苹果 {row}",
                "negative_prompt": "",
                "width": 24,
                "height": 16,
                "num_inference_steps": 8,
                "guidance_scale": 0.0,
                "cfg_normalization": 0.0,
                "cfg_truncation": 1.0,
                "seed": 2**53 - 1 - row,
                "prompt_truncated": False,
                "model": "tiny-zimage-turbo",
                "weights_sha256": "ab" * 32,
                "image_sha256": hashlib.sha256(image).hexdigest(),
                "row_digest": f"{row:032x}",
                **{name: None if row % 2 else value for name, (_, value) in names.items()},
            }
        )
    return pa.Table.from_pylist(rows, schema=schema)
