"""Opens pages in headless Chromium, spoken to through its pipe, and looks at what is there.

python3 report.py FOLDER_FOR_SCREENSHOTS PAGE...
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile

N_BYTES = 2_000_000

# What is asked of a page: how many curves are drawn, as lines or as points that stand alone, and what sticks out to the right.
LOOK = """(() => {
  const isDrawn = p => p.getAttribute('d').length > 20 && p.getBoundingClientRect().width > 5;
  const shown = [...document.querySelectorAll('figure.chart')].map(figure => ({
    id: figure.id,
    curves: [...figure.querySelectorAll('svg path.line, svg path.faint, svg path.thin')]
      .filter(p => p.getClientRects().length && isDrawn(p)).length,
    lone: figure.querySelectorAll('svg path.dots:not([d=""])').length,
  }));
  const width = document.documentElement.clientWidth;
  const isInScroll = e => e.closest('.scroll') && !e.matches('.scroll');
  const wide = [...document.body.querySelectorAll('*')]
    .filter(e => e.getBoundingClientRect().right > width + 0.5 && !isInScroll(e) && !e.closest('.unseen, svg'))
    .map(e => e.tagName + '.' + e.className);
  return JSON.stringify({ shown, wide, scrolls: document.documentElement.scrollWidth > width,
    height: document.documentElement.scrollHeight, paper: getComputedStyle(document.body).backgroundColor,
    bars: document.querySelectorAll('.bar i').length,
    lanes: document.querySelectorAll('.lanes svg > *').length });
})()"""

# Goes over each chart as a pointer does, and gives what is read out.
READ = """(() => JSON.stringify([...document.querySelectorAll('figure.chart')].map(figure => {
  const area = figure.querySelector('.area'), box = area.getBoundingClientRect();
  area.dispatchEvent(new PointerEvent('pointermove', { clientX: box.left + box.width / 3, clientY: box.top + 5, bubbles: true }));
  const read = figure.querySelector('.read'), r = read.getBoundingClientRect();
  const seen = { text: read.innerText, inside: r.left >= box.left - 1 && r.right <= box.right + 1 };
  // One stays for the screenshot.
  if (figure.id !== 'loss') area.dispatchEvent(new PointerEvent('pointerleave'));
  return seen;
})))()"""


class Browser:
    """A headless Chromium at the other end of two pipes, one JSON text a message, each ended by a zero byte."""

    def __init__(self, profile):
        (read_theirs, self.write), (self.read, write_theirs) = os.pipe(), os.pipe()

        def connect():
            os.dup2(read_theirs, 100)
            os.dup2(write_theirs, 101)
            os.dup2(100, 3)
            os.dup2(101, 4)

        self.process = subprocess.Popen(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--no-first-run", f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"],
            preexec_fn=connect, close_fds=False, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        os.close(read_theirs)
        os.close(write_theirs)
        self.rest, self.n, self.session, self.events = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(f"{domain}.enable")

    def message(self):
        while b"\0" not in self.rest:
            piece = os.read(self.read, 1 << 20)
            assert piece, "the browser has gone"
            self.rest += piece
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        self.n += 1
        request = {"id": self.n, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.write, json.dumps(request).encode() + b"\0")
        while True:
            message = self.message()
            if message.get("id") == self.n:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self.events.append(message)

    def wait_for(self, method):
        while not any(e.get("method") == method for e in self.events):
            self.events.append(self.message())

    def evaluate(self, code):
        result = self.call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in result, result
        value = result["result"]["value"]
        return json.loads(value) if isinstance(value, str) else value


def look_at(browser, page, width, dark, picture):
    """What is wrong with a page at a width in a theme."""
    wrong = []
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.call("Emulation.setEmulatedMedia", features=scheme)
    browser.events.clear()
    browser.call("Page.navigate", url=page.resolve().as_uri())
    browser.wait_for("Page.loadEventFired")
    read = browser.evaluate(READ)
    seen = browser.evaluate(LOOK)
    shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip={
        "x": 0, "y": 0, "width": width, "height": seen["height"], "scale": 1})
    picture.write_bytes(base64.b64decode(shot["data"]))
    for event in browser.events:
        if event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            wrong.append(f"on the console: {json.dumps(event['params'])[:500]}")
        if event.get("method") == "Network.requestWillBeSent":
            url = event["params"]["request"]["url"]
            if not url.startswith(("data:", "file:")) or url.endswith((".js", ".css")):
                wrong.append(f"asks for {url}")
    if not seen["shown"]:
        wrong.append("has no charts")
    wrong += [f"chart {chart['id']} has no curve" for chart in seen["shown"] if chart["curves"] + chart["lone"] == 0]
    wrong += [f"a chart's read-out is `{r['text']}`" for r in read if not r["text"].lower().startswith("step ")]
    wrong += ["a chart's read-out is cut off" for r in read if not r["inside"]]
    if seen["scrolls"] or seen["wide"]:
        wrong.append(f"is too wide: {seen['wide'][:5]}")
    if seen["bars"] == 0 or seen["lanes"] == 0 and "long" not in str(page):
        wrong.append("does not show where time went")
    is_dark = sum(int(c) for c in seen["paper"].strip("rgb()").split(",")) < 3 * 128
    if is_dark != dark:
        wrong.append(f"has paper of {seen['paper']} where {'dark' if dark else 'light'} is preferred")
    return wrong


def main():
    folder, pages = pathlib.Path(sys.argv[1]), [pathlib.Path(p) for p in sys.argv[2:]]
    failed = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        try:
            for page in pages:
                name = page.parent.name if page.parent.name != "report" else page.parent.parent.name
                wrong = []
                n_bytes = page.stat().st_size
                if n_bytes > N_BYTES:
                    wrong.append(f"has {n_bytes} bytes, more than {N_BYTES}")
                for theme, width, dark in [("light", 1200, False), ("dark", 1200, True), ("phone", 390, False)]:
                    found = look_at(browser, page, width, dark, folder / f"{name}-{theme}.png")
                    wrong += [f"{theme}: {w}" for w in found]
                for picture in sorted(page.parent.glob("*.svg")):
                    browser.events.clear()
                    browser.call("Page.navigate", url=picture.resolve().as_uri())
                    browser.wait_for("Page.loadEventFired")
                    n_shapes = browser.evaluate("""document.documentElement.tagName === "svg" &&
                        !document.querySelector("parsererror") ? document.querySelectorAll("path, rect").length : 0""")
                    if not n_shapes:
                        wrong.append(f"its picture {picture.name} is no SVG with shapes")
                print(f"{page}: {n_bytes} bytes, {'; '.join(wrong) or 'as it should be'}")
                failed += bool(wrong)
        finally:
            browser.process.kill()
            browser.process.wait()
    sys.exit(f"{failed} of {len(pages)} pages failed" if failed else 0)


if __name__ == "__main__":
    main()
