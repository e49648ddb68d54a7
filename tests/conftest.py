import os

import pytest
from hypothesis import settings

# Nothing here asks the hub, and tokenizers warns where a process that has used its threads forks.
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

# The first example of a test may compile a kernel.
settings.register_profile("ropesearch", deadline=None, print_blob=True)
settings.load_profile("ropesearch")


@pytest.fixture(scope="session")
def smollm2():
    """Folder of SmolLM2-135M-Instruct."""
    import smollm2

    return smollm2.folder()


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run the command line in an empty folder; gives (exit code, stdout, stderr)."""
    from ropesearch.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("ropesearch.cli.progress.LINES_AFTER", float("inf"))  # compiling may take over a second

    def run(*args):
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def one_thread():
    """Let torch use one thread: small products are slower on several, and far slower where other work has the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
