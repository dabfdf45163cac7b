"""How long until a page shows a graph, and until a slider has pruned it anew?

A random graph of 12 layers with 5,000 nodes and 50,000 edges, in headless Chromium without a network. Every run opens
the page in a browser of its own. Times are on the browser's clock: from the start of the navigation to the first paint
of the graph; and from a slider's move to the scores, and to the frame that shows what is left.
"""

import argparse
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tl_circuits as tlc
from benchmarks.pruning import Shape, random_graph
from benchmarks.record import Record, add_options, median, say, settings

QUESTION = (__doc__ or "").splitlines()[0]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZE = {"width": 1500, "height": 950}
THRESHOLDS = (0.7, 0.9, 0.6, 0.95, 0.5)

PAINTED = """() => new Promise((done) => {
  const look = () => {
    const [mark] = performance.getEntriesByName("tl-circuits-painted");
    const [first] = performance.getEntriesByName("first-contentful-paint");
    if (mark) done({painted: mark.startTime, first: first ? first.startTime : null});
    else requestAnimationFrame(look);
  };
  look();
})"""

MOVED = """(value) => new Promise((done) => {
  const slider = document.querySelector("input[type=range]");
  slider.value = value;
  const start = performance.now();
  slider.dispatchEvent(new Event("input", {bubbles: true}));
  const {store} = tlCircuitsPage;
  const kept = store.scores.value && store.links.value && store.rows.value.length;
  const pruned = performance.now() - start;
  requestAnimationFrame(() => requestAnimationFrame(() => done({pruned, shown: performance.now() - start, kept})));
})"""


def main(argv: list[str] | None = None) -> None:
    """Measures and stores."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--n-nodes", type=int, default=5_000)
    parser.add_argument("--n-edges", type=int, default=50_000)
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser")
    add_options(parser, runs=7)
    arguments = parser.parse_args(argv)
    shape = Shape(n_nodes=arguments.n_nodes, n_edges=arguments.n_edges)
    with tempfile.TemporaryDirectory() as folder:
        page = tlc.save_page(random_graph(shape), Path(folder, "page.html"))
        size = page.stat().st_size
        runs = []
        for number in range(arguments.runs):
            runs.append(_run(page, arguments.chromium))
            say(f"run {number + 1} of {arguments.runs}: {runs[-1]['painted'] / 1000:.2f} s")
    moves = [move for run in runs for move in run["moves"]]
    record = Record(
        question=QUESTION,
        script="page",
        case=asdict(shape),
        settings=settings(arguments, *asdict(shape), "chromium"),
        figures={
            "first_paint_s": median(run["painted"] for run in runs) / 1000,
            "prune_anew_ms": median(move["pruned"] for move in moves),
            "prune_anew_to_frame_ms": median(move["shown"] for move in moves),
            "page_mib": size / 2**20,
            "runs": len(runs),
        },
        measured={"runs": runs},
        seed=shape.seed,
        peer={"chromium": runs[0]["version"]},
    )
    record.write(arguments.out, "page")


def _run(page: Path, chromium: str) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        tab = browser.new_context(viewport=SIZE, offline=True).new_page()  # type: ignore
        tab.goto(page.as_uri())
        times = tab.evaluate(PAINTED)
        moves = [tab.evaluate(MOVED, threshold) for threshold in THRESHOLDS]
        version = browser.version
        browser.close()
    return {**times, "moves": moves, "version": version}


if __name__ == "__main__":
    main()
