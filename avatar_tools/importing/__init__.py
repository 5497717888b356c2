"""Makes avatars from training folders, packages, frames and videos: recognise, plan, do.

`plan_import` writes nothing and describes the import; `run_import` does it.
"""

from avatar_tools.importing.options import ImportOptions
from avatar_tools.importing.plan import Plan, plan_import
from avatar_tools.importing.problems import ImportRefused
from avatar_tools.importing.run import Imported, run_import

__all__ = ["ImportOptions", "ImportRefused", "Imported", "Plan", "plan_import", "run_import"]
