"""Run by the interpreter of openai-python, with the address of a server: the requests whose bodies the codec's are held against."""

import contextlib
import sys

import openai

client = openai.OpenAI(api_key="sk-1", base_url=f"{sys.argv[1]}/v1", max_retries=0)
MODEL = "gpt-image-2.6-sunburst"
extra = {"quality": "high", "background": "opaque", "output_format": "webp", "output_compression": 80}
images = [(f"reference-{n}.png", b"image %d" % n, "image/png") for n in (1, 2, 3)]
with contextlib.suppress(openai.APIStatusError):
    client.images.generate(model=MODEL, prompt="A fox", n=2, size="1360x768", moderation="low", **extra)
with contextlib.suppress(openai.APIStatusError):
    client.images.edit(model=MODEL, prompt="In snow", image=images[:2], mask=images[2], n=2, size="1024x1024", **extra)
with contextlib.suppress(openai.APIStatusError):
    client.images.edit(model=MODEL, prompt="In snow", image=images[0])
