"""The real OpenAI client against the gateway: models, a whole answer, a streamed answer, several with log-probabilities, an error."""

import sys

import openai

base_url, model = sys.argv[1], sys.argv[2]
client = openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", timeout=120)
question = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]

assert model in [entry.id for entry in client.models.list()], "the model is not listed"

whole = client.chat.completions.create(model=model, messages=question, max_tokens=24, temperature=0, seed=7)
assert "Paris" in whole.choices[0].message.content, whole
assert whole.usage.completion_tokens > 0 and whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

stream = client.chat.completions.create(
    model=model, messages=question, max_tokens=24, temperature=0, seed=7, stream=True, stream_options={"include_usage": True}
)
pieces, usage, reasons = [], None, []
for chunk in stream:
    usage = chunk.usage or usage
    for choice in chunk.choices:
        pieces.append(choice.delta.content or "")
        reasons += [choice.finish_reason] if choice.finish_reason else []
assert "".join(pieces) == whole.choices[0].message.content, pieces
assert len(pieces) > 2 and reasons and usage.completion_tokens == whole.usage.completion_tokens

told = client.chat.completions.create(
    model=model, messages=question, max_tokens=4, n=2, logprobs=True, top_logprobs=2, frequency_penalty=0.1, logit_bias={"0": -100}, extra_body={"min_p": 0.05}
)
assert [choice.index for choice in told.choices] == [0, 1], told
for choice in told.choices:
    tokens = choice.logprobs.content
    assert tokens and all(len(token.top_logprobs) == 2 for token in tokens), tokens

try:
    client.chat.completions.create(model="nobody-has-this", messages=question)
except openai.NotFoundError as refused:
    assert "nobody-has-this" in str(refused), refused
else:
    raise AssertionError("an unknown model was accepted")

try:
    client.chat.completions.create(model=model, messages=question, extra_body={"logit_bias_typo": {}})
except openai.BadRequestError as refused:
    assert "logit_bias_typo" in str(refused), refused
else:
    raise AssertionError("an unknown field was accepted")
