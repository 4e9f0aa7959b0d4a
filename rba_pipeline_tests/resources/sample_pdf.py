"""Makes the PDF of the invented sample corpus; the same bytes each time.

Run ``python -m rba_pipeline_tests.resources.sample_pdf FILE`` to write it anew.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from fpdf import FPDF

TITLE = "Report on the Earthquake Drill in the Gold Vault (Invented Sample)"
PAGES = (
    (
        "Published 11 July 2022",
        "This is an invented sample written for testing software. It is not a publication "
        "of the Reserve Bank of Australia, and its people, figures and events are made "
        "up.",
        "On 24 June 2022 the staff of the invented gold vault practised for an earthquake "
        "of magnitude 6. The vault lies eleven metres below a street and holds 2,140 bars "
        "on steel shelves. The drill was to show whether the shelves, the doors and the "
        "people would do what the plan says they do.",
        "The shelves did. Sensors showed that a full shelf sways by four millimetres, far "
        "less than the forty that would let a bar slide. Two shelves in the third row "
        "were found to be bolted to the wall but not to the floor. They have since been "
        "repaired.",
        "The doors did not. The inner door is built to lock itself when the power fails. "
        "It did so, and the guard inside could not open it for nine minutes, because the "
        "hand crank had been taken away for cleaning. A second crank now hangs beside the "
        "first.",
    ),
    (
        "What was learned about counting",
        "After a real earthquake every bar would have to be counted and weighed. In the "
        "drill, two people counted one row in 46 minutes. At that pace the whole vault "
        "would take nine days, and no gold could be moved in the meantime. The auditors "
        "proposed to seal each shelf with a numbered wire: a shelf whose seal is whole "
        "would not have to be counted.",
        "Sealing will begin in September with the rows nearest to the door. The next "
        "drill, on fire, is planned for the winter of 2023 and will be held at night.",
    ),
)


def sample_pdf() -> bytes:
    """Return the report, one page for each entry of ``PAGES``."""
    pdf = FPDF(format="A4")
    pdf.set_creation_date(datetime(2022, 7, 11, tzinfo=UTC))
    pdf.set_title(TITLE)
    pdf.set_producer("invented sample")
    for number, paragraphs in enumerate(PAGES):
        pdf.add_page()
        if number == 0:
            pdf.set_font("helvetica", style="B", size=15)
            pdf.multi_cell(0, 8, TITLE, new_x="LMARGIN", new_y="NEXT")
        pdf.set_font("helvetica", size=11)
        for paragraph in paragraphs:
            pdf.ln(3)
            pdf.multi_cell(0, 6, paragraph, new_x="LMARGIN", new_y="NEXT", align="L")
    return bytes(pdf.output())


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(sample_pdf())
