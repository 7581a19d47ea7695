"""What the refusal of TCP-AO (RFC 5925) says is so: neither the BIRD that the image has nor the lab's kernels know it. A test that fails here means
that the setting can be had now, at least in part.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lbnode.bgp_settings import Peer

pytestmark = pytest.mark.root
# BIRD 2.17 user's guide, section BGP: `authentication none|md5|ao` and `keys`.
SESSION = """\
router id 198.18.0.11;
protocol device {{ }}
protocol bgp peer {{
  local 198.18.0.11 as 65010;
  neighbor 198.18.0.2 as 65001;
  {authentication}
  ipv4 {{ import none; export none; }};
}}
"""


def parsed(authentication: str, folder: Path) -> subprocess.CompletedProcess[str]:
    text = folder / "bird.conf"
    text.write_text(SESSION.format(authentication=authentication))
    return subprocess.run(["bird", "-p", "-c", str(text)], capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("bird") is None, reason="bird is not installed")
def test_the_bird_of_the_image_cannot_read_an_ao_key_but_an_md5_key(tmp_path: Path) -> None:
    refused = parsed('authentication ao; keys { key { id 1; secret "secret"; }; };', tmp_path)
    assert refused.returncode != 0
    assert "syntax error" in refused.stderr
    assert parsed('password "secret";', tmp_path).returncode == 0


@pytest.mark.skipif(shutil.which("bird") is None, reason="bird is not installed")
def test_the_refusal_names_the_version_that_is_there() -> None:
    said = subprocess.run(["bird", "--version"], capture_output=True, text=True, check=True).stderr
    version = re.search(r"[0-9.]+", said)
    assert version is not None
    with pytest.raises(ValueError, match=f"BIRD {re.escape(version[0])} of Debian"):
        Peer.model_validate({"name": "tor1", "address": "198.18.0.2", "asn": 65001, "tcpAo": "key"})


@pytest.mark.skipif(shutil.which("linux.uml") is None, reason="user-mode-linux is not installed")
def test_the_kernel_of_the_labs_machines_has_md5_and_no_ao() -> None:
    built = subprocess.run(["linux.uml", "--showconfig"], capture_output=True, text=True, check=True).stdout
    assert "CONFIG_TCP_MD5SIG=y" in built
    assert "CONFIG_TCP_AO=y" not in built
