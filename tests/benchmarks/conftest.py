"""Scripts in benchmarks/ import each other, as they do when they are run; last in the path, they hide no package."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
