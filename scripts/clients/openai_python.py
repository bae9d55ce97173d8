#!/usr/bin/env python3
"""The official OpenAI client for Python against a server, unchanged.

    packages=$(mktemp -d) && pip install --quiet --target "$packages" openai
    evenload engine --replicas 2 --port 8001 &
    evenload serve --replica http://127.0.0.1:8001 --replica http://127.0.0.1:8002 --listen 127.0.0.1:8080 &
    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 PYTHONPATH="$packages" python3 scripts/clients/openai_python.py

It asks for the first model that the server lists. Exit status 1 if anything failed.
"""

import os
import sys

import openai

CLIENT = openai.OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "unused"),
    timeout=60,
    max_retries=0,
)
MESSAGES = [{"role": "user", "content": "Say something of eight tokens."}]
TOKENS = 8
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def equal(found, expected, what):
    if found != expected:
        raise AssertionError(f"{what}: {found!r}, expected {expected!r}")


def model():
    return CLIENT.models.list().data[0].id


@check
def models_list():
    listed = list(CLIENT.models.list())
    equal({entry.object for entry in listed}, {"model"}, "object")
    equal(all(entry.id for entry in listed), True, "ids")


@check
def chat():
    answer = CLIENT.chat.completions.create(model=model(), messages=MESSAGES, max_tokens=TOKENS)
    equal(answer.object, "chat.completion", "object")
    equal(answer.choices[0].message.role, "assistant", "role")
    equal(answer.choices[0].finish_reason, "length", "finish_reason")
    equal(answer.usage.completion_tokens, TOKENS, "completion_tokens")
    equal(answer.usage.total_tokens, answer.usage.prompt_tokens + TOKENS, "total_tokens")
    equal(bool(answer.choices[0].message.content), True, "has content")


@check
def chat_streamed():
    stream = CLIENT.chat.completions.create(model=model(), messages=MESSAGES, max_tokens=TOKENS, stream=True)
    chunks = list(stream)
    equal({chunk.object for chunk in chunks}, {"chat.completion.chunk"}, "object")
    equal(len({chunk.id for chunk in chunks}), 1, "ids")
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    equal(len(texts), TOKENS, "chunks with text")
    equal(chunks[-1].choices[0].finish_reason, "length", "finish_reason")
    equal([chunk.usage for chunk in chunks if chunk.usage], [], "usage that was not asked for")


@check
def chat_streamed_with_usage():
    stream = CLIENT.chat.completions.create(
        model=model(),
        messages=MESSAGES,
        max_completion_tokens=TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    last = list(stream)[-1]
    equal(last.choices, [], "choices of the last chunk")
    equal(last.usage.completion_tokens, TOKENS, "completion_tokens")


@check
def completion():
    answer = CLIENT.completions.create(model=model(), prompt="Once upon a time", max_tokens=TOKENS)
    equal(answer.object, "text_completion", "object")
    equal(bool(answer.choices[0].text), True, "has text")
    equal(answer.choices[0].finish_reason, "length", "finish_reason")
    equal(answer.usage.completion_tokens, TOKENS, "completion_tokens")


@check
def completion_streamed():
    stream = CLIENT.completions.create(
        model=model(),
        prompt="Once upon a time",
        max_tokens=TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    texts = [chunk.choices[0].text for chunk in chunks if chunk.choices and chunk.choices[0].text]
    equal(len(texts), TOKENS, "chunks with text")
    equal(chunks[-1].usage.completion_tokens, TOKENS, "completion_tokens")


@check
def stream_left_early():
    with CLIENT.chat.completions.create(model=model(), messages=MESSAGES, max_tokens=500, stream=True) as stream:
        next(iter(stream))
    chat()


@check
def unknown_model():
    try:
        CLIENT.chat.completions.create(model="no-such-model", messages=MESSAGES)
    except openai.NotFoundError as error:
        equal(error.status_code, 404, "status")
        equal("no-such-model" in error.body["message"], True, "message names the model")
        return
    raise AssertionError("no error")


@check
def bad_request():
    try:
        CLIENT.chat.completions.create(model=model(), messages=MESSAGES, max_tokens=-1)
    except openai.BadRequestError as error:
        equal(bool(error.body["message"]), True, "has a message")
        return
    raise AssertionError("no error")


def main():
    failed = 0
    for function in CHECKS:
        try:
            function()
        except Exception as error:  # each check is reported, whatever it met
            failed += 1
            print(f"{function.__name__}: {type(error).__name__}: {error}")
    print(f"openai {openai.__version__} (Python): {len(CHECKS) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
