"""What the machine is asked for."""

import subprocess
import sys

import pytest

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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_the_memory_of_one_tensor_serves_the_next() -> None:
    asked_each_time = page_faults("")
    if asked_each_time < 1000:
        pytest.skip("this C library keeps what is freed by itself")
    kept = page_faults("from preftune.engine import keep_freed_memory; keep_freed_memory()")
    assert kept < asked_each_time / 2
