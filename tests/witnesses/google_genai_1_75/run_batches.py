"""Run by google-genai 1.75.0's own interpreter: a batch of a file, one inline, a list, a cancel and a delete, as JSON."""

import io
import json
import sys
import time

from google import genai
from google.genai import errors

MODEL = "gemini-nano-banana-2.1"
client = genai.Client(api_key="k", http_options={"base_url": sys.argv[1]})


def ended(job):
    while job.state.name in ("JOB_STATE_PENDING", "JOB_STATE_RUNNING"):
        time.sleep(0.01)
        job = client.batches.get(name=job.name)
    return job


def line(key):
    return json.dumps({"key": key, "request": {"contents": [{"parts": [{"text": f"A fox {key}"}]}]}})


lines = io.BytesIO("\n".join(map(line, "abc")).encode())
file = client.files.upload(file=lines, config={"mime_type": "jsonl", "display_name": "lines"})
job = ended(client.batches.create(model=MODEL, src=file.name, config={"display_name": "chunk 1"}))
keys = sorted(json.loads(one)["key"] for one in client.files.download(file=job.dest.file_name).splitlines())

requests = [{"contents": [{"role": "user", "parts": [{"text": f"A fox {key}"}]}]} for key in "ab"]
inline = ended(client.batches.create(model=MODEL, src=requests, config={"display_name": "inline"}))
pictures = [bool(one.response.candidates[0].content.parts[-1].inline_data) for one in inline.dest.inlined_responses]

names = [one.display_name for one in client.batches.list(config={"page_size": 1})]
stuck = client.batches.create(model=MODEL, src=file.name, config={"display_name": "[[fault:stuck]]"})
client.batches.cancel(name=stuck.name)
cancelled = client.batches.get(name=stuck.name).state.name
client.batches.delete(name=stuck.name)
try:
    client.batches.get(name=stuck.name)
    gone = 0
except errors.ClientError as error:
    gone = error.code
found = {
    "keys": keys,
    "pictures": pictures,
    "names": names,
    "cancelled": cancelled,
    "gone": gone,
    "state": job.state.name,
}
print(json.dumps(found))
