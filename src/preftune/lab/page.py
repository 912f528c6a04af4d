"""The lab as one self-contained HTML page: sliders over the closed forms, the paper's bandits, the statements."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import vl_convert
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape
from scipy.special import expit

from . import bandits
from .bandits import Curve
from .statement import CORRECTED, FAILS, HOLDS, NEEDED, Checked
from .statements import check_all
from .worlds import Floats

QUICK_STEPS = 2_000
HERE = Path(__file__).parent
VEGA_LITE = "6.4"
DATASETS = {  # how the menus call the sets of votes
    "D1": "in order: a over b, b over c, a over c",
    "D2": "in a circle: a over b, b over c, c over a",
    "D3 as printed": "third bandit as printed: a over b, b over a",
    "D3 as meant": "third bandit as meant: a over b, b over a, a over c",
}
KINDS = {HOLDS: "holds", CORRECTED: "corrected", NEEDED: "corrected", FAILS: "fails"}


def write_page(
    out: Path,
    *,
    steps: int = bandits.STEPS,
    seed: int = 0,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Path:
    """Run the bandits and the statements and write the page to `out`; nothing is left half-written.

    `steps` of the bandits' protocol can be fewer for a quick look; `track` wraps them, to show progress.
    """
    curves, checked = bandits.train(steps, seed=seed, track=track), check_all(seed)
    out = out.resolve()  # a link stays one
    partial = out.with_name(out.name + ".partial")
    partial.write_text(_page(curves, checked, steps, seed), encoding="utf-8")
    partial.replace(out)
    return out


def _page(curves: Sequence[Curve], checked: Sequence[Checked], steps: int, seed: int) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [
        _inline(text) for text in (_library(), *((HERE / f).read_text("utf-8") for f in ("forms.js", "page.js")))
    ]
    rows = [_bandit(curve, last=i and curves[i - 1].dataset) for i, curve in enumerate(curves)]
    return environment.get_template("page.html.j2").render(
        datasets=DATASETS,
        betas=bandits.BETAS,
        protocol={"steps": steps, "batch": bandits.BATCH, "seeds": bandits.SEEDS},
        bandits=rows,
        inside=sum(row["inside"] for row in rows),
        cells=3 * len(rows),
        asymptotic=", ".join(f"{expit(0.5 / beta):.4f}" for beta in bandits.BETAS),
        groups=_groups(checked),
        seed=seed,
        version=version("preftune"),
        votes=htmlsafe_json_dumps(bandits.DATASETS),
        curves=htmlsafe_json_dumps([_plotted(curve) for curve in curves]),
        scripts=scripts,
        policy="; ".join(_policy(scripts)),
    )


def _plotted(curve: Curve) -> Mapping[str, Any]:
    mean, low, high = (np.round(part, 4).tolist() for part in curve.band())
    about = {"dataset": curve.dataset, "method": curve.method, "beta": curve.beta}
    return about | {
        "steps": curve.steps.tolist(),
        "mean": mean,
        "low": low,
        "high": high,
        "optimum": np.round(curve.optimum, 4).tolist(),
    }


def _bandit(curve: Curve, last: Any) -> Mapping[str, Any]:
    mean, low, high = (part[-1] for part in curve.band())
    return {
        "dataset": curve.dataset,
        "first": curve.dataset != last,
        "beta": curve.beta,
        "method": curve.method,
        "optimum": ", ".join(f"{value:.3f}" for value in curve.optimum),
        "trained": [(f"{centre:.3f}", f"{end - centre:.3f}") for centre, end in zip(mean, high, strict=True)],
        "inside": _inside(curve.optimum, low, high),
    }


def _inside(optimum: Floats, low: Floats, high: Floats) -> int:
    return int(((low - 5e-4 <= optimum) & (optimum <= high + 5e-4)).sum())  # to the three decimals that are printed


def _groups(checked: Sequence[Checked]) -> Mapping[str, list[Mapping[str, str]]]:
    groups: dict[str, list[Mapping[str, str]]] = {}
    for one in checked:
        statement, evidence = one.statement, one.evidence
        row = {
            "name": statement.name,
            "claim": _typeset(statement.claim),
            "remark": _typeset(statement.remark),
            "verdict": statement.verdict if one.passed else "NOT CONFIRMED",
            "kind": KINDS[statement.verdict] if one.passed else "fails",
            "residual": f"{evidence.residual:.0e}" if evidence.residual else "0",
            "gap": "" if evidence.gap is None else f"{evidence.gap:.2g}",
        }
        groups.setdefault(statement.group, []).append(row)
    return groups


def _typeset(formula: str) -> Markup:
    """Subscripts and superscripts of x_a, x_ref, x_{…} and x^{…}."""
    text = str(escape(formula))
    text = re.sub(r"_(?:\{([^}]*)\}|(ref|ab|\w))", lambda m: f"<sub>{m[1] or m[2]}</sub>", text)
    return Markup(re.sub(r"\^\{([^}]*)\}", r"<sup>\1</sup>", text))


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)


def _inline(script: str) -> Markup:
    """A script fit to stand inside a page: the only two strings that could end or derail it are escaped."""
    return Markup(script.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


def _policy(scripts: Sequence[str]) -> list[str]:
    """What the page may do: run exactly these scripts and fetch nothing."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return ["default-src 'none'", f"script-src {hashes}", "style-src 'unsafe-inline'", "img-src data:"]
