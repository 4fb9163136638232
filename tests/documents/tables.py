"""The README's generated table of problem codes: ``python -m tests.documents.tables`` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from supervisor.api.describe_problems import PROBLEMS
from supervisor.core.errors import CODES

README = Path(__file__).parents[2] / "README.md"
BEGIN = "<!-- problems: python -m tests.documents.tables -->"
END = "<!-- end of problems -->"


def problem_codes() -> str:
    """Return the table between its marks, both included: by status, then by name."""
    rows = ["| code | status | again? | what to do |", "| --- | --- | --- | --- |"]
    for code, (status, retryable) in sorted(CODES.items(), key=lambda item: (item[1][0], item[0])):
        advice = PROBLEMS[code].advice.replace("|", "\\|")
        rows.append(f"| `{code}` | {status} | {'yes' if retryable else 'no'} | {advice} |")
    return "\n".join([BEGIN, "", *rows, "", END])


def between_marks(document: str) -> str:
    """Return what the document has there, marks included."""
    found = re.search(f"{re.escape(BEGIN)}.*?{re.escape(END)}", document, flags=re.DOTALL)
    return found[0] if found else ""


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(text.replace(between_marks(text), problem_codes()), encoding="utf-8")
