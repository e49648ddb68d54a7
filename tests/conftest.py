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
def one_thread():
    """Let torch use one thread: small products are slower on several, and far slower where other work has the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
