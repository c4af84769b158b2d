"""``litellm_client.py URL PICTURE``: LiteLLM, with the endpoint as a server of its provider for OpenAI."""

import os
import sys
from pathlib import Path
from typing import Any

# Otherwise it fetches its table of prices on import.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from tell import tell

url, picture = sys.argv[1], Path(sys.argv[2])
litellm.suppress_debug_info = True
HERE: dict[str, Any] = {"api_base": url, "api_key": "none", "max_retries": 0}
WHOLE: dict[str, Any] = {
    **HERE,
    "model": "openai/z-image-turbo",
    "prompt": "a red apple",
    "size": "96x64",
    "extra_body": {"seed": 5},
}
EDIT: dict[str, Any] = {
    **HERE,
    "model": "openai/z-image-edit",
    "prompt": "make the background red",
    "extra_body": {"seed": 5},
}


def shown(answer: Any) -> dict[str, Any]:
    return {"images": [image.b64_json for image in answer.data]}


tell(
    {
        "generate": lambda: shown(litellm.image_generation(**WHOLE)),
        "several": lambda: shown(litellm.image_generation(**WHOLE, n=2)),
        "edit": lambda: shown(litellm.image_edit(**EDIT, image=picture.read_bytes())),
        "two_pictures": lambda: shown(litellm.image_edit(**EDIT, image=[picture.read_bytes()] * 2)),
        "refused": lambda: shown(litellm.image_generation(**{**WHOLE, "size": "65x64"})),
        "unknown_model": lambda: shown(
            litellm.image_generation(**{**WHOLE, "model": "openai/no-such-model"})
        ),
        "url": lambda: {
            "urls": [
                image.url
                for image in litellm.image_generation(
                    **{**WHOLE, "extra_body": {"seed": 5, "response_format": "url"}}
                ).data
            ]
        },
    }
)
