"""Makes `from memory_context import MemoryContext` work in the tests of the system accounts."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
