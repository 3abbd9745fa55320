"""Accessibility of a page in a browser: axe-core, contrast on a projector, zoom, and the order of the keyboard."""

# WCAG 2.2 AA and axe's best practices; of AAA the contrast of 7:1, which a projector in a bright room leaves readable.
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
AXE = """axe.run(document, {
  runOnly: { type: "tag", values: %s },
  rules: { "color-contrast-enhanced": { enabled: true } },
}).then(({ violations, passes }) => ({
  passes: passes.length,
  violations: violations.flatMap(({ id, nodes }) => nodes.map((n) => `${id}: ${n.target}: ${n.failureSummary}: ${n.html}`)),
}))"""
# Of 1280x720: a projector or small laptop, and its zoom of 400%.
SIZES = {"1280x720": (1280, 720), "400% zoom": (320, 180)}


def appearance(browser, theme, contrast="no-preference", motion="no-preference"):
    features = {"prefers-color-scheme": theme, "prefers-contrast": contrast, "prefers-reduced-motion": motion}
    features = [{"name": name, "value": value} for name, value in features.items()]
    browser.call("Emulation.setEmulatedMedia", features=features)


def audit(browser, axe, what, shot=lambda name: None):
    """Returns the violations of the page as it is, in both themes and sizes."""
    found = []
    for theme in ("light", "dark"):
        # Without motion, since axe takes an element that fades in for one of low contrast.
        appearance(browser, theme, motion="reduce")
        for size, (width, height) in SIZES.items():
            browser.size(width, height)
            if browser.evaluate("typeof axe") == "undefined":
                browser.evaluate(axe)
            result = browser.evaluate(AXE % TAGS, wait=True)
            assert result["passes"] > 10, f"{what}: axe tried nothing: {result}"
            found += [f"{what}, {theme}, {size}: {violation}" for violation in result["violations"]]
            wide = browser.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                found.append(f"{what}, {theme}, {size}: {wide} pixels wide")
            shot(f"{what}-{theme}-{width}")
    appearance(browser, "light")
    browser.size(*SIZES["1280x720"])
    return found


# Elements that Tab reaches, in the order of the document.
REACHABLE = """[...document.querySelectorAll("a[href], button, summary, [tabindex='0']")]
  .filter((e) => e.checkVisibility() && !e.disabled)"""
FOCUS = """(() => {
  const e = document.activeElement, box = e.getBoundingClientRect(), style = getComputedStyle(e);
  return { at: %s.indexOf(e), name: e.outerHTML.slice(0, 80), outlined: style.outlineStyle !== "none",
    seen: box.bottom > 0 && box.right > 0 && box.top < innerHeight && box.left < innerWidth };
})()""" % REACHABLE


def press(browser, key):
    code = {"Tab": 9, "Enter": 13}[key]
    for kind in ("rawKeyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


def keyboard(browser, what):
    """Returns what Tab does not reach in the order of the document, out of view, or without an outline."""
    found = []
    browser.evaluate("document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0)")
    count = browser.evaluate(REACHABLE + ".length")
    for expected in range(count):
        press(browser, "Tab")
        focus = browser.evaluate(FOCUS)
        if focus["at"] != expected or not focus["seen"] or not focus["outlined"]:
            found.append(f"{what}: Tab {expected + 1} of {count}: {focus}")
    return found
