"""Makes `from chain_in_process import Chain` work in these tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
