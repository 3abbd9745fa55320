"""Measures `labs watch` on an embedded cluster of its own: the time from a patch to the line that shows its effect, and
the time of a reset.

Usage: watch.py KUBE_EMBEDDED LABS IMAGES [ROUNDS]      (after `cargo xtask images`; without dependencies)
"""

import base64
import fcntl
import http.client
import json
import os
import pty
import random
import re
import select
import ssl
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

NAMESPACE = "measured"
DEADLINE = 60


class Api:
    """A client with one connection, so that neither a process nor a handshake is measured."""

    def __init__(self, kubeconfig, folder):
        text = open(kubeconfig).read()
        field = lambda name: base64.b64decode(re.search(name + r":\s*\"?([A-Za-z0-9+/=]+)", text).group(1))
        for name in ("client-certificate-data", "client-key-data", "certificate-authority-data"):
            with open(os.path.join(folder, name), "wb") as file:
                file.write(field(name))
        self.context = context = ssl.create_default_context(cafile=os.path.join(folder, "certificate-authority-data"))
        context.load_cert_chain(os.path.join(folder, "client-certificate-data"), os.path.join(folder, "client-key-data"))
        host, port = re.search(r"server:\s*\"?https://([^:\"\s]+):(\d+)", text).groups()
        self.connection = http.client.HTTPSConnection(host, int(port), context=context)

    def call(self, method, path, body=None, kind="application/json"):
        self.connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": kind})
        response = self.connection.getresponse()
        data = json.loads(response.read())
        assert response.status < 300, data
        return data


class Events(threading.Thread):
    """Another watch of the same object, as the peer: when the API server reports each change of its spec."""

    def __init__(self, api, path, name):
        super().__init__(daemon=True)
        connection = http.client.HTTPSConnection(api.connection.host, api.connection.port, context=api.context)
        connection.request("GET", f"{path}?watch=true&fieldSelector=metadata.name={name}")
        self.response = connection.getresponse()
        self.seen = {}
        self.start()

    def run(self):
        while line := self.response.readline():
            generation = json.loads(line)["object"]["metadata"]["generation"]
            self.seen.setdefault(generation, time.monotonic())


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, arguments, columns=80):
        self.seen = ""
        pid, self.fd = pty.fork()
        if pid == 0:
            os.execv(arguments[0], arguments)
        self.pid = pid
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def wait(self, text, since=0):
        end = time.monotonic() + DEADLINE
        while text not in self.seen[since:]:
            left = end - time.monotonic()
            assert left > 0 and select.select([self.fd], [], [], left)[0], f"no {text!r} in {self.seen[since:]!r}"
            try:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
            except OSError as error:
                raise AssertionError(f"it ended: {self.seen!r}") from error
        return time.monotonic()

    def keys(self, text):
        os.write(self.fd, text.encode())


def environment(folder, images):
    image = lambda version: {
        "version": version, "manifest_name": f"kubeapp:{version}", "name": f"kubeapp:{version}",
        "archive": f"{images}/kubeapp-{version}.tar", "rebuilt": "", "binary": "", "build_input": "",
    }
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return {
        "provider": "embedded", "kubeconfig": f"{folder}/kubeconfig", "started_in": 0.0, "architecture": None,
        "manifests": f"{here}/manifests", "images": [image("1.0"), image("2.0")], "pull_policy": "IfNotPresent",
        "pull_secret": None, "ingress_class": "unnamed", "app": f"{here}/app", "docker": False,
        "timeouts": {"rollout": 60, "address": 30, "request": 10, "propagation": 0},
        "alternative": "nearest-replica", "unsupported": [],
    }


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main():
    program, labs, images = (os.path.abspath(path) for path in sys.argv[1:4])
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 200
    with tempfile.TemporaryDirectory() as folder:
        serve = [program, "serve", "--kubeconfig", f"{folder}/kubeconfig", "--images", images, "--state", folder]
        cluster = subprocess.Popen(serve, stdout=subprocess.PIPE)
        try:
            cluster.stdout.readline()
            with open(f"{folder}/environment.json", "w") as file:
                json.dump(environment(folder, images), file)
            measure(Api(f"{folder}/kubeconfig", folder), labs, f"{folder}/environment.json", rounds)
        finally:
            cluster.terminate()
            cluster.wait()


def measure(api, labs, environment, rounds):
    watch = Terminal([labs, "watch", "phase4", "--environment", environment, "--namespace", NAMESPACE])
    watch.wait("step 1 of")
    resets = []
    for _ in range(10):
        since = len(watch.seen)
        began = time.monotonic()
        watch.keys("r\n")
        resets.append(watch.wait("at the start of phase4", since) - began)
        watch.wait("production 3/3", since)
    deployments = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
    events = Events(api, deployments, "kubeapp-production")
    reactions, peer = [], []
    for number in range(rounds):
        replicas = 3 + number % 2
        since = len(watch.seen)
        began = time.monotonic()
        patch, kind = {"spec": {"replicas": replicas}}, "application/merge-patch+json"
        changed = api.call("PATCH", f"{deployments}/kubeapp-production", patch, kind)
        reactions.append(watch.wait(f"/{replicas} (", since) - began)
        watch.wait(f"{replicas}/{replicas} (", since)
        peer.append(events.seen[changed["metadata"]["generation"]] - began)
        # A person is slower than the checks, which this one meets or not.
        time.sleep(random.uniform(0, 1))
    watch.keys("q")
    os.waitpid(watch.pid, 0)
    for what, values in (("reaction", reactions), ("event at another watch", peer), ("reset", resets)):
        figures = " ".join(f"p{round(share * 100)} {percentile(values, share) * 1000:.1f}" for share in (0.5, 0.99))
        print(f"{what}: {len(values)} times, {figures} max {max(values) * 1000:.1f} ms")


if __name__ == "__main__":
    main()
