"""The real OpenAI client against the gateway: a text's vector is the one that a job gave, as numbers and as base64."""

import json
import sys

import openai

base_url, model, text, expected = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
client = openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", timeout=120)


def close(vector):
    return len(vector) == len(expected) and all(abs(a - b) < 1e-7 for a, b in zip(vector, expected))


# Without a format the client asks for base64 and decodes it.
for options in ({}, {"encoding_format": "float"}):
    answer = client.embeddings.create(model=model, input=[text, "something else"], **options)
    assert [item.index for item in answer.data] == [0, 1], answer
    assert close(answer.data[0].embedding), options
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0, answer.usage

try:
    client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
except openai.BadRequestError as refused:
    assert "embeddings only" in str(refused), refused
else:
    raise AssertionError("an encoder took a chat")
