"""An OpenAI-compatible server on a real socket, for the tolerant lane's tests: a model in floats, and its roundings."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from inference.kv import Segment
from inference.model import Model
from inference.reference import NumpyExecutor
from inference.tokenizer import Tokenizer

Rounding = Callable[[np.ndarray], np.ndarray]


def bfloat16(logits: np.ndarray) -> np.ndarray:
    """Rounded to the 8 significant bits of bfloat16, ties to even, as a bf16 model's head leaves them."""
    bits = np.asarray(logits, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def exact(logits: np.ndarray) -> np.ndarray:
    """As they are."""
    return logits


class FloatModel:
    """Log-probabilities of the next token, by the token's text; tokens that are no whole text are left out."""

    def __init__(self, model: Model, tokenizer: Tokenizer, rounding: Rounding) -> None:
        self._executor, self._tokenizer, self._rounding = NumpyExecutor(model), tokenizer, rounding
        self._context = model.manifest.shape.context
        texts = [tokenizer.decode([token]) for token in range(model.manifest.shape.vocabulary)]
        self._texts = [text if "\ufffd" not in text else "" for text in texts]

    def next(self, text: str) -> dict[str, float]:
        """Of every token that has a text."""
        ids = self._tokenizer.encode(text)[-self._context :]
        sequence = self._executor.new_sequence(len(ids))
        try:
            chunks = [ids[i : i + 64] for i in range(0, len(ids), 64)]
            for chunk in chunks:
                fed = self._executor.feed([Segment(sequence, chunk, len(chunk) - 1)])
        finally:
            sequence.free()
        logits = self._rounding(fed[0].logits[-1].astype(np.float64) / 65536).astype(np.float64)
        logprobs = logits - logits.max()
        logprobs -= np.log(np.exp(logprobs).sum())
        found: dict[str, float] = {}
        for text, logprob in zip(self._texts, logprobs.tolist(), strict=True):
            if text and logprob > found.get(text, -np.inf):
                found[text] = logprob
        return found


def completion(model: FloatModel, request: dict[str, Any]) -> dict[str, Any]:
    """The object of POST /v1/completions, greedy, as OpenAI words it."""
    text, tokens, chosen, listed, offsets = request["prompt"], [], [], [], []
    for _ in range(request.get("max_tokens", 16)):
        ranked = sorted(model.next(text).items(), key=lambda item: (-item[1], item[0]))
        tokens.append(ranked[0][0])
        chosen.append(ranked[0][1])
        listed.append(dict(ranked[: request.get("logprobs") or 1]))
        offsets.append(len(text))
        text += ranked[0][0]
    logprobs = {"tokens": tokens, "token_logprobs": chosen, "top_logprobs": listed, "text_offset": offsets}
    choice = {"text": "".join(tokens), "index": 0, "logprobs": logprobs, "finish_reason": "length"}
    usage = {"prompt_tokens": 1, "completion_tokens": len(tokens), "total_tokens": 1 + len(tokens)}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": request["model"], "choices": [choice],
            "usage": usage}  # fmt: skip


@contextmanager
def serving(model: FloatModel) -> Iterator[str]:
    """The address of a server, up to and with /v1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path != "/v1/completions" or self.headers.get("Authorization", "Bearer k") != "Bearer k":
                self.send_error(404 if self.path != "/v1/completions" else 401)
                return
            answer = json.dumps(completion(model, json.loads(body))).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
