"""What every test runs under: no hub, and the shared preference data where it lies beside the repository."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub; inherited by the tests' subprocesses
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models lose by threads, and much when the machine is busy

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from properties import load_profile
from tiny import WORDS, tiny_llama

load_profile()
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # a suite under nohup: what stays ignored cannot be tested
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="module", autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each test file has a store of reference log-probs of its own, and nobody's home is written to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real preference data beside the repository."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real preference data in ../shared/data")
    return folder


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny Llama whose tokens are the `WORDS` of the test file, where it has its own."""
    return tiny_llama(tmp_path_factory.mktemp("model"), getattr(request.module, "WORDS", WORDS))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for a run, not made yet."""
    return tmp_path / "run"
