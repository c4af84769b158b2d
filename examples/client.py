"""Ask a running endpoint for an image with OpenAI's client, and save it as owl.png.

Start the endpoint with ``zimage serve``, install the client with ``pip install openai``, then
``python examples/client.py [http://HOST:PORT/v1]``.
"""

import base64
import sys
from pathlib import Path

from openai import OpenAI

address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=address, api_key="none")
answer = client.images.generate(model="z-image-turbo", prompt="owl", size="64x64", extra_body={"seed": 7})
Path("owl.png").write_bytes(base64.b64decode(answer.data[0].b64_json))
