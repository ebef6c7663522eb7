"""A program that a sweep may run: the Python text that is its first argument."""

import sys

del sys.argv[0]
exec(sys.argv[0])
