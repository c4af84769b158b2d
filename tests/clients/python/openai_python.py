"""``openai_python.py URL PICTURE``: OpenAI's client for Python."""

import sys
from pathlib import Path
from typing import Any

from openai import OpenAI
from tell import tell

url, picture = sys.argv[1], Path(sys.argv[2])
images = OpenAI(base_url=url, api_key="none", max_retries=0).images
WHOLE: dict[str, Any] = {
    "model": "z-image-turbo",
    "prompt": "a red apple",
    "size": "96x64",
    "extra_body": {"seed": 5},
}
EDIT: dict[str, Any] = {
    "model": "z-image-edit",
    "prompt": "make the background red",
    "extra_body": {"seed": 5},
}


def shown(answer: Any) -> dict[str, Any]:
    return {"images": [image.b64_json for image in answer.data]}


def streamed(events: Any) -> dict[str, Any]:
    return {"events": [event.model_dump() for event in events]}


tell(
    {
        "generate": lambda: shown(images.generate(**WHOLE)),
        "several": lambda: shown(images.generate(**WHOLE, n=2)),
        "edit": lambda: shown(images.edit(**EDIT, image=picture)),
        "two_pictures": lambda: shown(images.edit(**EDIT, image=[picture, picture])),
        "stream": lambda: streamed(images.generate(**WHOLE, stream=True, partial_images=2)),
        "edit_stream": lambda: streamed(images.edit(**EDIT, image=picture, stream=True, partial_images=1)),
        "refused": lambda: shown(images.generate(**{**WHOLE, "size": "65x64"})),
        "unknown_model": lambda: shown(images.generate(**{**WHOLE, "model": "no-such-model"})),
        "neutral_fields": lambda: shown(
            images.generate(
                **WHOLE, quality="high", style="vivid", background="auto", moderation="low", user="someone"
            )
        ),
        "url": lambda: {
            "urls": [image.url for image in images.generate(**WHOLE, response_format="url").data or ()]
        },
    }
)
