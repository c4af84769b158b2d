"""The pictures of an edit, from files, data URLs and addresses to pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deployments.access.url_fetch import fetch_image
from deployments.app_args import AppArgs
from zimage_models.errors import InvalidRequest
from zimage_models.image_files.image_inputs import ImageLimits, data_url_bytes, read_image, read_mask
from zimage_models.pictures import Picture

MAX_IMAGES = 16
"""As in OpenAI's API."""
MAX_NUMBERS = {"image": MAX_IMAGES, "mask": 1, "control_image": 1}
"""How many pictures each field may have."""
_FETCH_TIMEOUT_S = 20.0

GivenPictures = Mapping[str, Sequence[bytes | str]]
"""By field: files, or data URLs and addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditPictures:
    """The pictures of an edit."""

    images: tuple[Picture, ...]
    mask: Picture | None
    control_image: Picture | None


def check_numbers(pictures: Mapping[str, Sequence[object]]) -> None:
    """Require an image or a control image, and not too many."""
    numbers = {field: len(values) for field, values in pictures.items()}
    if not numbers["image"] and not numbers["control_image"]:
        raise InvalidRequest("image: missing", field="image")
    if numbers["mask"] and not numbers["image"]:
        raise InvalidRequest("mask: has no effect without image", field="mask")
    for field, limit in MAX_NUMBERS.items():
        if numbers[field] > limit:
            raise InvalidRequest(f"{field}: {numbers[field]} given; the limit is {limit}", field=field)


def without_data_urls(given: GivenPictures, args: AppArgs) -> GivenPictures:
    """Decode data URLs; only addresses stay text."""
    return {field: [_content(value, field, args) for value in values] for field, values in given.items()}


def _content(value: bytes | str, field: str, args: AppArgs) -> bytes | str:
    if isinstance(value, bytes):
        return value
    if value[:5].lower() == "data:":
        return data_url_bytes(value, field=field, max_bytes=max_bytes_of(field, args))
    if args.image_urls == "refuse":
        raise InvalidRequest(
            f"{field}: neither a file nor a data URL; URLs are not fetched here", field=field
        )
    return value


async def fetch(given: GivenPictures, args: AppArgs) -> dict[str, list[bytes]]:
    """Fetch what is given by address: all files together may be as large as a body."""
    max_total = args.limits.max_body_bytes
    left = max_total - sum(
        len(value) for values in given.values() for value in values if isinstance(value, bytes)
    )
    files: dict[str, list[bytes]] = {}
    for field, values in given.items():
        files[field] = []
        for value in values:
            if isinstance(value, str):
                max_bytes = max_bytes_of(field, args)
                data = await fetch_image(
                    value,
                    field=field,
                    max_bytes=min(max_bytes, left),
                    timeout_s=_FETCH_TIMEOUT_S,
                    too_large=None if max_bytes <= left else f"more than {max_total} bytes in all",
                )
                left -= len(data)
            else:
                data = value
            files[field].append(data)
    return files


def _limits(args: AppArgs) -> ImageLimits:
    return ImageLimits(max_bytes=args.limits.max_image_bytes, max_pixels=args.limits.max_image_pixels)


def max_bytes_of(field: str, args: AppArgs) -> int:
    """Return how large a file of a field may be."""
    limits = _limits(args)
    return limits.max_mask_bytes if field == "mask" else limits.max_bytes


def decode(files: Mapping[str, Sequence[bytes]], args: AppArgs) -> EditPictures:
    """Decode the files, which together may have as many pixels as one."""
    limits = _limits(args)
    decoded: dict[str, list[Picture]] = {"image": [], "control_image": []}
    num_pixels = 0
    for field, pictures in decoded.items():
        for data in files[field]:
            picture = read_image(data, field=field, limits=limits)
            pictures.append(picture)
            num_pixels += picture.width * picture.height
            if num_pixels > limits.max_pixels:
                raise InvalidRequest(f"{field}: more than {limits.max_pixels} pixels in all", field=field)
    images = tuple(decoded["image"])
    masks = [
        read_mask(data, field="mask", limits=limits, size=(images[0].width, images[0].height))
        for data in files["mask"]
    ]
    return EditPictures(
        images=images,
        mask=next(iter(masks), None),
        control_image=next(iter(decoded["control_image"]), None),
    )
