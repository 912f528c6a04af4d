"""What the machine is asked for."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from preftune.model.engine import pick_device, tokens_per_pass
from preftune.training.settings import Settings

REPEAT = """
import resource, torch
{call}
for _ in range(40):  # until the heap is large enough for one beside what else lies in it
    torch.empty(2**24).fill_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.empty(2**24).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call: str) -> int:
    """Pages that the system hands out for ten tensors of 64 MiB, one after the other, once a few have been there."""
    done = subprocess.run([sys.executable, "-c", REPEAT.format(call=call)], capture_output=True, text=True, check=True)
    return int(done.stdout)


RETURN = """
import torch
from pathlib import Path
from preftune.model.engine import keep_freed_memory, return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

keep_freed_memory()
parts = [torch.empty(2**20).fill_(1) for _ in range(128)]  # 512 MiB in pieces
last = torch.empty(2**20).fill_(1)  # nothing above it is free
cycle = [parts[::2]]
cycle.append(cycle)
full = resident()
del parts, cycle
return_freed_memory()
print(full - resident(), float(last.sum()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_what_was_kept_goes_back_to_the_system_when_asked() -> None:
    done = subprocess.run([sys.executable, "-c", RETURN], capture_output=True, text=True, check=True)
    returned, total = map(float, done.stdout.split())
    assert returned > 500 * 2**20 and total == 2**20


def test_a_pass_is_small_on_a_cpu_and_large_elsewhere_unless_it_is_chosen() -> None:
    assert Settings(device="cpu").pass_tokens == 1024
    assert tokens_per_pass(torch.device("cuda")) == 4096
    assert Settings(device="cpu", micro_tokens=7).pass_tokens == 7
    assert Settings(device="cpu").record()["micro_tokens"] == 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_the_memory_of_one_tensor_serves_the_next() -> None:
    asked_each_time = page_faults("")
    if asked_each_time < 1000:
        pytest.skip("this C library keeps what is freed by itself")
    kept = page_faults("from preftune.model.engine import keep_freed_memory; keep_freed_memory()")
    assert kept < asked_each_time / 2


def test_a_gpu_is_named_with_its_number_and_plans_for_no_length(monkeypatch: pytest.MonkeyPatch) -> None:
    found = torch.empty(0)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: SimpleNamespace(device=torch.device("cuda:0")))
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        assert pick_device("cuda") == torch.device("cuda:0")
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: found)
    assert pick_device("cpu") == torch.device("cpu")
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
