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


@pytest.fixture(scope="session")
def smollm2_gguf():
    """The same model as the package has it, a .gguf file."""
    import smollm2

    return smollm2.gguf_file()
