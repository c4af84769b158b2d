"""Turns finished images into answers: encodes and marks them, counts tokens and stores on request."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Literal

from deployments.errors import ObjectStoreFailed
from deployments.http.openai_errors import ApiError
from deployments.http.openai_types import (
    CompletedEvent,
    ImageBody,
    ImageData,
    ImagesResponse,
    PartialImageEvent,
    Settings,
    TokenDetails,
    Usage,
)
from deployments.image_service import Order
from deployments.model_server import Admitted
from zimage_models.engine.request_handle import PreviewEvent
from zimage_models.errors import InvalidRequest
from zimage_models.image_files.image_codec import Encoding, encode_image, image_parameters, ingredients_of
from zimage_models.model_spec import ModelSpec
from zimage_models.pictures import Picture
from zimage_models.requests import ImageRequest, ImageResult

Operation = Literal["image_generation", "image_edit"]
Keep = Callable[[bytes, Encoding], Awaitable[str]]
"""Stores an encoded image and returns its URL."""
_PARTIAL: dict[Operation, Literal["image_generation.partial_image", "image_edit.partial_image"]] = {
    "image_generation": "image_generation.partial_image",
    "image_edit": "image_edit.partial_image",
}
_COMPLETED: dict[Operation, Literal["image_generation.completed", "image_edit.completed"]] = {
    "image_generation": "image_generation.completed",
    "image_edit": "image_edit.completed",
}


def encoding_of(body: ImageBody) -> Encoding:
    """Return the encoding that a body asks for.

    Raises:
        InvalidRequest: a compression is given for a lossless format.
    """
    quality = body.output_compression
    if body.output_format == "png" and quality is not None:
        if quality != 100:  # the API's default
            raise InvalidRequest(
                f"output_compression: {quality} given, but a png is lossless", field="output_compression"
            )
        quality = None
    # Encoders accept qualities from 1.
    return Encoding(format=body.output_format, quality=None if quality is None else max(1, quality))


class AnswerWriter:
    """Turns the events of one request into its answer."""

    def __init__(self, body: ImageBody, order: Order, spec: ModelSpec, keep: Keep | None) -> None:
        self._body = body
        self._order = order
        self._spec = spec
        self._keep = keep
        self._encoding = encoding_of(body)
        self._ingredients = ingredients_of(order.requests[0])

    async def response(
        self, events: AsyncIterator[Admitted | tuple[int, PreviewEvent | ImageResult]]
    ) -> ImagesResponse:
        """Collect all images into one body, in order."""
        images: dict[int, ImageResult] = {}
        data: dict[int, ImageData] = {}
        async for item in events:
            if isinstance(item, Admitted):
                continue
            index, image = item
            if isinstance(image, ImageResult):
                images[index] = image
                # This image is encoded while the next one is made.
                data[index] = await self._data(image)
        return ImagesResponse(
            created=int(time.time()),
            data=[data[index] for index in sorted(data)],
            **dict(self._settings([images[index] for index in sorted(images)])),
        )

    async def stream(
        self,
        events: AsyncIterator[Admitted | tuple[int, PreviewEvent | ImageResult]],
        operation: Operation,
    ) -> AsyncIterator[PartialImageEvent | CompletedEvent]:
        """Turn one image's events into the API's stream events."""
        num_partial = 0
        async for item in events:
            if isinstance(item, Admitted):
                continue
            event = item[1]
            if isinstance(event, ImageResult):
                data = await self._data(event)
                yield CompletedEvent(
                    type=_COMPLETED[operation],
                    created_at=int(time.time()),
                    **data.model_dump(include={"b64_json", "url", "seed"}),
                    **dict(self._settings([event])),
                )
            elif num_partial < self._body.partial_images:
                encoded = await asyncio.to_thread(self._encode_preview, event)
                yield PartialImageEvent(
                    type=_PARTIAL[operation],
                    b64_json=base64.b64encode(encoded).decode(),
                    partial_image_index=num_partial,
                    created_at=int(time.time()),
                    size=self._size,
                    output_format=self._body.output_format,
                    warning=self._order.warning,
                )
                num_partial += 1

    def _num_tokens(self, picture: Picture | ImageRequest) -> int:
        multiple = self._spec.size_multiple
        return (picture.height // multiple) * (picture.width // multiple)

    @property
    def _size(self) -> str:
        request = self._order.requests[0]
        return f"{request.width}x{request.height}"

    async def _data(self, image: ImageResult) -> ImageData:
        encoded = await asyncio.to_thread(self._encode, image)
        text = None if self._body.response_format == "url" else base64.b64encode(encoded).decode()
        url = None
        try:
            url = await self._keep(encoded, self._encoding) if self._keep else None
        except ObjectStoreFailed:
            if text is None:
                raise
        return ImageData(b64_json=text, url=url, seed=image.request.seed)

    def _encode(self, image: ImageResult) -> bytes:
        parameters = image_parameters(image.request, model=self._spec.model_id, precision=image.precision)
        try:
            return encode_image(
                image.pixels_HWC, self._encoding, parameters=parameters, ingredients=self._ingredients
            )
        except InvalidRequest as error:
            raise ApiError(
                400,
                f"output_format: {self._encoding.format} files cannot hold a prompt this long",
                param="output_format",
                code="invalid_value",
            ) from error

    def _encode_preview(self, event: PreviewEvent) -> bytes:
        parameters = {"preview_step": event.step, "num_inference_steps": event.num_steps}
        return encode_image(
            event.pixels_HWC, self._encoding, parameters=parameters, ingredients=self._ingredients
        )

    def _settings(self, images: Sequence[ImageResult]) -> Settings:
        request = images[0].request
        # The prompt and the pictures count once, however many images are made.
        text_tokens = images[0].num_prompt_tokens
        image_tokens = sum(self._num_tokens(picture) for picture in request.pictures)
        output_tokens = self._num_tokens(request) * len(images)
        return Settings(
            model=self._order.model_id,
            size=self._size,
            output_format=self._body.output_format,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            precision=images[0].precision,
            quality_mode=request.quality_mode,
            num_computed_steps=images[0].num_computed_steps,
            prompt_truncated=images[0].prompt_truncated,
            ignored=self._body.ignored,
            warning=self._order.warning,
            usage=Usage(
                input_tokens=text_tokens + image_tokens,
                input_tokens_details=TokenDetails(image_tokens=image_tokens, text_tokens=text_tokens),
                output_tokens=output_tokens,
                output_tokens_details=TokenDetails(image_tokens=output_tokens, text_tokens=0),
                total_tokens=text_tokens + image_tokens + output_tokens,
            ),
        )
