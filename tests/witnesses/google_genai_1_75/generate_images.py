"""Run by google-genai 1.75.0's own interpreter: what generate_images gets from the server given as argument, as JSON."""

import io
import json
import sys

from google import genai
from google.genai import types
from PIL import Image

client = genai.Client(api_key="k", http_options={"base_url": sys.argv[1]})
config = types.GenerateImagesConfig(
    number_of_images=2, aspect_ratio="16:9", output_mime_type="image/jpeg", include_rai_reason=True, image_size="1K"
)
found = {}
for prompt in sys.argv[2:]:
    response = client.models.generate_images(model="imagen-4.0-generate-001", prompt=prompt, config=config)
    found[prompt] = [
        list(Image.open(io.BytesIO(one.image.image_bytes)).size)
        if one.image and one.image.image_bytes
        else one.rai_filtered_reason
        for one in response.generated_images or []
    ]
print(json.dumps(found))
