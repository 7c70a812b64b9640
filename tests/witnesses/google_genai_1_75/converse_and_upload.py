"""Run by google-genai 1.75.0's own interpreter: a chat of three turns and an uploaded file, what came of them as JSON."""

import io
import json
import sys

from google import genai
from google.genai import errors
from PIL import Image

FLASH, PRO = "gemini-nano-banana-2.1", "gemini-3-pro-image"
client = genai.Client(api_key="k", http_options={"base_url": sys.argv[1]})


def sizes(answer):
    return [list(Image.open(io.BytesIO(part.inline_data.data)).size) for part in answer.parts if part.inline_data]


chat = client.chats.create(model=PRO)
turns = [sizes(chat.send_message(prompt)) for prompt in ("Draw a cat", "Make it blue", "Add a hat")]

photo = io.BytesIO()
Image.new("RGB", (160, 90), "red").save(photo, "PNG")
photo.seek(0)
file = client.files.upload(file=photo, config={"mime_type": "image/png"})
edited = sizes(client.models.generate_content(model=FLASH, contents=["Add a hat", file]))
listed = [one.name for one in client.files.list()]
client.files.delete(name=file.name)
try:
    client.files.get(name=file.name)
    gone = 0
except errors.ClientError as error:
    gone = error.code
print(json.dumps({"turns": turns, "edited": edited, "listed": listed == [file.name], "gone": gone}))
