"""Draw object_prints.png: each object of objects.json in Noto Color Emoji, 32 x 32 on white, 16 a row.

Needs Debian's fonts-noto-color-emoji: python tests/data/make_object_prints.py
"""

import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
HERE = Path(__file__).parent
SIDE, COLUMNS = 32, 16


def draw(font: ImageFont.FreeTypeFont, emoji: str) -> Image.Image:
    """Draw one emoji as the embedded models were shown it: 60 of 64 pixels wide, on white."""
    canvas = Image.new("RGBA", (160, 160), (255, 255, 255, 0))
    pen = ImageDraw.Draw(canvas)
    left, top, right, bottom = pen.textbbox((0, 0), emoji, font=font, embedded_color=True)
    pen.text((80 - (left + right) / 2, 80 - (top + bottom) / 2), emoji, font=font, embedded_color=True)
    glyph = canvas.crop((12, 12, 148, 148)).resize((60, 60), Image.Resampling.LANCZOS)
    page = Image.new("RGBA", (64, 64), "white")
    page.alpha_composite(glyph, (2, 2))
    return page.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)


def main() -> None:
    """Write the sheet beside this file."""
    objects = json.loads((HERE / "objects.json").read_text(encoding="utf-8"))
    font = ImageFont.truetype(FONT, 109)
    sheet = Image.new("RGB", (COLUMNS * SIDE, -(-len(objects) // COLUMNS) * SIDE), "white")
    for index, item in enumerate(objects):
        sheet.paste(draw(font, item["emoji"]), (index % COLUMNS * SIDE, index // COLUMNS * SIDE))
    sheet.save(HERE / "object_prints.png", optimize=True)


if __name__ == "__main__":
    main()
