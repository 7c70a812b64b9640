"""Run by the interpreter of openai-python, with the address of a server: a question about an image, and what is read, as JSON."""

import base64
import json
import sys

import openai

url, data, schema = sys.argv[1], sys.stdin.buffer.read(), json.loads(sys.argv[2])
client = openai.OpenAI(api_key="sk-1", base_url=f"{url}/v1", max_retries=0)
link = {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}"}
text = {"type": "text", "text": "A mug [[judge:3]][[judge:remark=no handle]]"}
answer = client.chat.completions.create(
    model="gpt-5.4-nano",
    messages=[{"role": "user", "content": [text, {"type": "image_url", "image_url": link}]}],
    response_format={"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": schema}},
)
usage = answer.usage
tokens = [usage.prompt_tokens, usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens]
print(json.dumps({"said": json.loads(answer.choices[0].message.content), "tokens": tokens}))
