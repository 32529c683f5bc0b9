"""Restoration of digits: four solvers on five tasks, image by image."""
