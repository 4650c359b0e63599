"""Figures in, one HTML file out: it needs nothing from elsewhere, runs no script, prints, and follows dark mode.

`page.page(evaluation, folders)` and `page.comparison_page(comparison)`; `plots` draws SVG whose colours are the page's.
"""
