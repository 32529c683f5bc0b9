"""Figures and the one-page, self-contained HTML report.

Numbers come in as plain values; nothing here runs a solver. Needs matplotlib and
pillow, the extra `report`.
"""

from diffctl.report.comparison import Comparison as Comparison
from diffctl.report.comparison import Row as Row
from diffctl.report.figure import comparison_figure as comparison_figure
from diffctl.report.page import Page as Page
from diffctl.report.pictures import require_pictures as require_pictures
from diffctl.report.pictures import to_png as to_png
