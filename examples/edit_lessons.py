"""Training data of the tiny Edit: pairs of pictures with instructions, drawn from the objects of tests/data.

A pair is a picture and the same picture with one change: another background, grey, mirrored or larger. Half
of the edits that tests/zimage_models/engine/test_embedded_edit.py asks for are never shown (``is_held_out``).

Shape legend: B batch, N images of an item, C channels, H height, W width.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ZImageOmniPipeline
from PIL import Image

DATA = Path(__file__).parents[1] / "tests/data"
COLOURS = {
    "red": ("红色", (220, 60, 50)),
    "orange": ("橙色", (245, 160, 50)),
    "yellow": ("黄色", (250, 225, 90)),
    "green": ("绿色", (90, 190, 90)),
    "blue": ("蓝色", (70, 130, 220)),
    "purple": ("紫色", (150, 90, 200)),
    "pink": ("粉色", (250, 170, 200)),
    "black": ("黑色", (25, 25, 30)),
    "gray": ("灰色", (150, 150, 150)),
    "white": ("白色", (255, 255, 255)),
}
"""The backgrounds that Base knows: English name, Chinese name, RGB."""
NAMES = [(en, zh) for en, (zh, _) in COLOURS.items()]
TEST_COLOURS = ("red", "yellow", "green", "blue")
BACKGROUND = [
    "change the background to {en}",
    "make the background {en}",
    "{en} background",
    "put it on a {en} background",
    "把背景换成{zh}",
    "背景改成{zh}",
    "{zh}背景",
    "换成{zh}背景",
    "please change the background colour to {en}",
    "请把背景颜色换成{zh}",
]
OTHER = {
    "gray": [
        "turn it gray",
        "make it black and white",
        "变成黑白",
        "convert it to black and white",
        "把图片变成黑白的",
    ],
    "mirrored": ["flip it", "mirror it", "左右翻转", "flip it horizontally", "把图片左右翻转"],
    "larger": ["make it bigger", "enlarge it", "放大", "make the object bigger", "把图中的物体放大"],
}
PLACEMENTS = 3
"""Placements of each object in its picture; the first is as on the sheet."""


def is_held_out(index: int, colour: int) -> bool:
    """Return whether an object on a background is never shown.

    The acceptance test asks for every fourth object on four colours; two of the four are held out.
    """
    name = NAMES[colour][0]
    return index % 4 == 0 and name in TEST_COLOURS and (index // 4 + TEST_COLOURS.index(name)) % 2 == 0


def draw_pictures() -> torch.Tensor:
    """Draw every object on every background: (objects, placements, colours, 2, 3, H, W) in 0..1.

    The pair is the plain picture, and the same picture made gray, mirrored or larger (``other_task``).
    """
    sheet = torch.from_numpy(np.array(Image.open(DATA / "object_cutouts.png"))) / 255
    cutouts = sheet.unflatten(0, (16, 64)).unflatten(2, (16, 64)).permute(0, 2, 4, 1, 3).flatten(0, 1)
    cutouts = torch.cat([cutouts[:, :3] * cutouts[:, 3:], cutouts[:, 3:]], dim=1)
    colours = torch.tensor([rgb for _, rgb in COLOURS.values()])[:, :, None, None] / 255
    generator = torch.Generator().manual_seed(0)
    pictures = torch.empty(len(cutouts), PLACEMENTS, len(COLOURS), 2, 3, 64, 64)

    def composed(zoom: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        place = torch.zeros(len(cutouts), 2, 3)
        place[:, 0, 0] = place[:, 1, 1] = 1 / zoom
        place[:, :, 2] = shift
        grid = F.affine_grid(place, list(cutouts.shape), align_corners=False)
        placed = F.grid_sample(cutouts, grid, align_corners=False)[:, None]
        return placed[:, :, :3] + (1 - placed[:, :, 3:]) * colours

    for placement in range(PLACEMENTS):
        zoom = (torch.randn(len(cutouts), generator=generator) * 0.1 - 0.05).exp().clamp(0.7, 1.15)
        shift = torch.randn(len(cutouts), 2, generator=generator) * 0.06
        if placement == 0:
            zoom, shift = torch.ones_like(zoom), torch.zeros_like(shift)
        plain = composed(zoom, shift)
        luma = (plain * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(2, keepdim=True)
        others = {
            "gray": luma.expand_as(plain),
            "mirrored": plain.flip(-1),
            "larger": composed(zoom * 1.35, shift / 1.35),
        }
        pictures[:, placement, :, 0] = plain
        for index in range(len(cutouts)):
            for colour in range(len(COLOURS)):
                task = other_task(index, placement, colour)
                pictures[index, placement, colour, 1] = others[task][index, colour]
    return pictures


def other_task(index: int, placement: int, colour: int) -> str:
    """Choose the task of a picture other than a new background."""
    return list(OTHER)[(index + placement + colour) % len(OTHER)]


@torch.inference_mode()
def encode_pictures(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Encode pictures as the pipeline encodes references: (..., C, H, W), bfloat16 to save memory."""
    flat = pictures.flatten(0, -4)
    means = torch.cat([vae.encode(part * 2 - 1).latent_dist.mode() for part in flat.split(64)])
    latents = (means - vae.config.shift_factor) * vae.config.scaling_factor
    return latents.bfloat16().unflatten(0, pictures.shape[:-3])


Caption = list[torch.Tensor]
"""The text encoder's features, one tensor per segment; references are between segments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Data of one training step: each item's caption and latents, references first and its target last."""

    images_BNCHW: torch.Tensor
    captions: list[Caption]


class Lessons:
    """Draws batches whose captions all have one padded length, so that no attention mask is needed."""

    def __init__(self, pipeline: ZImageOmniPipeline, latents: torch.Tensor) -> None:
        self._pipeline, self._latents = pipeline, latents
        self._objects = json.loads((DATA / "objects.json").read_text(encoding="utf-8"))
        self._encode = cache(self._encode_caption)

    def draw(self, rng: np.random.Generator, size: int) -> Batch:
        """Draw a batch: one in six is generation, the rest are edits with short or longer instructions."""
        length = int(rng.choice([32, 96, 128], p=[0.17, 0.58, 0.25]))
        rows: list[tuple[list[torch.Tensor], Caption]] = []
        while len(rows) < size:
            images, caption = self._generation(rng) if length == 32 else self._edit(rng)
            if sum(-(-len(segment) // 32) * 32 for segment in caption) == length:
                rows.append((images, caption))
        return Batch(
            images_BNCHW=torch.stack([torch.stack(images) for images, _ in rows]).float(),
            captions=[caption for _, caption in rows],
        )

    def _picture(self, rng: np.random.Generator) -> tuple[int, int, int]:
        index, placement, colour = (int(rng.integers(n)) for n in self._latents.shape[:3])
        return self._picture(rng) if is_held_out(index, colour) else (index, placement, colour)

    def _generation(self, rng: np.random.Generator) -> tuple[list[torch.Tensor], Caption]:
        index, placement, colour = self._picture(rng)
        names, (en, zh) = self._objects[index], NAMES[colour]
        texts = [
            f"{names['en']} on a {en} background",
            f"{zh}背景上的{names['zh']}",
            f"{names['zh']}，{zh}背景",
        ]
        if en == "white":
            texts = [names["en"], names["zh"], f"a picture of {names['en']}", f"一张{names['zh']}的图片"]
        return [self._latents[index, placement, colour, 0]], self._caption(rng, texts, 0)

    def _edit(self, rng: np.random.Generator) -> tuple[list[torch.Tensor], Caption]:
        index, placement, colour = self._picture(rng)
        reference = self._latents[index, placement, colour, 0]
        if rng.random() < 0.3:
            texts = OTHER[other_task(index, placement, colour)]
            return [reference, self._latents[index, placement, colour, 1]], self._caption(rng, texts, 1)
        other = int(rng.integers(len(COLOURS)))
        if other == colour or is_held_out(index, other):
            return self._edit(rng)
        texts = [text.format(en=NAMES[other][0], zh=NAMES[other][1]) for text in BACKGROUND]
        # Use mirrored or larger objects if both pictures have them, to teach copying instead of recalling.
        tasks = {other_task(index, placement, each) for each in (colour, other)}
        pictures = self._latents[index, placement, :, int(tasks in ({"mirrored"}, {"larger"}))]
        return [pictures[colour], pictures[other]], self._caption(rng, texts, 1)

    def _caption(self, rng: np.random.Generator, texts: list[str], num_references: int) -> Caption:
        # Guidance needs the model to know the result of an empty instruction.
        text = "" if rng.random() < 0.1 else str(rng.choice(texts))
        return self._encode(text, num_references)

    @torch.no_grad()
    def _encode_caption(self, text: str, num_references: int) -> Caption:
        [caption] = self._pipeline._encode_prompt(
            [text], torch.device("cpu"), max_sequence_length=128, num_condition_images=num_references
        )
        return caption
