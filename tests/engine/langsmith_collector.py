"""A local LangSmith: what its client sends, as the trees that its users see."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from langsmith import Client

# Plain JSON, sent as soon as it is there.
_INFO: Final = {
    "batch_ingest_config": {
        "use_multipart_endpoint": False,
        "scale_up_qsize_trigger": 1000,
        "scale_up_nthreads_limit": 1,
        "scale_down_nempty_trigger": 4,
        "size_limit": 100,
        "size_limit_bytes": 20_971_520,
    }
}


@dataclass
class Span:
    """One run of LangSmith's, and what is below it, in order."""

    told: dict[str, Any]
    below: list[Span] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.told["name"])

    @property
    def error(self) -> str | None:
        error = self.told.get("error")
        return None if error is None else str(error).split("(", maxsplit=1)[0]

    @property
    def ended(self) -> bool:
        return self.told.get("end_time") is not None

    def shape(self) -> Any:
        """Names, and errors where there are some."""
        name = self.name if self.error is None else f"{self.name}: {self.error}"
        return (name, *[span.shape() for span in self.below]) if self.below else name


class Collector:
    """The server, on a port of its own, and a client that talks to it."""

    def __init__(self, **options: Any) -> None:
        self.begun: list[dict[str, Any]] = []
        self.ended: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        ).start()
        url = f"http://127.0.0.1:{self._server.server_port}"
        self.client = Client(api_url=url, api_key="any", info=_INFO, **options)

    def close(self) -> None:
        self.client.close()
        self._server.shutdown()
        self._server.server_close()

    def traces(self) -> list[Span]:
        """What has no parent, with all that is below it."""
        self.client.flush()
        told: dict[str, dict[str, Any]] = {}
        for part in (*self.begun, *self.ended):
            known = {k: v for k, v in part.items() if v is not None}
            told.setdefault(part["id"], {}).update(known)
        # LangSmith goes by the dotted orders: each begins with its parent's.
        spans = {part["dotted_order"]: Span(part) for part in told.values()}
        roots: list[Span] = []
        for order, span in sorted(spans.items()):
            parent = spans.get(order.rpartition(".")[0])
            (roots if parent is None else parent.below).append(span)
            of = None if parent is None else parent.told["id"]
            assert span.told.get("parent_run_id") == of
        return roots

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                told = json.loads(body)
                collector.begun += told.get("post") or []
                collector.ended += told.get("patch") or []
                self.send_response(202)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
