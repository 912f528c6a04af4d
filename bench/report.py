"""How large is a report, how soon does it open, and what does axe-core say of it?

    python -m bench.report

Synthetic studies, the largest of 200 runs × 10 checkpoints × 256 samples of about 900 characters. Each page is opened
in fresh contexts of the system's Chromium; the times are the browser's own, from the start of the navigation to the end
of the load event (by then the page's script has run) and to the first contents on the screen.
"""

import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

from bench.machine import describe_machine, show, write_results
from preftune.evidence.results import read_samples
from preftune.evidence.rows import write_records
from preftune.report import write_report
from tests.synthetic_study import write_synthetic_study

SIZES = {  # arms, β, seeds, checkpoints, samples
    "8 runs × 4 checkpoints × 160 samples": (2, 2, 2, 4, 160),
    "200 runs × 10 checkpoints × 256 samples": (4, 10, 5, 10, 256),
}
CURVES = {"dpo": (0.46, 0.05), "ipo": (0.42, 0.06), "amortized-ipo": (0.47, 0.05), "rloo": (0.56, 0.07)}
TURNS = 7
TIMES = """() => {
  const load = performance.getEntriesByType("navigation")[0].loadEventEnd;
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  return {load, paint: paint ? paint.startTime : null, elements: document.querySelectorAll("*").length};
}"""


def make(folder: Path, arms: int, betas: int, seeds: int, checkpoints: int, samples: int) -> None:
    write_synthetic_study(
        folder,
        curves=CURVES,
        arms=list(CURVES)[:arms],
        betas=[round(0.01 * 1.6**i, 3) for i in range(betas)],
        seeds=range(seeds),
        steps=[20 * (i + 1) for i in range(checkpoints)],
        prompts=samples,
        samples=1,
    )
    longer = (replace(row, response=row.response * 20) for row in read_samples(folder / "samples.jsonl"))
    write_records(folder / "samples.jsonl", longer)


def opened(browser: Browser, path: Path) -> dict[str, Any]:
    """The medians over turns."""
    found = []
    for _ in range(TURNS):
        context = browser.new_context(viewport={"width": 1280, "height": 860})
        page = context.new_page()
        page.goto(path.as_uri())
        page.wait_for_timeout(300)
        found.append(page.evaluate(TIMES))
        context.close()
    return {name: statistics.median(times[name] for times in found) for name in ("load", "paint", "elements")}


def audited(browser: Browser, path: Path) -> list[dict[str, Any]]:
    """What axe-core finds, in the light and in the dark."""
    found = []
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(path.as_uri())
        rules = Axe().run(page).response["violations"]
        found += [{"scheme": scheme, "rule": r["id"], "impact": r["impact"], "places": len(r["nodes"])} for r in rules]
        context.close()
    return found


def measure(browser: Browser, size: tuple[int, ...]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        make(Path(place), *size)
        started = time.monotonic()
        path = write_report(Path(place))
        drawn = time.monotonic() - started
        times = opened(browser, path)
        return {"bytes": path.stat().st_size, "drawn": drawn, **times, "axe": audited(browser, path)}


def main() -> None:
    with sync_playwright() as play:
        chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        results = {name: measure(browser, size) for name, size in SIZES.items()}
        chromium_version = browser.version
        browser.close()
    show(
        "reports",
        ["study", "page, MB", "first contents, s", "loaded, s", "drawn in, s", "axe-core"],
        [
            [
                name,
                f"{row['bytes'] / 1e6:.2f}",
                f"{row['paint'] / 1e3:.2f}",
                f"{row['load'] / 1e3:.2f}",
                f"{row['drawn']:.1f}",
                ", ".join(f"{rule['rule']} ({rule['impact']}, {rule['scheme']})" for rule in row["axe"]) or "nothing",
            ]
            for name, row in results.items()
        ],
    )
    write_results("report", {"machine": describe_machine(), "chromium": chromium_version, "reports": results})


if __name__ == "__main__":
    main()
