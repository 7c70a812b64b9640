"""Run by the interpreter of openai-python, with the address of a server: what it makes of the answers, as JSON."""

import base64
import json
import struct
import sys
import zlib

import openai

client = openai.OpenAI(api_key="sk-1", base_url=f"{sys.argv[1]}/v1", max_retries=0)
MODEL = "gpt-image-2.6-sunburst"


def size(image):
    data = base64.b64decode(image.b64_json)
    return list(struct.unpack(">II", data[16:24])) if data.startswith(b"\x89PNG") else data[8:12].decode("latin1")


def png(red):
    """64x64 pixels of one colour."""
    rows = zlib.compress(b"".join(b"\0" + bytes([red, 0, 0]) * 64 for _ in range(64)))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def refusal(prompt, **given):
    try:
        client.images.generate(model=given.pop("model", MODEL), prompt=prompt, **given)
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.code]
    return None


made = client.images.generate(model=MODEL, prompt="a fox", n=2, size="1536x1024", quality="low")
webp = client.images.generate(model=MODEL, prompt="a fox", output_format="webp", output_compression=50)
images = [(f"{n}.png", png(n), "image/png") for n in (1, 2)]
edited = client.images.edit(model=MODEL, prompt="in snow", image=images, mask=("mask.png", png(3), "image/png"))
single = client.images.edit(model=MODEL, prompt="in rain", image=images[0])
found = {
    "made": [size(image) for image in made.data],
    "output_tokens": made.usage.output_tokens,
    "webp": [webp.output_format, size(webp.data[0])],
    "edited": [size(image) for image in edited.data],
    "image_tokens": [reply.usage.input_tokens_details.image_tokens for reply in (edited, single)],
    "listed": MODEL in [model.id for model in client.models.list()],
    "refusals": [
        refusal("a fox [[fault:moderation]]"),
        refusal("a fox [[fault:429]]"),
        refusal("a fox [[fault:credits]]"),
        refusal("a fox [[fault:hard_limit]]"),
        refusal("a fox [[fault:unverified]]"),
        refusal("a fox [[fault:500]]"),
        refusal("a fox", model="gpt-image-9"),
        refusal("a fox", size="1000x1000"),
    ],
}
print(json.dumps(found))
