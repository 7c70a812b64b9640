"""Run by replicate 1.0.7's own interpreter: what it gets from the server given as argument, as JSON."""

import io
import json
import os
import sys

os.environ.update(REPLICATE_BASE_URL=sys.argv[1], REPLICATE_API_TOKEN="k", REPLICATE_POLL_INTERVAL="0.05")

import httpx
import replicate
from replicate.exceptions import ModelError, ReplicateError

MODEL = "black-forest-labs/flux-schnell"
PIXEL = sys.argv[2]
found = {}


def begins(link):
    """Links of http are text to the SDK, and files when they are of https."""
    return httpx.get(link).content[:4].hex()


outputs = replicate.run(MODEL, input={"prompt": "a fox", "num_outputs": 2, "output_format": "png"}, wait=False)
found["images"] = [begins(output) for output in outputs]
edited = replicate.models.predictions.create(
    "black-forest-labs/flux-kontext-pro",
    input={"prompt": "in snow", "input_image": io.BytesIO(bytes.fromhex(PIXEL))},
    file_encoding_strategy="base64",
)
edited.wait()
found["edited"] = begins(edited.output)

prediction = replicate.predictions.create(model=MODEL, input={"prompt": "a hare", "seed": 7})
found["first"] = prediction.status
prediction.wait()
found["last"] = [prediction.status, len(prediction.output), prediction.model]
found["listed"] = [each.input["prompt"] for each in replicate.predictions.list().results]

slow = replicate.predictions.create(model=MODEL, input={"prompt": "slow"})
slow.cancel()
slow.reload()
found["cancelled"] = slow.status


def refused(call):
    try:
        call()
    except ModelError as error:
        return error.prediction.status, error.prediction.error[-6:]
    except ReplicateError as error:
        return error.status, error.title
    return None


found["flagged"] = refused(lambda: replicate.run(MODEL, input={"prompt": "x [[fault:job_flagged]]"}, wait=False))
found["invalid"] = refused(lambda: replicate.predictions.create(model=MODEL, input={"prompt": "x", "num_outputs": 9}))
found["unknown"] = refused(lambda: replicate.predictions.get("nothing"))
found["credit"] = refused(
    lambda: replicate.Client(api_token="nocredits").predictions.create(model=MODEL, input={"prompt": "x"})
)
print(json.dumps(found))
