"""What a hub answers, over HTTP and through huggingface_hub, ends as one line and the right exit code."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import logging

from ropesearch import uniform_bases
from ropesearch.core.model_source import ModelSource

# Status, and what the hub says beside it, by the name of the model.
ANSWERS = {
    "org/missing": (404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}),
    "org/private": (401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."}),
    "org/gated": (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model org/gated is restricted."}),
    "org/disabled": (403, {"X-Error-Message": "Access to this resource is disabled."}),
    "org/silent": None,
}
NO_SUCH_MODEL = (2, "the hub has no such model, or ")
NOT_FETCHED = (1, "could not be fetched from the hub: ")
EXPECTED = {
    "org/missing": NO_SUCH_MODEL,
    "org/private": NO_SUCH_MODEL,
    "org/gated": NO_SUCH_MODEL,
    "org/disabled": (2, "the hub has disabled it"),
    "org/silent": NOT_FETCHED,
}

# All in one process, since each would import torch.
APPLY = """
import sys
from ropesearch.cli import main
for name in sys.argv[1:]:
    code = main(["apply", name, "--bases", "bases.json", "-o", "out", "--quiet"])
    print(code, file=sys.stderr, flush=True)
"""


class Hub(BaseHTTPRequestHandler):
    """Answers whatever is asked about a model by the model's name."""

    def do_GET(self):
        self.server.asked.append(self.path)
        (answer,) = [answer for name, answer in ANSWERS.items() if f"/{name}/" in self.path] or [(404, {})]
        if answer is None:  # the connection is closed
            return
        status, headers = answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815  (so the base class wants it)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def hub():
    """A hub on this machine; gives its address, and the list of what it is asked."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", server.asked
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_what_the_hub_refuses_ends_as_one_line(hub, tmp_path):
    address, asked = hub
    uniform_bases(1e4, 2e4, 2).save(tmp_path / "bases.json")
    there = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-P", "-c", APPLY, *ANSWERS]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | there, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 2 * len(ANSWERS)
    for (name, (code, message)), line, exit_code in zip(EXPECTED.items(), lines[::2], lines[1::2], strict=True):
        assert line.startswith(f"Error: {name} is not a folder here, and {message}")
        assert int(exit_code) == code
        assert any(name in path for path in asked)
    assert not (tmp_path / "out").exists()


def test_the_hub_library_is_quiet_and_the_cause_is_told(monkeypatch):
    levels = []

    def failing(*_, **__):
        levels.append(logging.get_verbosity())
        raise LocalEntryNotFoundError("Please check your connection.") from OSError("500 Server Error\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing)
    before = logging.get_verbosity()
    with pytest.raises(OSError, match=r"org/name is not a folder here, and could not be .* the hub: 500 Server Error$"):
        ModelSource.find("org/name").config()
    assert levels == [logging.ERROR]
    assert logging.get_verbosity() == before
