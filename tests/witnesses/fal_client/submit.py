"""Run by fal-client 1.0.3's own interpreter: what it gets from the server at the host given as argument, as JSON."""

import json
import os
import sys

os.environ.update(FAL_QUEUE_RUN_HOST=sys.argv[1], FAL_KEY="k", SSL_CERT_FILE=sys.argv[2])

import fal_client
import httpx
from fal_client.client import FalClientHTTPError

MODEL, BANANA = "fal-ai/flux/schnell", "fal-ai/nano-banana-2/edit"
PIXEL = sys.argv[3]
found = {}


def begins(image):
    return httpx.get(image["url"]).content[:4].hex()


def refused(call):
    try:
        call()
    except FalClientHTTPError as error:
        said = error.message
        return error.status_code, said[0]["type"] if isinstance(said, list) else said
    return None


seen = []
result = fal_client.subscribe(
    MODEL,
    {"prompt": "a fox", "num_images": 2, "output_format": "png", "image_size": {"width": 1344, "height": 768}},
    on_queue_update=lambda status: seen.append(type(status).__name__),
    with_logs=True,
)
found["images"] = [[begins(image), image["width"], image["height"]] for image in result["images"]]
found["seen"] = list(dict.fromkeys(seen))
reference = fal_client.encode(bytes.fromhex(PIXEL), "image/png")
edited = fal_client.submit(BANANA, {"prompt": "in snow", "image_urls": [reference]})
found["edited"] = begins(edited.get()["images"][0])
found["again"] = begins(fal_client.result(BANANA, edited.request_id)["images"][0])

slow = fal_client.submit(MODEL, {"prompt": "slow"})
slow.cancel()
found["cancelled"] = fal_client.status(MODEL, slow.request_id).error_type
found["too_late"] = refused(edited.cancel)[0]

late = fal_client.submit(MODEL, {"prompt": "late [[fault:job_aborted]]"})
found["failed"] = refused(late.get)
found["failure"] = [late.status().error_type, late.status().error]
found["flagged"] = refused(lambda: fal_client.subscribe(MODEL, {"prompt": "x [[fault:job_flagged]]"}))
found["invalid"] = refused(lambda: fal_client.subscribe(MODEL, {"prompt": "x", "num_images": 9}))
found["unknown"] = refused(lambda: fal_client.submit("fal-ai/nothing", {"prompt": "x"}))
found["lost"] = refused(lambda: fal_client.status(MODEL, "nothing"))[0]
found["locked"] = refused(lambda: fal_client.SyncClient(key="nocredits").submit(MODEL, {"prompt": "x"}))
print(json.dumps(found))
