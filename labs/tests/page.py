"""Drives the page of `labs run --ui` in a headless Chromium, over its DevTools protocol on a pair of pipes.

Usage: page.py run BROWSER LABS ENVIRONMENT [FOLDER for screenshots]
       page.py hand BROWSER LABS ENVIRONMENT KUBECONFIG-OF-ANOTHER-CLUSTER [FOLDER for screenshots]
       page.py audit BROWSER LABS ENVIRONMENT AXE.JS HTML-REPORT [FOLDER for screenshots]
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import accessibility

PATIENCE = 120


class Browser:
    def __init__(self, program):
        self.profile = tempfile.mkdtemp()
        commands, self.commands = os.pipe()
        responses, written = os.pipe()

        def descriptors():
            # The protocol's are 3 and 4; first out of the way, since a pipe's may be one of them.
            high = [os.dup2(commands, 200), os.dup2(written, 201)]
            for descriptor, target in zip(high, (3, 4)):
                os.dup2(descriptor, target)

        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        self.process = subprocess.Popen(
            [program, *flags, "--remote-debugging-pipe", "--user-data-dir=" + self.profile, "about:blank"],
            close_fds=False, preexec_fn=descriptors, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(written)
        self.responses = os.fdopen(responses, "rb")
        self.number = 0
        self.session = None
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            text = bytearray()
            while (byte := self.responses.read(1)) != b"\0":
                if not byte:
                    sys.exit("the browser has ended")
                text += byte
            response = json.loads(text)
            if response.get("id") == self.number:
                if "error" in response:
                    sys.exit(f"{method}: {response['error']}")
                return response["result"]

    def evaluate(self, expression, wait=False):
        """Returns the value of an expression, or of the promise that it is."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=wait)
        if "exceptionDetails" in result:
            sys.exit(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, expression):
        """Waits until the expression is true of the page."""
        deadline = time.monotonic() + PATIENCE
        while not self.evaluate(f"Boolean(document.body && ({expression}))"):
            if time.monotonic() > deadline:
                sys.exit(f"never: {expression}\n" + str(self.evaluate("document.body.innerText")))
            time.sleep(0.05)

    def screenshot(self, file):
        data = self.call("Page.captureScreenshot")["data"]
        with open(file, "wb") as out:
            out.write(base64.b64decode(data))

    def size(self, width, height):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def close(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


def run(labs, environment, port, *flags):
    """Starts the labs, and returns the process and the address of the page."""
    command = [labs, "run", "phase3", "phase4", "--environment", environment, f"--ui={port}", *flags]
    command += ["--failures", os.path.join(os.path.dirname(environment), "failures")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("page: "):
            return process, line.split()[1]
    sys.exit("the labs print no address of a page")


def text(element):
    return f"document.getElementById('{element}').textContent"


# A sentence may come from the cluster; what is between two backquotes is code, and nothing is markup.
SENTENCE = """(() => {
  const p = document.createElement('p');
  setSentence(p, '`a<b>` <i> and `c');
  return p.innerHTML;
})()"""


def drive(browser, labs, environment, shots):
    browser.size(1280, 720)
    process, url = run(labs, environment, 0)
    try:
        browser.call("Page.navigate", url=url)
        browser.wait("document.querySelectorAll('.node').length === 3")
        assert browser.evaluate(SENTENCE) == "<code>a&lt;b&gt;</code> &lt;i&gt; and `c"
        # The first paint waits for no other file, and the policy lets the style of the document through.
        assert browser.evaluate("document.querySelectorAll('link[rel=stylesheet]').length") == 0
        assert browser.evaluate("getComputedStyle(document.querySelector('main')).display") == "grid"
        browser.wait("document.querySelectorAll('.pod.ready').length >= 3")
        browser.wait(f"/in all/.test({text('rate')})")
        if shots:
            browser.wait("document.querySelector('#share .bracket')")
            browser.screenshot(os.path.join(shots, "live.png"))
        browser.wait("/^ended after .* every claim/.test(" + text("status") + ")")
        # The server is gone now, and the page says that it waits.
        process.wait(PATIENCE)
        browser.wait("/waits for the next run/.test(" + text("status") + ")")
        judged = "document.querySelectorAll('#claims .holds').length"
        held = browser.evaluate(judged)
        assert held >= 10, held
        # Every step of phase 4 is done, and phase 3 is one folded group.
        groups = "document.querySelectorAll('#claims > .group.done').length"
        browser.wait(groups + " === 12")
        assert browser.evaluate("document.querySelectorAll('#claims .fails').length") == 0
        label = browser.evaluate("document.getElementById('squares').getAttribute('aria-label')")
        assert "1.0:" in label and "2.0:" in label and "failed: 0" in label, label
        assert "500 of 500 requests" in browser.evaluate(text("share-text"))
        # 400% zoom of 1280 pixels: one column, nothing to the right of it.
        browser.size(320, 256)
        assert browser.evaluate("document.documentElement.scrollWidth") <= 320
        browser.size(1280, 720)
        # The next run on the same port, which the open page finds by itself; this one is killed.
        process, _ = run(labs, environment, url.rstrip("/").rsplit(":", 1)[1])
        browser.wait("document.body.dataset.state === 'live'")
        browser.wait("document.querySelectorAll('.pod.ready').length >= 1")
        process.kill()
        browser.wait("document.body.dataset.state === 'disconnected'")
        browser.wait("!document.getElementById('lost').hidden && /No connection/.test(" + text("lost") + ")")
        if shots:
            browser.screenshot(os.path.join(shots, "lost.png"))
    finally:
        process.kill()
        process.wait()


def by_hand(browser, labs, environment, other, shots):
    """Does the first steps of phase 4 with kubectl, and then replaces the cluster."""
    with open(environment) as file:
        described = json.load(file)
    kubeconfig = environment + ".kubeconfig"
    shutil.copy(described["kubeconfig"], kubeconfig)
    kubectl = ["kubectl", "--kubeconfig", kubeconfig, "--namespace", "production"]

    def apply(*files):
        paths = [part for file in files for part in ("-f", os.path.join(described["manifests"], file))]
        subprocess.run([*kubectl, "apply", *paths], check=True, stdout=subprocess.DEVNULL)

    browser.size(1280, 720)
    command = [labs, "ui", "phase4", "--environment", environment, "--kubeconfig", kubeconfig, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        url = next(line.split()[1] for line in process.stderr if line.startswith("page: "))
        browser.call("Page.navigate", url=url)
        browser.wait("document.querySelectorAll('#claims > .group').length === 11")
        browser.wait("/no namespace/.test(" + text("progress") + ")")
        subprocess.run([*kubectl, "create", "namespace", "production"], check=True, stdout=subprocess.DEVNULL)
        apply("lb/app-lb.yml", "lb/app-production.yml")
        browser.wait("document.querySelectorAll('.pod.ready').length === 3")
        # The step's commands unfold, and each can be copied.
        browser.wait("document.querySelector('.group.current details[open] .typed')")
        copy = "document.querySelector('.group.current .typed button')"
        label = browser.evaluate(copy + ".getAttribute('aria-label')")
        assert label.startswith("Copy kubectl --namespace=production apply -f "), label
        browser.evaluate(copy + ".click()")
        browser.wait(f"/Copied|Ctrl-C/.test({copy}.textContent)")
        apply("lb/app-canary.yml")
        browser.wait("document.querySelectorAll('.group.done').length >= 3")
        browser.wait("/^step [45] of 11/.test(" + text("step") + ")")
        assert browser.evaluate("document.documentElement.scrollHeight") <= 720
        if shots:
            browser.screenshot(os.path.join(shots, "hand.png"))
        # As after `down` and `up`: another cluster takes its place, and nothing of the first one is left.
        shutil.copy(other, kubeconfig)
        browser.wait("document.querySelectorAll('.pod').length === 0 && document.querySelectorAll('.node').length === 2")
        browser.wait("document.querySelectorAll('.group.done, .claim.holds').length === 0")
        assert process.poll() is None
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def no_backquotes(browser):
    raw = browser.evaluate("document.body.innerText").splitlines()
    raw = [line for line in raw if "`" in line]
    assert not raw, raw


def audit(browser, labs, environment, axe, report, shots):
    """Audits the page in each of its states, the report of the same run, and the room that it was reported to."""
    with open(axe) as file:
        axe = file.read()

    def shot(name):
        if shots:
            browser.screenshot(os.path.join(shots, name + ".png"))

    room = subprocess.Popen([labs, "room", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    process, found = None, []
    try:
        lines = [room.stdout.readline() for _ in range(4)]
        view, join = lines[0].split()[1], lines[2].split()[-1]
        flags = ["--html", report, "--participant", "Ada", "--room", join]
        process, url = run(labs, environment, 0, *flags)
        browser.call("Page.navigate", url=url)
        browser.wait("document.querySelectorAll('.pod.ready').length >= 3")
        found += accessibility.audit(browser, axe, "live", shot)
        browser.wait("/^ended after/.test(" + text("status") + ")")
        browser.wait("document.querySelector('#claims .fails') && document.querySelector('#command button')")
        browser.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        no_backquotes(browser)
        found += accessibility.audit(browser, axe, "ended", shot) + accessibility.keyboard(browser, "ended")
        # The first stop of the keyboard leads past what cannot be operated.
        browser.evaluate("document.querySelector('.skip').focus()")
        accessibility.press(browser, "Enter")
        browser.wait("location.hash === '#claims'")
        process.wait(PATIENCE)
        # The next run, which is killed as soon as it is seen.
        process, _ = run(labs, environment, url.rstrip("/").rsplit(":", 1)[1])
        browser.wait("document.body.dataset.state === 'live'")
        process.kill()
        browser.wait("!document.getElementById('lost').hidden")
        found += accessibility.audit(browser, axe, "lost", shot)
        browser.call("Page.navigate", url="file://" + os.path.abspath(report))
        browser.wait("document.querySelector('.fault') && document.querySelector('table')")
        no_backquotes(browser)
        found += accessibility.audit(browser, axe, "report", shot) + accessibility.keyboard(browser, "report")
        browser.call("Page.navigate", url=view)
        browser.wait("document.querySelectorAll('#participants tr').length === 1")
        found += accessibility.audit(browser, axe, "room", shot) + accessibility.keyboard(browser, "room")
    finally:
        for started in filter(None, (process, room)):
            started.kill()
            started.wait()
    assert not found, "\n".join([f"{len(found)} problems", *found])


def main():
    mode, program, labs, environment, *rest = sys.argv[1:]
    browser = Browser(program)
    try:
        if mode == "audit":
            audit(browser, labs, environment, *rest[:2], *(rest[2:] or [None]))
        elif mode == "hand":
            by_hand(browser, labs, environment, rest[0], *(rest[1:] or [None]))
        else:
            drive(browser, labs, environment, rest[0] if rest else None)
    finally:
        browser.close()


main()
