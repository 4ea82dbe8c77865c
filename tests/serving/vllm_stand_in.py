"""A stand-in for vLLM's server: checks requests as vLLM documents it, and decodes with transformers.

It loads the folder that `e2llm export --merged` wrote. What it checks of `prompt_embeds`: strict base64,
`torch.load` with `weights_only`, a dense 2-D tensor of floating-point numbers, as wide as the model.
"""

import asyncio
import base64
import binascii
import contextlib
import io
import json
import socket
import threading

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.routing import Route
from transformers import AutoModelForCausalLM, AutoTokenizer

PENALTIES = {"presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1}


class RefusedError(Exception):
    """A request that vLLM would answer with 400."""


class VllmStandIn:
    """The server; `requests` are the bodies that came, `headers` those of the last request.

    Args:
        folder: Of the decoder.
        max_model_len: Positions of prompt and answer.
    """

    def __init__(self, folder, max_model_len=512):
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.max_model_len = max_model_len
        self.requests, self.headers = [], {}
        self.trouble = None  # what to do instead of answering
        self.arrived = threading.Semaphore(0)
        self.left = threading.Event()
        self.meeting = asyncio.Barrier(2)
        routes = [Route("/v1/models", self.models), Route("/v1/completions", self.complete, methods=["POST"])]
        self.app = Starlette(routes=routes)

    async def models(self, request):
        self.headers = dict(request.headers)
        if self.trouble == "key" and request.headers.get("authorization") != "Bearer the-key":
            return JSONResponse({"error": "Unauthorized"}, 401)
        if self.trouble == "moved":
            return RedirectResponse("/elsewhere")
        if self.trouble == "no models":
            return JSONResponse({"data": []})
        return JSONResponse({"data": [{"id": "decoder", "max_model_len": self.max_model_len}]})

    async def complete(self, request):
        body = await request.json()
        self.headers = dict(request.headers)
        self.requests.append(body)
        self.arrived.release()
        if self.trouble == "meet":
            await self.meeting.wait()
        if isinstance(self.trouble, int):
            return JSONResponse({"error": {"message": "a secret of the inside"}}, self.trouble)
        if self.trouble == "moved":
            return RedirectResponse("/v1/models")
        try:
            embeds = self.embed_prompt(body)
            if len(embeds) + body["max_tokens"] > self.max_model_len:
                raise RefusedError("too long")
        except RefusedError as error:
            return JSONResponse({"error": {"message": str(error)}}, 400)
        return StreamingResponse(self.events(body, embeds), media_type="text/event-stream")

    # --- reading ------------------------------------------------------------------------------------------

    def load(self, data):
        if not data:
            raise RefusedError("prompt_embeds without data")
        try:
            raw = base64.b64decode(data, validate=True)
        except (binascii.Error, TypeError) as error:
            raise RefusedError("no base64") from error
        tensor = torch.load(io.BytesIO(raw), weights_only=True, map_location="cpu")
        width = self.model.get_input_embeddings().weight.shape[1]
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise RefusedError("no dense tensor")
        if tensor.dim() != 2 or tensor.shape[1] != width or not tensor.is_floating_point():
            raise RefusedError(f"a tensor of shape {tuple(tensor.shape)} and {tensor.dtype}")
        if tensor.dtype != self.model.dtype:  # vLLM would convert it; here the right one is expected
            raise RefusedError(f"dtype {tensor.dtype}, the decoder has {self.model.dtype}")
        return tensor

    def embed_prompt(self, body):
        if any(body.get(name, rest) != rest for name, rest in PENALTIES.items()):
            raise RuntimeError("the engine is dead")  # as penalties beside embedded prompts may end it
        if body.get("prompt_embeds"):
            return self.load(body["prompt_embeds"])
        if not body.get("prompt"):
            raise RefusedError("either prompt or prompt_embeds must be given")
        with torch.no_grad():
            return self.model.get_input_embeddings()(torch.tensor(body["prompt"], dtype=torch.long))

    # --- answering ----------------------------------------------------------------------------------------

    async def events(self, body, embeds):
        def event(text, reason=None, stopped_by=None):
            choice = {"index": 0, "text": text, "finish_reason": reason, "stop_reason": stopped_by}
            return f"data: {json.dumps({'choices': [choice]})}\n\n"

        try:
            if self.trouble in ("silent", "stuck"):
                yield event("on and") if self.trouble == "stuck" else ": nothing yet\n\n"
                await asyncio.Event().wait()
            if self.trouble == "spaces":
                for text in ("  \n ", " a", " ", "b ", " \n"):
                    yield event(text)
                yield event("", "length")
                return
            yield ": a comment\n\n"
            told, num_tokens, reason, stopped_by = "", 0, "length", None
            for text, num_tokens, reason in self.decode(body, embeds):
                places = [(text.find(stop), stop) for stop in body.get("stop", []) if stop in text]
                if places:
                    place, stopped_by = min(places)
                    text, reason = text[:place], "stop"
                if reason is None and self.trouble == "breaks" and num_tokens == 2:
                    raise ConnectionResetError("the machine went away")
                if reason is None and self.trouble == "error event":
                    yield 'data: {"error": {"message": "a secret of the inside", "code": 500}}\n\n'
                    return
                if reason is None:  # what may become a stop text is held back
                    text = text[
                        : len(text) - max((len(stop) - 1 for stop in body.get("stop", [])), default=0)
                    ]
                if len(text) > len(told):
                    yield event(text[len(told) :])
                    told = text
                if reason:
                    break
            if self.trouble == "no end":
                return
            yield event("", "abort" if self.trouble == "abort" else reason, stopped_by)
            yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': num_tokens}})}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self.left.set()

    @torch.no_grad()
    def decode(self, body, embeds):
        """Text so far, tokens so far and reason of each step; greedy."""
        ids, cache, inputs = [], None, {"inputs_embeds": embeds[None]}
        ends = {*body["stop_token_ids"], self.model.generation_config.eos_token_id}
        while True:
            output = self.model(**inputs, past_key_values=cache, use_cache=True)
            cache, logits = output.past_key_values, output.logits[0, -1]
            for token, bias in body["logit_bias"].items():
                logits[int(token)] += bias
            token = int(logits.argmax())
            ids.append(token)
            inputs = {"input_ids": torch.tensor([[token]])}
            reason = "stop" if token in ends else "length" if len(ids) >= body["max_tokens"] else None
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            yield text if reason else text.rstrip("\ufffd"), len(ids), reason
            if reason:
                return


@contextlib.contextmanager
def running(app):
    """Run an application in a thread; gives its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        started, startup = threading.Event(), server.startup

        async def begin(sockets=None):
            await startup(sockets)
            started.set()

        server.startup = begin
        thread.start()
        assert started.wait(30)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
