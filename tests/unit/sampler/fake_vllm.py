#!/usr/bin/env python3
"""A server with vLLM's routes as far as `OwnServer` asks for them. FAKE_VLLM_LIVES: a file with how many tokens each
process samples before its engine dies."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LIVES = Path(os.environ["FAKE_VLLM_LIVES"])
LAST_WORDS = """\
(EngineCore pid=7) ERROR 11-28 14:00:00 [core.py:1034] EngineCore encountered a fatal error.
(EngineCore pid=7) ERROR 11-28 14:00:00 [core.py:1034] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-28 14:00:00 [core.py:1034]   File "cpu_attn.py", line 12, in forward
(EngineCore pid=7) ERROR 11-28 14:00:00 [core.py:1034] NotImplementedError: head size 16 is not supported
(APIServer pid=6) ERROR 11-28 14:00:00 [async_llm.py:600] vllm.v1.engine.exceptions.EngineDeadError: EngineCore \
encountered an issue. See stack trace (above) for the root cause.
(APIServer pid=6) INFO:     Shutting down
"""


class Handler(BaseHTTPRequestHandler):
    left = int(LIVES.read_text())

    def do_GET(self):
        known = {"/health": "", "/v1/models": {"data": [{"id": "base", "max_model_len": 512}]}, "/metrics": ""}
        self.answer(known[self.path])

    def do_POST(self):
        if Handler.left <= 0:
            sys.stderr.write(LAST_WORDS)
            sys.stderr.flush()
            os._exit(1)
        Handler.left -= 1
        self.answer({"choices": [{"token_ids": [1]}]})

    def answer(self, body):
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
