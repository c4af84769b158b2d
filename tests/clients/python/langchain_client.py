"""``langchain_client.py URL PICTURE``: LangChain's wrapper of OpenAI's images, which reads only ``url``."""

import sys
from typing import Any

from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper
from tell import tell

url = sys.argv[1]


def asked(**settings: Any) -> dict[str, Any]:
    wrapper = DallEAPIWrapper(
        base_url=url, api_key="none", max_retries=0, **{"model": "z-image-turbo", "size": "96x64", **settings}
    )
    return {"urls": wrapper.run("a red apple").split("\n")}


tell(
    {
        "url": asked,
        "several_urls": lambda: asked(n=2),
        "openai_name": lambda: asked(model="dall-e-3", quality="standard"),
        "refused": lambda: asked(size="65x64"),
        "unknown_model": lambda: asked(model="no-such-model"),
    }
)
