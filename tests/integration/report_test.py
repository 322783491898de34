"""Looks at a comparison's report in a headless Chromium: phone, desktop, dark scheme and print.

The sample comes from the C++ test (ATTUNE_REPORT_TEST_BINARY names another build's). ATTUNE_REPORT_PICTURES names a
folder that keeps the pictures for people to look at.
"""
import collections
import os
import subprocess
import tempfile
import unittest

import chromium

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("ATTUNE_REPORT_TEST_BINARY",
                        os.path.join(SOURCE, "build", "tests", "comparison_report_html_test"))
PHONE, DESKTOP = (375, 800), (1280, 900)

# What stands out of the page, of its own scroll box or of its drawing; and which texts of a plot cover each other.
MEASURE = r"""(() => {
  const box = element => element.getBoundingClientRect();
  const isShown = element => element.getClientRects().length > 0 && box(element).width > 0;
  const name = element => element.tagName + '.' + element.getAttribute('class') + ': ' + element.textContent.slice(0, 60);
  const inScroll = element => element.closest('.scroll, pre, .unseen');
  const outside = [...document.querySelectorAll('body *')].filter(element => isShown(element) && !inScroll(element)
    && (box(element).left < -0.5 || box(element).right > innerWidth + 0.5));
  const drawn = [], covering = [];
  for (const svg of [...document.querySelectorAll('svg')].filter(isShown)) {
    const frame = box(svg);
    for (const shape of svg.querySelectorAll('text, line, circle, rect, path')) {
      const b = box(shape);
      if (b.left < frame.left - 0.5 || b.right > frame.right + 0.5 || b.top < frame.top - 0.5 ||
          b.bottom > frame.bottom + 0.5) drawn.push(name(shape));
    }
    const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBBox()]);
    texts.forEach(([one, a], i) => texts.slice(i + 1).forEach(([other, b]) => {
      if (Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x) > 0.5 &&
          Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y) > 0.5) covering.push(one + ' / ' + other);
    }));
  }
  const clipped = [...document.querySelectorAll('td, th, dd, dt, p, h1, h2, h3')].filter(element => isShown(element) &&
    !element.closest('.unseen') && element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).display !== 'inline');
  return {scroll: document.scrollingElement.scrollWidth, inner: innerWidth, outside: outside.map(name), drawn, covering,
          clipped: clipped.map(name), plots: [...document.querySelectorAll('svg.plot')].filter(isShown).length,
          labels: [...document.querySelectorAll('svg.plot')].filter(isShown).map(s => s.querySelectorAll('text.label').length),
          small: [...document.querySelectorAll('svg.plot text')].filter(t => isShown(t) && box(t).height < 11).map(name)};
})()"""

# Texts whose contrast with what is behind them is below 4.5 (WCAG 2.1, AA).
CONTRAST = r"""(() => {
  const parse = text => { const v = text.match(/[\d.]+/g).map(Number); return {rgb: v.slice(0, 3), alpha: v.length > 3 ? v[3] : 1}; };
  const light = rgb => { const [r, g, b] = rgb.map(v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = element => { for (; element; element = element.parentElement) {
    const colour = parse(getComputedStyle(element).backgroundColor); if (colour.alpha > 0) return colour.rgb; } return [255, 255, 255]; };
  const found = [];
  let count = 0;
  for (const element of document.querySelectorAll('body *')) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()) || !element.getClientRects().length) continue;
    if (element.closest('title, desc')) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(element.closest('svg') ? style.fill : style.color).rgb), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    ++count;
    if (ratio < 4.5) found.push(ratio.toFixed(2) + ' ' + element.className + ': ' + element.textContent.slice(0, 40));
  }
  return {count, found};
})()"""


@unittest.skipUnless(chromium.find(), "no Chromium here: deploy/install-dependencies --tests installs it")
class ReportTest(unittest.TestCase):
    """One browser for all tests."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="attune_report.")
        cls.addClassCleanup(folder.cleanup)
        cls.page = os.path.join(folder.name, "report.html")
        cls.browser = cls.enterClassContext(chromium.Chromium(chromium.find()))
        subprocess.run([BINARY, "--gtest_filter=ReportHtmlTest.WritesTheSampleWhereAsked"], check=True,
                       stdout=subprocess.DEVNULL, env=os.environ | {"ATTUNE_REPORT_SAMPLE": cls.page})

    def keep(self, name, data):
        folder = os.environ.get("ATTUNE_REPORT_PICTURES")
        if folder:
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)

    def check_layout(self, size):
        self.browser.open(self.page, *size)
        seen = self.browser.run(MEASURE)
        self.assertEqual(seen["inner"], size[0])
        self.assertLessEqual(seen["scroll"], seen["inner"])
        for key in ("outside", "drawn", "covering", "clipped", "small"):
            self.assertEqual(seen[key], [], key)
        self.assertEqual((seen["plots"], seen["labels"]), (1, [9]))

    def picture(self, name, size, scheme):
        """The share of each colour, the commonest first, in what the window shows."""
        self.browser.open(self.page, *size, scheme)
        self.keep(f"{name}-whole.png", self.browser.screenshot(captureBeyondViewport=True))
        data = self.browser.screenshot()
        self.keep(f"{name}.png", data)
        width, height, pixels = chromium.pixels_of_png(data)
        self.assertEqual((width, height), size)
        return [(colour, count / len(pixels)) for colour, count in collections.Counter(pixels).most_common()]

    def check_picture(self, name, size, scheme, paper):
        colours = self.picture(name, size, scheme)
        self.assertEqual(colours[0][0], paper)
        # Text and lines cover some of the paper, and not most of it.
        self.assertGreater(1 - colours[0][1], 0.02)
        self.assertLess(1 - colours[0][1], 0.5)
        self.assertGreater(len(colours), 20)

    def test_phone_layout(self):
        self.check_layout(PHONE)

    def test_desktop_layout(self):
        self.check_layout(DESKTOP)

    def test_layout_between(self):
        for width in (320, 600, 719, 721, 800, 1024):
            with self.subTest(width=width):
                self.check_layout((width, 800))

    def test_pictures(self):
        self.check_picture("phone", PHONE, "light", (255, 255, 255))
        self.check_picture("desktop", DESKTOP, "light", (255, 255, 255))
        self.check_picture("phone-dark", PHONE, "dark", (22, 23, 21))
        self.check_picture("desktop-dark", DESKTOP, "dark", (22, 23, 21))

    def test_contrast(self):
        for scheme in ("light", "dark"):
            self.browser.open(self.page, *DESKTOP, scheme)
            seen = self.browser.run(CONTRAST)
            self.assertGreater(seen["count"], 200)
            self.assertEqual(seen["found"], [], scheme)

    def test_print(self):
        self.browser.open(self.page, *DESKTOP)
        data = self.browser.pdf()
        self.keep("report.pdf", data)
        self.assertTrue(data.startswith(b"%PDF"))
        self.assertTrue(2 <= chromium.pages_of_pdf(data) <= 8, chromium.pages_of_pdf(data))

    def test_print_width(self):
        self.browser.open(self.page, 688, 900)  # A4 less its margins
        self.browser.call("Emulation.setEmulatedMedia", media="print")
        seen = self.browser.run(MEASURE)
        self.browser.call("Emulation.setEmulatedMedia", media="")
        self.assertLessEqual(seen["scroll"], seen["inner"])
        for key in ("outside", "drawn", "covering", "clipped"):
            self.assertEqual(seen[key], [], key)

    def test_no_script_runs(self):
        """The page's own policy forbids what an escape that failed would bring in."""
        with open(self.page, encoding="utf-8") as file:
            page = file.read()
        spoilt = self.page.replace("report.html", "spoilt.html")
        with open(spoilt, "w", encoding="utf-8") as file:
            file.write(page.replace("<main>", "<main><script>document.title = 'ran'</script>"))
        self.browser.open(spoilt, *DESKTOP)
        self.assertNotEqual(self.browser.run("document.title"), "ran")


if __name__ == "__main__":
    unittest.main()
