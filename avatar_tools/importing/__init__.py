"""Making an avatar of what people have on disk: recognise, plan, do.

`plan_import` looks and says what it would do; `run_import` does it.
"""

from avatar_tools.importing.options import ImportOptions
from avatar_tools.importing.plan import Plan, plan_import
from avatar_tools.importing.problems import ImportRefused
from avatar_tools.importing.run import Imported, run_import

__all__ = ["ImportOptions", "ImportRefused", "Imported", "Plan", "plan_import", "run_import"]
