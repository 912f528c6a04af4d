"""The shell of a page that is one file: its script policy, and what makes a script or a text fit to stand in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from markupsafe import Markup


def inline(script: str) -> Markup:
    """A script of ours fit to stand inside a page: the only two strings that could end or derail it are escaped."""
    return Markup(script.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


def script_policy(scripts: Sequence[str]) -> list[str]:
    """What the page may do: run exactly these scripts and fetch nothing, whatever a model wrote into it."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return ["default-src 'none'", f"script-src {hashes}", "style-src 'unsafe-inline'", "img-src data:"]
