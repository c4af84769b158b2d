"""Draw object_cutouts.png: each object of objects.json in Noto Color Emoji, 64 x 64, transparent, 16 a row.

Needs Debian's fonts-noto-color-emoji: python tests/data/make_object_cutouts.py
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
HERE = Path(__file__).parent
SIDE, COLUMNS = 64, 16


def draw(font: ImageFont.FreeTypeFont, emoji: str) -> Image.Image:
    """Draw one emoji as the embedded models were shown it: 60 of 64 pixels wide."""
    canvas = Image.new("RGBA", (160, 160), (255, 255, 255, 0))
    pen = ImageDraw.Draw(canvas)
    left, top, right, bottom = pen.textbbox((0, 0), emoji, font=font, embedded_color=True)
    pen.text((80 - (left + right) / 2, 80 - (top + bottom) / 2), emoji, font=font, embedded_color=True)
    return canvas.crop((12, 12, 148, 148)).resize((60, 60), Image.Resampling.LANCZOS)


def main() -> None:
    """Write the sheet beside this file."""
    objects = json.loads((HERE / "objects.json").read_text(encoding="utf-8"))
    font = ImageFont.truetype(FONT, 109)
    sheet = Image.new("RGBA", (COLUMNS * SIDE, -(-len(objects) // COLUMNS) * SIDE))
    for index, item in enumerate(objects):
        sheet.paste(draw(font, item["emoji"]), (index % COLUMNS * SIDE + 2, index // COLUMNS * SIDE + 2))
    pixels = np.array(sheet)
    pixels[pixels[:, :, 3] == 0] = 0
    Image.fromarray(pixels).save(HERE / "object_cutouts.png", optimize=True)


if __name__ == "__main__":
    main()
