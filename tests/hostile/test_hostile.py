"""Every hostile file is refused with one line, quickly, in little memory, and no code in it runs."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Ended
from hostile_files import make
from refuse_all import complaints
from ropesearch.cli import main

HERE = Path(__file__).parent


@pytest.mark.skipif(sys.platform != "linux", reason="devices and pipes")
def test_some_hostile_files(tmp_path, monkeypatch, capfd):
    folder = tmp_path / "hostile"
    folder.mkdir()
    monkeypatch.chdir(folder)
    wrong = {}
    for case in random.Random(0).sample(list(make(folder, all_of_them=False)), 50):
        code = main(case.arguments)
        ended = Ended(code, *capfd.readouterr(), seconds=0, wall=0, megabytes=0)
        if found := complaints(ended, folder):
            wrong[case.name] = found
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="devices and pipes")
def test_all_hostile_files(tmp_path):
    # A second and 200 MB each where the machine is free; here other tests run beside it.
    code = "import refuse_all; refuse_all.SECONDS = 4; sys.exit(refuse_all.main(sys.argv[1]))"
    command = [
        sys.executable,
        "-P",
        "-c",
        f"import sys; sys.path.insert(0, {str(HERE)!r}); {code}",
        tmp_path / "hostile",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=900
    )
    *results, end = map(json.loads, done.stdout.splitlines())
    assert [(result["name"], result["wrong"]) for result in results if result["wrong"]] == []
    assert (end["files"], end["wrong"]) == (len(results), 0)
    assert end["files"] > 400
    assert done.returncode == 0
