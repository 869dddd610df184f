"""The bad inputs that the page "When the input is bad" shows, each as a program that meets it."""

from benchmarks.docs.bad_cases.case import Case
from benchmarks.docs.bad_cases.method_inputs import CASES as _METHOD_INPUTS
from benchmarks.docs.bad_cases.stored_files import CASES as _STORED_FILES

__all__ = ["CASES", "Case"]

CASES = (*_METHOD_INPUTS, *_STORED_FILES)
"""Every case of the page, a topic after the other."""
