"""The real OpenAI client against `grid-worker serve`: also what the gateway does not offer."""

import sys
from typing import Literal

import openai
import pydantic

base_url, model = sys.argv[1], sys.argv[2]
client = openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", timeout=120, max_retries=0)
question = [{"role": "user", "content": "Name a colour."}]

several = client.chat.completions.create(model=model, messages=question, n=2, seed=3, max_completion_tokens=8)
again = client.chat.completions.create(model=model, messages=question, n=2, seed=3, max_completion_tokens=8)
assert [choice.message.content for choice in several.choices] == [choice.message.content for choice in again.choices]
assert len(several.choices) == 2 and several.usage.completion_tokens <= 16

told = client.chat.completions.create(model=model, messages=question, max_tokens=4, temperature=0, logprobs=True, top_logprobs=2)
tokens = told.choices[0].logprobs.content
assert tokens and all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens), tokens

text = client.completions.create(model=model, prompt="1, 2, 3, 4,", max_tokens=6, temperature=0, stop=" 6", frequency_penalty=0.1, logit_bias={"0": -100})
assert text.choices[0].text.startswith(" 5") and " 6" not in text.choices[0].text, text
pieces = client.completions.create(model=model, prompt="1, 2, 3, 4,", max_tokens=6, temperature=0, stream=True)
assert "".join(piece.choices[0].text for piece in pieces).startswith(" 5")


class Place(pydantic.BaseModel):
    kind: Literal["city", "river", "mountain"]
    letters: int = pydantic.Field(ge=1, le=30)
    seen: bool | None


formed = client.chat.completions.parse(model=model, messages=question, response_format=Place, n=2, seed=5, temperature=1, max_tokens=80)
for choice in formed.choices:
    assert choice.finish_reason == "stop" and isinstance(choice.message.parsed, Place), choice
    assert 1 <= choice.message.parsed.letters <= 30
anything = client.chat.completions.create(model=model, messages=question, response_format={"type": "json_object"}, seed=5, max_tokens=40)
assert anything.choices[0].message.content.startswith("{"), anything
try:
    schema = {"name": "x", "schema": {"not": {}}}
    client.chat.completions.create(model=model, messages=question, response_format={"type": "json_schema", "json_schema": schema})
except openai.BadRequestError as refused:
    assert refused.param == "response_format" and "Unimplemented" in refused.message, refused
else:
    raise AssertionError("a schema that cannot be compiled was accepted")

assert client.models.retrieve(model).id == model
tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
try:
    client.chat.completions.create(model=model, messages=question, tools=[tool])
except openai.BadRequestError as refused:
    assert refused.param == "tools", refused
else:
    raise AssertionError("tools were accepted by a model whose template knows of none")

try:
    openai.OpenAI(base_url=f"{base_url}/v1", api_key="wrong", max_retries=0).models.list()
except openai.AuthenticationError:
    pass
else:
    raise AssertionError("a wrong key was accepted")
