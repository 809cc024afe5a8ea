from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from modelwright.base.heap import kept_heap

SCRIPT = """
import json, resource
from modelwright.base.heap import kept_heap

def faults(rounds=50):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        blocks = [bytearray(2**20) for _ in range(16)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

with kept_heap(False):
    usual = faults()
with kept_heap():
    faults(2)
    kept, held = faults(), resident()
print(json.dumps([usual, kept, held, resident()]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_is_taken_once_and_given_back(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    usual, kept, held, after = json.loads(ran.stdout)
    assert kept < 200 < usual / 10  # pages: 16 MiB are 4,096
    assert after < held - 2000


def test_a_block_that_fails_is_left_like_any_other() -> None:
    with pytest.raises(KeyError), kept_heap():
        raise KeyError
