"""A callback that kills its process, for the tests of trackers."""

KILLER = """
import os, signal, sys
from dataclasses import dataclass
import hookline

# As the program does that is started, which here is a fork.
sys.path[:0] = os.environ.get("PYTHONPATH", "").split(os.pathsep)

@hookline.plugin("callback", "killer")
@dataclass
class Killer:
    at: int = 0
    sent: int = 0

    @hookline.hookimpl
    def on_step_end(self, run):
        if run.step != self.at:
            return
        trackers = [member.instance for member in run.members if hasattr(member.instance, "export_run")]
        while any(each._sender.waiting[0] < self.sent for each in trackers):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
"""
"""Kills its process in the step ``at``, once each tracker has ``sent`` points."""
