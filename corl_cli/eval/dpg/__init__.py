"""DPG-Bench (arXiv 2403.05135): dense prompts, and yes/no questions about what was drawn."""

from corl_cli.eval.dpg.benchmark import Dpg

__all__ = ["Dpg"]
