"""Everything that a run recorded, as one page that opens from disk: curves, episodes, tokens, and why a turn has its advantage.

written = write_report(Path("runs/quickstart"))      RUN/report.html, and RUN/report/ with the episodes
written.page, written.n_episodes, written.notes
"""

from agentrl.viewer.report import Report, report_or_reason, write_report

__all__ = ["Report", "report_or_reason", "write_report"]
