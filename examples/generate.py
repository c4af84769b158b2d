"""Make one image with an engine in this process, and save it as owl.png: ``python examples/generate.py``."""

from PIL import Image

from zimage_models import EngineConfig, ImageRequest, build_engine

engine = build_engine(EngineConfig(model="tiny-zimage-turbo"))
request = ImageRequest(prompt="owl", width=64, height=64, num_inference_steps=8, guidance_scale=0.0, seed=7)
image = engine.submit(request).result()
Image.fromarray(image.pixels_HWC).save("owl.png")
engine.close()
