"""Compare the page of `export --web` in a real browser with onnxruntime in Python.

    python benchmarks/bench_web.py --student mobilenetv3 --target scale --images DIR [--root DIR] [--int8] [--shots DIR]

Needs a finished student and Chromium. The page is opened from disk, and DIR's first 50 pictures are chosen in it.
Printed are the file's size, the share of pictures whose first label is onnxruntime's, the largest difference of an
embedding, what console and network log hold, and the milliseconds of one image in the page and natively, one thread
each: the fastest of 200 in turn, which other work on the machine lengthens least.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.export import ExportOptions, export
from pipeline.commands.export_web import export_web
from pipeline.data.user_images import find_images, load_center_view
from pipeline.deployment.labels import labels_of_split
from pipeline.deployment.onnx_session import open_session, run_session
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from tests.factories.chromium import Chromium

COUNT, ROUNDS = 50, 5
SIZES, SCHEMES = (1400, 390), ("light", "dark")
TIMES = """(async () => {
  const student = demo.students[0], times = [];
  const pixels = new Uint8Array(student.about.size ** 2 * 3);
  for (let i = 0; i < 45; i++) times.push((await student.embed(pixels)).milliseconds);
  return times.slice(5);
})()"""


def fastest(call: Callable[[], object]) -> float:
    """Return the milliseconds of the fastest of 40 calls, after five."""
    times = []
    for _ in range(45):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return min(times[5:])


def screenshots(browser: Chromium, folder: Path) -> None:
    """Write the page as it is seen at both widths, light and dark."""
    folder.mkdir(parents=True, exist_ok=True)
    for width in SIZES:
        for scheme in SCHEMES:
            browser.screenshot(folder / f"web-{width}-{scheme}.png", width, 1100, scheme)


def main() -> None:
    """Export, open, compare, and print one line for each claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="mobilenetv3")
    parser.add_argument("--target", default="scale")
    parser.add_argument("--set", default="badges", help="the zero-shot set whose labels are used")
    parser.add_argument("--images", required=True)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--shots", type=Path)
    options = parser.parse_args()
    layout, runtime = Layout(options.root), Runtime()
    folder, pictures = layout.model(options.student, options.target), find_images([options.images])[:COUNT]
    with tempfile.TemporaryDirectory() as temporary:
        form, there = ExportOptions(int8=options.int8), Path(temporary)
        model = export(folder, there / "onnx", form, layout, runtime).folder / form.file
        page = export_web(
            [folder],
            there / "page.html",
            layout,
            runtime,
            labels=options.set,
            zero_shot=[options.set],
            int8=options.int8,
        ).path
        session = open_session(model, threads=1)
        size = session.get_inputs()[0].shape[1]
        pixels = np.stack([load_center_view(path, size) for path in pictures])
        expected = run_session(session, pixels)[0]
        browser = Chromium(there / "profile")
        try:
            browser.open(page, "window.demo?.ready")
            browser.choose("#files", pictures)
            browser.wait("document.getElementById('status').textContent === 'Done.'", 600)
            found, seen, top = (
                np.array(browser.evaluate(f"demo.looks.map(({{ answers: [answer] }}) => {expression})"))
                for expression in (
                    "Array.from(answer.embedding)",
                    "Array.from(answer.pixels)",
                    "largest(answer.probabilities, 1)[0]",
                )
            )
            same = seen == pixels.reshape(len(pixels), -1)
            one, web, native = pixels[:1], [], []
            for _ in range(ROUNDS):
                web.append(min(browser.evaluate(TIMES)))
                native.append(fastest(lambda: session.run(None, {"image": one})))
            heard, sent = browser.console(), browser.requests()
            if options.shots:
                screenshots(browser, options.shots)
            print(f"{page.stat().st_size / 1e6:.2f} MB, model {model.stat().st_size / 1e6:.2f} MB at {size} px")
        finally:
            browser.close()
        labels = labels_of_split(options.set, layout)
        print(f"first label equal: {np.mean(top == labels.probabilities(expected).argmax(axis=1)):.0%} of {len(top)}")
        print(f"largest difference of an embedding: {np.abs(found - expected).max():.2g}")
        print(f"equal bytes of pixels: {same.mean():.4%}")
        print(f"console: {heard}; requests: {sent}")
        print(
            f"one image: {min(web):.2f} ms in the page, {min(native):.2f} ms natively: {min(web) / min(native):.1f} x"
        )


if __name__ == "__main__":
    main()
