"""A report of one run or of many: a single HTML file with its figures inside, to look at and to hand on."""

NAME = "report.html"
"""The name of the report in a folder."""
