"""`GET /docs`: the interface as one plain page, from its own description.

It loads nothing: no script, no style and no font of anybody's, so that it works without
the internet and tells nobody that it was read. The whole description, with every field,
is `openapi.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import HTMLResponse

if TYPE_CHECKING:
    from fastapi import FastAPI

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2em auto;max-width:60em}"
    "td,th{padding:.2em 1em .2em 0;text-align:left;vertical-align:top}"
    "code{font-family:ui-monospace,monospace}"
)


def add_docs_page(app: FastAPI, prefix: str) -> None:
    """Serves the page at `/docs` under the prefix."""

    async def docs() -> HTMLResponse:
        page = "\n".join(_page(app.openapi(), f"{prefix}/openapi.json"))
        return HTMLResponse(page)

    app.add_api_route(f"{prefix}/docs", docs, include_in_schema=False)


def _page(document: Mapping[str, Any], source: str) -> Iterator[str]:
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
    yield f"<style>{_STYLE}</style><h1>{title}</h1>"
    yield f'<p>Every field: <a href="{escape(source)}">openapi.json</a></p><table>'
    yield "<tr><th>method<th>path<th>does"
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            does = route.get("description") or route.get("summary", "")
            first = does.strip().partition("\n\n")[0]
            yield (
                f"<tr><td>{escape(method.upper())}<td><code>{escape(path)}</code>"
                f"<td>{escape(first)}"
            )
    yield "</table></html>"
