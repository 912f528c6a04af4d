"""Texts of strangers as a page shows them: Markdown without HTML, images or links, so that nothing in it acts.

What a person votes on is the text: a rule that would hide a part of it, or show another character, is off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape, unescape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from ..data import TOOLS, Prompt
from ..text import harmless
from .pairs import Pair

MOST = 12_000  # characters that are rendered
OFF = ("html_block", "html_inline", "image", "link", "autolink", "reference", "entity")
TAG = re.compile(r"<[^>]*>")  # of ours: every other < is escaped
ROLES = {"user": "User", "assistant": "Assistant", "system": "System", TOOLS: "Tools", "tool": "Tool"}

_markdown = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 12}).enable(["table"]).disable(OFF)


def rendered(text: str) -> str:
    """HTML of a text; as plain text where Markdown would hide some of its letters."""
    plain = harmless(text)
    tokens = _markdown.parse(plain)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):  # below the headings of the page
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"
        elif token.type in ("th_open", "td_open"):
            token.attrs = {}  # a style, which the policy of the page forbids
    html = str(_markdown.renderer.render(tokens, _markdown.options, {}))
    return html if _letters(unescape(TAG.sub("", html))) == _letters(plain) else f"<pre>{escape(plain)}</pre>"


def _fence(_: object, tokens: Sequence[Token], at: int, *rest: object) -> str:
    """A block of code with its language, which would be hidden otherwise."""
    language = f'<p class="language">{escape(tokens[at].info)}</p>' if tokens[at].info.strip() else ""
    return f'{language}<pre dir="ltr"><code>{escape(tokens[at].content)}</code></pre>\n'


_markdown.add_render_rule("fence", _fence)


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text))


def shown(text: str) -> dict[str, Any]:
    """A text as the page takes it: HTML of its beginning, and how many characters follow."""
    return {"html": rendered(text[:MOST]), "more": max(len(text) - MOST, 0)}


def turns(prompt: Prompt) -> list[dict[str, Any]]:
    """A prompt turn by turn; who speaks is "" in a plain text."""
    if isinstance(prompt, str):
        return [{"role": "", **shown(prompt)}]
    return [{"role": ROLES.get(turn.role, "Other"), **shown("\n".join(filter(None, turn[1:])))} for turn in prompt]


def pair_shown(pair: Pair, sides: tuple[int, int]) -> dict[str, Any]:
    """A pair as somebody sees it: the response on the left first."""
    both = [{"name": pair.names[k], **shown(pair.texts[k])} for k in sides]
    return {"pair": pair.id, "prompt": turns(pair.prompt), "sides": both}


def whole(pair: Pair) -> dict[str, Any]:
    """All of the texts of a pair as plain text, for whoever wants to read on or to see the difference."""
    prompt = pair.prompt if isinstance(pair.prompt, str) else "\n\n".join("\n".join(turn) for turn in pair.prompt)
    texts = dict(zip(pair.names, map(harmless, pair.texts), strict=True))
    return {"pair": pair.id, "prompt": harmless(prompt), "texts": texts}
