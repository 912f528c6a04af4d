"""A whole session with people in a real browser: label, train, judge, report. The demo's gold plays the person.

    python -m bench.session --out DIR [--pairs 30] [--seconds 2]

Two continuations of each of so many of the demo's prompts are drawn; the person votes on them by keyboard, IPO and DPO
train on those votes, and the person judges samples of both on other prompts, blind, by keyboard. The person reads what
stands on the page and prefers what gold prefers, as noisily as the demo's votes are. Screenshots and the commands that
were run are left in DIR. Needs playwright and Chromium.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from preftune.console import say
from preftune.demo.assets import Gold, fit_gold, hold_out, make_prompts, read_ratings, review
from preftune.demo.downloads import fetch_assets
from preftune.demo.experiment import TEMPERATURE
from preftune.model import cache_folder, convert_model

JUDGED = 40  # prompts that policies are judged on
TIE = 0.02  # of gold: as far as nobody tells two continuations apart
SCREEN = {"width": 1180, "height": 660}
SAMPLED = ["--max-new-tokens", "16", "--precision", "bf16"]
TRAINED = shlex.split(
    "--betas 0.05 --seeds 0 --epochs 2 --batch-size 5 --lr 2e-5 --max-length 64 --samples 2 --checkpoints 1"
)


class Person:
    """Somebody at the page, who takes so many seconds for a pair."""

    def __init__(self, gold: Gold, seconds: float) -> None:
        self._gold, self._seconds, self._rng = gold, seconds, np.random.default_rng(0)

    def key(self, prompt: str, left: str, right: str) -> str:
        """What is pressed, from what stands on the page."""
        first, second = self._gold([review(prompt, left), review(prompt, right)])
        if abs(first - second) < TIE:
            return "0"
        return "1" if self._rng.random() < expit((first - second) / TEMPERATURE) else "2"

    def vote(self, page: Any, most: int = 10_000) -> int:
        """Vote until nothing is left, or the page counts so many votes; how many it counts."""
        while (done := self._count(page)) < most and not page.locator("#done").is_visible():
            prompt, *sides = (one.inner_text() for one in page.locator("#prompt, #sides .pane").all())
            time.sleep(self._seconds * self._rng.uniform(0.8, 1.6))
            with page.expect_response("**/api/vote"):
                page.keyboard.press(self.key(prompt, *sides))
            page.wait_for_selector("#pair:not([hidden]), #done:not([hidden])")
        return done

    def _count(self, page: Any) -> int:
        page.wait_for_selector("#pair:not([hidden]), #done:not([hidden])")
        return int(page.locator("#count").inner_text().removeprefix("ann: ").split()[0])


class Session:
    """A folder with what was run in it."""

    def __init__(self, out: Path, model: Path) -> None:
        self.out, self.model, self.commands = out, model, list[str]()

    def command(self, *words: str) -> list[str]:
        """The arguments of a preftune command, written down as a person would type it."""
        self.commands.append(shlex.join(["preftune", *words]))
        say(self.commands[-1])
        return [
            sys.executable,
            "-m",
            "preftune",
            *(str(self.model) if word == self.model.name else word for word in words),
        ]

    def run(self, *words: str) -> str:
        """Run a command; what it printed."""
        return subprocess.run(self.command(*words), cwd=self.out, check=True, capture_output=True, text=True).stdout

    @contextmanager
    def serve(self, *words: str) -> Iterator[list[str]]:
        """The links of a page, for voting and for the organiser, while a command serves it."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [*self.command(*words), "--port", str(port)]
        process = subprocess.Popen(command, cwd=self.out, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        try:
            links = list[str]()
            while len(links) < 2:
                line = process.stderr.readline()
                assert line, "the page did not start"
                print(line, end="", file=sys.stderr)
                links += [line.split()[-1]] if "#" in line else []
            yield links
        finally:
            process.send_signal(signal.SIGINT)
            print(process.stderr.read(), file=sys.stderr)
            process.wait()


def label(session: Session, person: Person, page: Any, pairs: int) -> int:
    """Draw responses to prompts and vote on the pairs; how many votes there were."""
    words = ["prompts.jsonl", "--model", session.model.name, "--out", "labels", "--by", "ann", *SAMPLED]
    with session.serve("label", *words) as (vote, organiser):
        page.goto(vote)
        person.vote(page, pairs // 2)
        page.screenshot(path=session.out / "label.png")
        done = person.vote(page, pairs)
        page.goto(organiser)
        page.wait_for_selector("#people td")
        page.screenshot(path=session.out / "label-organiser.png")
    return done


def train(session: Session) -> None:
    """Two policies from the votes."""
    words = [
        "--model",
        session.model.name,
        "--data",
        "labels/labelled.jsonl",
        "--methods",
        "dpo,ipo",
        *TRAINED,
        *SAMPLED,
    ]
    session.run("compare", *words, "--prompts", "judged.jsonl", "--out", "study")


def judge(session: Session, person: Person, page: Any) -> int:
    """Judge the policies, blind, until nothing is left; how many votes there were."""
    with session.serve("arena", "study", "--by", "ann") as (vote, organiser):
        page.goto(vote)
        page.wait_for_selector("#pair:not([hidden])")
        page.screenshot(path=session.out / "arena.png")
        done = person.vote(page)
        page.goto(organiser)
        page.wait_for_selector("#questions td")
        page.screenshot(path=session.out / "organiser.png")
    return done


def report(session: Session, page: Any) -> None:
    """The report with the votes of people, and what it says of them."""
    print(session.run("report", "study"))
    print(session.run("people", "show", "study/arena/arms"))
    page.goto((session.out / "study" / "report.html").as_uri())
    page.screenshot(path=session.out / "report.png")
    page.locator("#conclude").screenshot(path=session.out / "report-conclude.png")
    page.locator("#judges").screenshot(path=session.out / "report-people.png")


def prepare(out: Path, pairs: int) -> tuple[Path, Gold]:
    """The model and gold; prompts to vote on and prompts to judge on, in `out`."""
    cache = cache_folder() / "demo"
    assets = fetch_assets(cache)
    ratings = read_ratings(assets.ratings)
    fitting, prompting = hold_out(ratings.snippets, 0.2, seed=0)
    for name, prompts in zip(("prompts", "judged"), make_prompts(prompting, pairs, JUDGED, seed=0), strict=True):
        lines = [json.dumps({"prompt": prompt}) + "\n" for prompt in prompts]
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return convert_model(assets.gguf, cache / "SmolLM2-135M-Instruct"), fit_gold(fitting, prompting)


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=2.0, help="that the person takes for a pair, about")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    model, gold = prepare(given.out, given.pairs)
    session, person = Session(given.out, model), Person(gold, given.seconds)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SCREEN)
        print(f"{label(session, person, page, given.pairs)} votes on pairs of the reference's own continuations")
        train(session)
        print(f"{judge(session, person, page)} votes on pairs of trained policies")
        report(session, page)
        browser.close()
    (given.out / "commands.txt").write_text("\n".join(session.commands) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
